"""Whom deliveries trust: the machine's authorities, or one that the configuration names."""

import ssl
from pathlib import Path

from telemetry.errors import ConfigurationError


def tls_context(ca_file: Path | None, section: str) -> ssl.SSLContext:
    """TLS 1.2 or newer. ``section``: of the configuration, for errors.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.

    """
    context = ssl.create_default_context()
    if ca_file is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody yet: the given authority alone counts
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:
            raise ConfigurationError(
                f"{section}.ca_file cannot be used: {error.strerror or 'not a PEM certificate'}",
                remedy="name a PEM file with the certificate of the authority that signed the server's",
            ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
