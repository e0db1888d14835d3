"""One attempt to tell a webhook something: signed as Standard Webhooks have it, sent where it may be sent, and judged.

https://github.com/standard-webhooks/standard-webhooks: headers ``webhook-id``, ``webhook-timestamp`` (seconds) and
``webhook-signature: v1,<base64 of HMAC-SHA256 over id.timestamp.body>``, secrets written as ``whsec_<base64>``.
"""

import asyncio
import base64
import contextlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

import httpx

from telemetry.config import WebhooksConfig
from telemetry.deliver.address import Target, parse, resolve
from telemetry.deliver.authority import tls_context
from telemetry.errors import DeliveryRefused, DeliveryUnavailable

SECRET_BYTES: Final = 32
_PREFIX: Final = "whsec_"
_GONE: Final = 410
_AGENT: Final = "telemetry-webhooks/1"


def new_secret() -> bytes:
    """256 random bits."""
    return secrets.token_bytes(SECRET_BYTES)


def shown_secret(secret: bytes) -> str:
    """As it is handed out, once."""
    return _PREFIX + base64.b64encode(secret).decode()


def signature(secret: bytes, message_id: str, timestamp_s: int, body: bytes) -> str:
    """What the header ``webhook-signature`` says."""
    signed = b".".join([message_id.encode(), str(timestamp_s).encode(), body])
    return "v1," + base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()


class WebhookSender:
    """Posts to webhooks. One event loop, any number of callers. No cookies, proxies or redirects, one try a call."""

    def __init__(self, config: WebhooksConfig, *, clock: Callable[[], float] = time.time) -> None:
        """Raises ConfigurationError where the authority cannot be read."""
        self._config, self._clock = config, clock
        self._context = tls_context(config.ca_file, "webhooks")

    async def post(self, url: str, secret: bytes, message_id: str, body: bytes) -> None:
        """Send ``body`` (JSON); returning means that it was taken (2xx).

        Raises:
            AddressRefused: the address is none to send to, or is no longer.
            DeliveryRefused: it says that it is gone for good (410).
            DeliveryUnavailable: anything else; the text names a status or a kind of failure, never an address.

        """
        target = parse(url, loopback=self._config.loopback)
        timestamp = int(self._clock())
        headers = {
            "host": target.authority,
            "content-type": "application/json",
            "user-agent": _AGENT,
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(secret, message_id, timestamp, body),
        }
        try:
            async with asyncio.timeout(self._config.timeout_s):
                addresses = await resolve(target, loopback=self._config.loopback)
                status = await self._first(target, addresses, headers, body)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, OSError, ValueError) as error:
            raise DeliveryUnavailable(f"a webhook was not reached ({type(error).__name__})") from None
        if status == _GONE:
            raise DeliveryRefused("a webhook says that it is gone (HTTP 410)")
        if not 200 <= status < 300:
            raise DeliveryUnavailable(f"a webhook did not take a message (HTTP {status})")

    async def _first(self, target: Target, addresses: list[str], headers: dict[str, str], body: bytes) -> int:
        """The answer of the first address that can be connected to."""
        for address in addresses[:-1]:
            with contextlib.suppress(httpx.ConnectError):
                return await self._status(target, address, headers, body)
        return await self._status(target, addresses[-1], headers, body)

    async def _status(self, target: Target, address: str, headers: dict[str, str], body: bytes) -> int:
        """The answer's status; what it says is not read."""
        literal = f"[{address}]" if ":" in address else address
        url = f"{target.scheme}://{literal}:{target.port}{target.path}"
        transport = httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, retries=0)
        async with (
            httpx.AsyncClient(
                transport=transport, follow_redirects=False, trust_env=False, timeout=self._config.timeout_s
            ) as client,
            client.stream(
                "POST", url, content=body, headers=headers, extensions={"sni_hostname": target.host}
            ) as response,
        ):
            return response.status_code
