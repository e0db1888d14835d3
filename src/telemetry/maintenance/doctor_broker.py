"""The doctor's look at the broker: one CONNECT as the worker would send it, and what the answer grants.

It leaves no trace: the session is resumed and kept (clean start off, the same expiry), nothing is subscribed and
nothing acknowledged. A broker that knows clients by user name ends the older connection of two, so it must not be
asked while the worker runs; ``check_broker`` is told by the caller, who asks the health endpoint first.
"""

import asyncio
import ssl
import time
from typing import Any, Final

import mqtt5

from telemetry.config import BrokerConfig
from telemetry.errors import SourceError
from telemetry.maintenance.doctor import Finding, fail, ok, skipped, warn
from telemetry.sources.mqtt_packets import SessionSettings, connack_error, connect_packet, packet_length
from telemetry.sources.mqtt_tls import tls_context

_TIMEOUT_S: Final = 10.0
_CERTIFICATE_DAYS: Final = 21
_DAY_S: Final = 86_400
_FEW_IN_FLIGHT: Final = 1_000


async def check_broker(config: BrokerConfig, password: str | None, *, worker_runs: bool) -> list[Finding]:
    """Reachable, TLS, credentials, MQTT 5, and what the broker grants."""
    if worker_runs:
        return [
            ok("broker", "the running service is connected"),
            skipped("broker limits", "asking would end the service's own connection; stop it to see them"),
        ]
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(config.host, config.port, ssl=tls_context(config))
    except ssl.SSLError as error:
        reason = (error.reason or "unknown reason").lower().replace("_", " ")
        remedy = "check broker.ca_file, the certificate's name and date"
        return [fail("broker", f"TLS failed: {reason}", remedy)]
    except (OSError, TimeoutError):
        return [fail("broker", "cannot be reached", "start it, or check broker.host and broker.port")]
    try:
        return await _asked(config, password, reader, writer)
    finally:
        writer.close()


async def _asked(
    config: BrokerConfig, password: str | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> list[Finding]:
    findings = [ok("broker", "reachable"), *_tls(config, writer)]
    settings = SessionSettings(
        client_id=config.client_id,
        username=config.username,
        password=None if password is None else password.encode(),
        keep_alive_s=config.keep_alive_s,
        session_expiry_s=config.session_expiry_s,
        receive_maximum=1,
        max_message_bytes=config.max_message_bytes,
    )
    writer.write(connect_packet(settings))
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            answer = await _connack(reader)
    except (OSError, TimeoutError, EOFError):
        remedy = "see the broker's log; it may speak MQTT 3.1.1 only"
        return [*findings, fail("broker", "closed the connection or did not answer CONNECT", remedy)]
    writer.write(mqtt5.DisconnectPacket().write())
    refused = connack_error(answer)
    if isinstance(refused, SourceError):
        return [*findings, fail("broker", str(refused.args[0]), refused.remedy)]
    return [
        *findings,
        ok("broker", "accepts the worker's credentials and speaks MQTT 5"),
        *_grants(config, answer),
    ]


async def _connack(reader: asyncio.StreamReader) -> Any:
    """The first packet; raises EOFError where it is no CONNACK."""
    received = b""
    while (length := packet_length(memoryview(received))) is None or length > len(received):
        if length == -1 or not (more := await reader.read(4096)):
            raise EOFError
        received += more
    try:
        packet, _ = mqtt5.read(memoryview(received))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the codec's panics are no Exceptions
        raise EOFError from error
    if isinstance(packet, mqtt5.ConnAckPacket):
        return packet
    raise EOFError


def _tls(config: BrokerConfig, writer: asyncio.StreamWriter) -> list[Finding]:
    certificate = writer.get_extra_info("peercert")
    if not config.tls:
        return [ok("broker TLS", "not used on loopback")]
    left = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / _DAY_S
    told = f"the broker's certificate is valid for {left:.0f} more days"
    if left < _CERTIFICATE_DAYS:
        return [warn("broker TLS", told, "renew it")]
    return [ok("broker TLS", told)]


def _grants(config: BrokerConfig, answer: Any) -> list[Finding]:
    """What CONNACK (MQTT 5.0, 3.2.2.3) grants of what the service needs. An absent property is its default."""
    findings = []
    expiry = answer.session_expiry_interval
    if expiry is not None and expiry < config.session_expiry_s:
        findings.append(
            warn(
                "broker limits",
                f"keeps our session for {expiry} s, not {config.session_expiry_s}",
                "raise the broker's limit: messages for an absent worker are lost after it",
            )
        )
    if not answer.wildcard_subscription_available:
        findings.append(fail("broker limits", "offers no wildcard subscriptions", "allow them for the worker"))
    if not answer.retain_available:
        findings.append(
            warn("broker limits", "keeps no retained messages", "allow them: gateways learn from one how far we are")
        )
    largest = answer.max_packet_size
    if largest is not None and largest < config.max_message_bytes:
        findings.append(
            warn("broker limits", f"takes packets of up to {largest} bytes", "lower broker.max_message_bytes to it")
        )
    if config.receive_maximum < _FEW_IN_FLIGHT:
        findings.append(
            warn(
                "broker limits",
                f"broker.receive_maximum is {config.receive_maximum}",
                "raise it: at most so many messages travel per commit",
            )
        )
    return findings or [ok("broker limits", "session, packet size and subscriptions are as asked for")]
