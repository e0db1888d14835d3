"""The one sender of e-mail. SMTP (RFC 5321) under TLS; in clear on loopback only.

One connection a mail: mails are few. A mail has one addressee and plain text (RFC 5322), and says that a machine
wrote it (RFC 3834). Errors name a reply code, never an address, nor what the server said: that quotes addresses.
"""

import asyncio
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

import aiosmtplib

from telemetry.config import MailConfig
from telemetry.deliver.authority import tls_context
from telemetry.errors import ConfigurationError, DeliveryRefused, DeliveryUnavailable, NotConfigured


@dataclass(frozen=True, slots=True)
class Mail:
    """One mail. ``to``: one address; ``subject``: one line; ``text``: plain."""

    to: str = field(repr=False)
    subject: str = field(repr=False)
    text: str = field(repr=False)


class Mailer:
    """Sends mails as configured. Safe for any number of callers in one event loop."""

    def __init__(self, config: MailConfig) -> None:
        """Read nothing yet: files are read when a mail is sent, so that a new password needs no restart."""
        self._config = config

    @property
    def configured(self) -> bool:
        """Whether a server is named."""
        return bool(self._config.host)

    @property
    def link_base(self) -> str:
        """What links begin with, without a slash at the end; empty where mails shall name none."""
        return self._config.link_base.rstrip("/")

    async def send(self, mail: Mail) -> None:
        """Hand over one mail; returning means that the server took it.

        Raises:
            NotConfigured: no server is configured.
            DeliveryRefused: no address, or the server refuses this mail for good (5yz).
            DeliveryUnavailable: the server is away, slow, not trusted, or says to come again (4yz); try again.
            ConfigurationError: the password or the authority cannot be read, or the server refuses the password.

        """
        config = self._config
        if not config.host:
            raise NotConfigured("no mail is sent: no server is configured", remedy="set host and sender in [mail]")
        message = _message(config.sender, mail)
        client = aiosmtplib.SMTP(
            hostname=config.host,
            port=config.port,
            local_hostname=_domain(config.sender),
            timeout=config.timeout_s,
            use_tls=config.encryption == "tls",
            start_tls=config.encryption == "starttls",  # required: without it the server is refused
            tls_context=None if config.encryption == "none" else tls_context(config.ca_file, "mail"),
            username=config.username,
            password=_password(config),
        )
        try:
            async with asyncio.timeout(config.timeout_s), client:
                await client.send_message(message, sender=config.sender, recipients=[mail.to])
        except aiosmtplib.SMTPAuthenticationError as error:
            raise ConfigurationError(
                f"the mail server refuses the password (SMTP {error.code})", remedy="set mail.username and its file"
            ) from None
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            raise _translated(error) from None
        finally:
            client.close()


def _message(sender: str, mail: Mail) -> EmailMessage:
    message = EmailMessage(policy=SMTP)
    try:
        message["From"] = Address(addr_spec=sender)
        message["To"] = Address(addr_spec=mail.to)
        message["Subject"] = mail.subject
        mail.to.encode("ascii")
    except (ValueError, MessageError, IndexError):
        # Not chained: the cause quotes the address.
        raise DeliveryRefused("this is not an address and a subject", remedy="correct the address") from None
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = f"<{secrets.token_hex(16)}@{_domain(sender)}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(mail.text)
    return message


def _domain(address: str) -> str:
    return address.rpartition("@")[2] or "localhost"


def _translated(error: Exception) -> DeliveryRefused | DeliveryUnavailable:
    code = getattr(error, "code", None)
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        code = max((refused.code for refused in error.recipients), default=None)
    if isinstance(code, int) and 500 <= code < 600:
        return DeliveryRefused(f"the mail server refuses a mail (SMTP {code})", remedy="correct the address")
    said = f"SMTP {code}" if isinstance(code, int) and code > 0 else type(error).__name__
    return DeliveryUnavailable(f"the mail server took no mail ({said})", remedy="look at host and TLS in [mail]")


def _password(config: MailConfig) -> str | None:
    if config.password_file is None:
        return None
    try:
        return config.password_file.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(
            f"mail.password_file cannot be read: {reason}", remedy="name a file (0600) with the password"
        ) from None
