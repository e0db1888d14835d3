"""TLS towards the broker: 1.2 or newer, the name checked, a client certificate where one is set."""

import ssl

from telemetry.config import BrokerConfig
from telemetry.errors import ConfigurationError


def tls_context(config: BrokerConfig) -> ssl.SSLContext | None:
    """The context for ``config``; None without TLS.

    Raises:
        ConfigurationError: a file cannot be read or is no certificate or key. Names the setting, not its content.

    """
    if not config.tls:
        return None
    context = ssl.create_default_context()  # checks the host name, and the system's authorities
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.ca_file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody yet: the given authority alone counts
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(config.ca_file)
        except OSError as error:
            raise ConfigurationError(
                f"broker.ca_file cannot be used: {error.strerror or 'not a PEM certificate'}",
                remedy="name a PEM file with the certificate of the authority that signed the broker's",
            ) from error
    if config.cert_file is not None and config.key_file is not None:
        try:
            context.load_cert_chain(config.cert_file, config.key_file, password=_no_passphrase)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            raise ConfigurationError(
                f"broker.cert_file and broker.key_file cannot be used: {reason or 'not a matching PEM pair'}",
                remedy="name a PEM certificate and its key, the key without a passphrase",
            ) from error
    return context


def _no_passphrase() -> str:
    """Without it OpenSSL asks on the terminal, and a service would hang."""
    raise ValueError("the key has a passphrase")
