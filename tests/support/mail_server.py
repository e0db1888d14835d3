"""A real SMTP server on loopback for one test (aiosmtpd): keeps what it is sent, or refuses it as told."""

import asyncio
import email
import email.policy
import ssl
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult

from telemetry.config import MailConfig
from tests.support.certificates import Certificates

USER, PASSWORD = "mailer", "a password for tests"


@dataclass
class MailServer:
    """``async with MailServer() as server``: ``server.config()`` is a [mail] section, ``server.mails`` what came.

    ``replies``: what is answered to the next mails in place of taking them, as "451 come again"; then all are taken.
    With ``certificates`` it speaks TLS ("starttls" or "tls"); with ``authenticate`` it wants USER and PASSWORD.
    """

    certificates: Certificates | None = None
    encryption: str = "none"
    authenticate: bool = False
    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[tuple[str, list[str]]] = field(default_factory=list)
    replies: list[str] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_DATA(self, server, session, envelope) -> str:
        if self.authenticate and not session.authenticated:
            return "530 authenticate first"
        if self.replies:
            return self.replies.pop(0)
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        self.envelopes.append((envelope.mail_from, list(envelope.rcpt_tos)))
        self.arrived.set()
        return "250 taken"

    async def handle_RCPT(self, server, session, envelope, address, options) -> str:
        if address.startswith("nobody"):
            return f"550 no such mailbox {address}"
        envelope.rcpt_tos.append(address)
        return "250 known"

    async def mail(self, to: str | None = None, timeout_s: float = 10.0) -> EmailMessage:
        """The newest mail (to an address), as soon as there is one."""
        async with asyncio.timeout(timeout_s):
            while True:
                found = [mail for mail in self.mails if to is None or mail["To"] == to]
                if found:
                    return found[-1]
                self.arrived.clear()
                await self.arrived.wait()

    def config(self, **more) -> MailConfig:
        ca = {} if self.certificates is None else {"ca_file": self.certificates.ca}
        host = "127.0.0.1" if self.certificates is None else "localhost"  # the certificate's name
        settings = {"sender": "service@example.invalid", "timeout_s": 5.0, "encryption": self.encryption}
        return MailConfig(**({"host": host, "port": self.port} | settings | ca | more))

    async def __aenter__(self) -> Self:
        settings: dict[str, Any] = {}
        context = None
        if self.certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificates.server_cert, self.certificates.server_key)
        if self.encryption == "starttls":
            settings |= {"tls_context": context, "require_starttls": True}
        if self.authenticate:
            # of "tls" it does not see that the socket is under TLS already
            settings |= {"authenticator": _known, "auth_require_tls": self.encryption == "starttls"}
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="localhost", loop=loop, **settings),
            "127.0.0.1",
            0,
            ssl=context if self.encryption == "tls" else None,
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.close()
        await self._server.wait_closed()


def _known(server, session, envelope, mechanism, data) -> AuthResult:
    return AuthResult(success=(data.login, data.password) == (USER.encode(), PASSWORD.encode()), handled=False)
