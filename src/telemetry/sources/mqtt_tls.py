"""How the broker and we know each other: TLS 1.2 or newer, the name checked, a certificate or a password where set."""

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


def broker_password(config: BrokerConfig, given: str | None) -> str | None:
    """``given``, or what ``broker.password_file`` holds; None without either.

    Raises:
        ConfigurationError: the file cannot be read.

    """
    if given is not None or config.password_file is None:
        return given
    try:
        return config.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"broker.password_file cannot be read: {reason}", remedy="name a file (0600) with the password"
        ) from error


def _no_passphrase() -> str:
    """Without it OpenSSL asks on the terminal, and a service would hang."""
    raise ValueError("the key has a passphrase")
