"""Listening to one gateway's prefix at the broker, beside the service and under another user's name."""

import asyncio
import contextlib
import time
from typing import Final

import aiomqtt

from telemetry.config import BrokerConfig
from telemetry.errors import SourceRefused, SourceUnavailable
from telemetry.maintenance.identify import MAX_BYTES, MAX_MESSAGES, to_message
from telemetry.model.batch import RawMessage
from telemetry.sources.mqtt_tls import tls_context

_CONNECT_WITHIN_S: Final = 5.0  # a user that was just admitted may be unknown for a moment
_RETRY_S: Final = 0.25


async def listen(
    config: BrokerConfig, gateway: str, seconds: float, *, username: str | None, password: str | None
) -> list[RawMessage]:
    """What arrives below ``gw/<gateway>/`` within ``seconds``, what is retained there first; not more than
    MAX_MESSAGES or MAX_BYTES. Takes no message away from anybody.

    Raises:
        SourceRefused: the broker does not let this user in, or read there.
        SourceUnavailable: it cannot be reached, or ended the connection.

    """
    deadline = time.monotonic() + _CONNECT_WITHIN_S
    while True:
        client = aiomqtt.Client(
            config.host,
            config.port,
            username=username,
            password=password,
            identifier=username,
            protocol=aiomqtt.ProtocolVersion.V5,
            tls_context=tls_context(config),
        )
        try:
            return await _listen(client, gateway, seconds)
        except (aiomqtt.MqttError, OSError) as error:
            if time.monotonic() > deadline:
                raise SourceUnavailable(
                    f"could not listen at the broker ({type(error).__name__})",
                    remedy="check broker.host and broker.port, and that this user may read the gateway's prefix",
                ) from None
            await asyncio.sleep(_RETRY_S)


async def _listen(client: aiomqtt.Client, gateway: str, seconds: float) -> list[RawMessage]:
    found: list[RawMessage] = []
    size = 0
    async with client:
        granted = await client.subscribe(f"gw/{gateway}/#", qos=0)
        if any(getattr(code, "value", code) >= 0x80 for code in granted):
            raise SourceRefused("the broker does not let this user read the gateway's prefix")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for message in client.messages:
                    payload = bytes(message.payload) if isinstance(message.payload, bytes | bytearray) else b""
                    size += len(payload)
                    now_us = time.time_ns() // 1000
                    found.append(to_message(str(message.topic), payload, now_us, bool(message.retain)))
                    if len(found) >= MAX_MESSAGES or size > MAX_BYTES:
                        break
    return found
