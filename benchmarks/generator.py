"""A load generator: pre-encoded readings over raw MQTT 5, as fast as the broker acknowledges.

    python -m benchmarks.generator --port 1883 --messages 40000 --readings-per-message 50

It uses the `mqtt5` codec on plain asyncio, because a comfortable client costs more than the service that it is to
measure. Each payload is made once, with a place for the time; a message is a copy with its time put in. Every
(serial, time) is unique, times run up to now in steps of a millisecond. Prints one line of JSON.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mqtt5
import orjson
import uvloop

_PLACE = "@" * 24  # as long as an RFC 3339 time with milliseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_VARIANTS = 4  # payloads with other values, so that rows are not all alike
_ACCEPTED = (mqtt5.PubAckReasonCode.SUCCESS, mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS)
_BURST = 256  # packets joined into one write


@dataclass(frozen=True, slots=True)
class Load:
    """What one connection sends. ``devices`` at most 256, the service's limit for a gateway."""

    gateway: str
    number: int
    messages: int
    readings_per_message: int
    devices: int
    window: int
    until_ms: int
    seed: int = 0

    @property
    def chunks(self) -> int:
        """Messages until every device has reported once (devices that fill no whole message stay silent)."""
        return max(1, self.devices // self.readings_per_message)


@dataclass(slots=True)
class Counts:
    """What became of the messages of one connection."""

    sent: int = 0
    acknowledged: int = 0
    refused: int = 0
    first_s: float = 0.0
    last_s: float = 0.0


def templates(load: Load) -> list[list[bytes]]:
    """``[chunk][variant]``: the JSON of one message, with ``_PLACE`` where each reading's time stands."""
    rng = random.Random(f"{load.seed}/{load.number}")
    out: list[list[bytes]] = []
    for chunk in range(load.chunks):
        devices = [chunk * load.readings_per_message + i for i in range(load.readings_per_message)]
        out.append([_payload(load, devices, rng) for _ in range(_VARIANTS)])
    return out


def _payload(load: Load, devices: list[int], rng: random.Random) -> bytes:
    readings = [
        {
            "serial": f"INV{load.number:02}{device:06}",
            "kind": "inverter",
            "ts": _PLACE,
            "ac_power_w": round(rng.uniform(0, 8000), 1),
            "ac_voltage_v": round(rng.uniform(225, 235), 1),
            "ac_current_a": round(rng.uniform(0, 35), 2),
            "ac_frequency_hz": round(rng.uniform(49.9, 50.1), 3),
            "dc_power_w": round(rng.uniform(0, 8300), 1),
            "energy_total_wh": round(rng.uniform(0, 5e7), 1),
            "temperature_c": round(rng.uniform(10, 60), 1),
        }
        for device in devices
    ]
    return orjson.dumps(readings[0] if load.readings_per_message == 1 else readings)


def payloads(load: Load):
    """Yield ``load.messages`` payloads; every (serial, time) in them is unique."""
    made, chunks = templates(load), load.chunks
    rounds = -(-load.messages // chunks)
    place, began_ms = _PLACE.encode(), load.until_ms - rounds
    left = load.messages
    for turn in range(rounds):
        moment = _EPOCH + timedelta(milliseconds=began_ms + turn)
        stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.").encode() + b"%03dZ" % (moment.microsecond // 1000)
        for chunk in made[: min(left, chunks)]:
            yield chunk[turn % _VARIANTS].replace(place, stamp)
        left -= chunks


class Connection(asyncio.Protocol):
    """One gateway: CONNECT, then PUBLISH packets while the window has room; ``done`` when all are answered."""

    def __init__(self, load: Load, username: str | None, password: str | None) -> None:
        self.counts = Counts()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._credential = (username, password)
        self._payloads = payloads(load)
        self._free: deque[int] = deque()
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._writable = True
        self._topic = f"gw/{load.gateway}/readings"
        self._stream = f"{random.Random(f'{load.seed}/{load.gateway}/{load.until_ms}').getrandbits(64):016x}"

    def connection_made(self, transport) -> None:
        username, password = self._credential
        self._transport = transport
        transport.set_write_buffer_limits(high=4 * 2**20)
        transport.write(
            mqtt5.ConnectPacket(
                self._load.gateway,
                username=username,
                password=None if password is None else password.encode(),
                clean_start=True,
                keep_alive=600,
            ).write()
        )

    def data_received(self, data: bytes) -> None:
        buffer = memoryview(self._received + data if self._received else data)
        at = 0
        while at < len(buffer):
            try:
                packet, size = mqtt5.read(buffer[at:])
            except IndexError:  # the rest of this packet is still on its way
                break
            at += size
            self._handle(packet)
        self._received = bytes(buffer[at:])
        self._fill()

    def _handle(self, packet: mqtt5.Packet) -> None:
        if isinstance(packet, mqtt5.PubAckPacket):
            self._free.append(packet.packet_id)
            if packet.reason_code in _ACCEPTED:
                self.counts.acknowledged += 1
            else:
                self.counts.refused += 1
            if self.counts.acknowledged + self.counts.refused == self._load.messages:
                self.counts.last_s = time.perf_counter()
                self._finish()
        elif isinstance(packet, mqtt5.ConnAckPacket):
            if packet.reason_code != mqtt5.ConnAckReasonCode.SUCCESS:
                self._finish(ConnectionError(f"the broker refused the connection: {packet.reason_code!r}"))
                return
            self._free.extend(range(1, min(self._load.window, packet.receive_max) + 1))
            self.counts.first_s = time.perf_counter()
        elif isinstance(packet, mqtt5.DisconnectPacket):
            self._finish(ConnectionError(f"the broker disconnected: {packet.reason_code!r}"))

    def _fill(self) -> None:
        while self._free and self._writable and self._transport is not None:
            packets = []
            while self._free and len(packets) < _BURST:
                payload = next(self._payloads, None)
                if payload is None:
                    break
                self.counts.sent += 1
                packets.append(
                    mqtt5.PublishPacket(
                        self._topic,
                        payload,
                        qos=mqtt5.QoS.AT_LEAST_ONCE,
                        packet_id=self._free.popleft(),
                        user_properties=[("seq", str(self.counts.sent)), ("stream", self._stream)],
                    ).write()
                )
            if not packets:
                return
            self._transport.write(b"".join(packets))

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._fill()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc or ConnectionError("the broker closed the connection"))

    def _finish(self, error: Exception | None = None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.write(mqtt5.DisconnectPacket().write())
            self._transport.close()


async def generate(
    *,
    host: str,
    port: int,
    credentials: list[tuple[str, str | None]],
    anonymous: bool,
    messages: int,
    readings_per_message: int,
    devices: int,
    window: int,
    seed: int = 0,
) -> dict[str, float | int | str]:
    """Send ``messages`` in all, evenly over one connection for each credential, and count.

    ``seconds``: from the first connection's CONNACK to the last PUBACK; ``cpu_seconds`` of this process in it.
    """
    loop, until_ms = asyncio.get_running_loop(), time.time_ns() // 1_000_000
    count = len(credentials)
    made: list[Connection] = []
    error = ""
    cpu_s = time.process_time()
    try:
        for number, (username, password) in enumerate(credentials[:messages]):
            load = Load(
                gateway=username,
                number=number,
                messages=(messages + count - 1 - number) // count,
                readings_per_message=readings_per_message,
                devices=devices,
                window=window,
                until_ms=until_ms,
                seed=seed,
            )
            connection = Connection(load, None if anonymous else username, password)
            made.append(connection)
            await loop.create_connection(lambda connection=connection: connection, host, port)
        await asyncio.gather(*(connection.done for connection in made))
    except (OSError, ConnectionError) as problem:
        error = str(problem)
    for connection in made:
        connection.close()
        if connection.done.done() and not connection.done.cancelled():
            connection.done.exception()
    return _result([connection.counts for connection in made], readings_per_message, time.process_time() - cpu_s, error)


def _result(counts: list[Counts], readings_per_message: int, cpu_s: float, error: str) -> dict[str, float | int | str]:
    acknowledged = sum(each.acknowledged for each in counts)
    began_s = min((each.first_s for each in counts if each.first_s), default=0.0)
    seconds = max(0.0, max((each.last_s for each in counts), default=0.0) - began_s)
    return {
        "sent": sum(each.sent for each in counts),
        "acknowledged": acknowledged,
        "refused": sum(each.refused for each in counts),
        "readings": acknowledged * readings_per_message,
        "seconds": round(seconds, 4),
        "began_s": began_s,  # of the clock that all processes share (time.monotonic)
        "cpu_seconds": round(cpu_s, 4),
        "messages_per_second": round(acknowledged / seconds, 1) if seconds else 0.0,
        "readings_per_second": round(acknowledged * readings_per_message / seconds, 1) if seconds else 0.0,
        "cpu_us_per_reading": round(cpu_s * 1e6 / max(1, acknowledged * readings_per_message), 4),
        "error": error,
    }


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generator", description=__doc__.split("\n")[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--username", help="one gateway, named so")
    parser.add_argument("--password")
    parser.add_argument("--credentials", type=Path, help='JSON list of {"username", "password"}, a connection each')
    parser.add_argument("--gateways", type=int, default=1, help="anonymous connections, without credentials")
    parser.add_argument("--messages", type=int, default=10_000, help="of all connections together")
    parser.add_argument("--readings-per-message", type=int, default=50)
    parser.add_argument("--devices", type=int, default=250, help="of each gateway, at most 256")
    parser.add_argument("--window", type=int, default=1_000, help="unacknowledged messages of a connection")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if not 1 <= arguments.readings_per_message <= arguments.devices <= 256:
        parser.error("--devices: from a message's readings up to 256, the service's limit")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    if arguments.credentials is not None:
        listed = json.loads(arguments.credentials.read_text())
        credentials = [(each["username"], each["password"]) for each in listed]
    elif arguments.username is not None:
        credentials = [(arguments.username, arguments.password)]
    else:
        credentials = [(f"gen-{number:04}", None) for number in range(1, arguments.gateways + 1)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(
            generate(
                host=arguments.host,
                port=arguments.port,
                credentials=credentials,
                anonymous=arguments.credentials is None and arguments.username is None,
                messages=arguments.messages,
                readings_per_message=arguments.readings_per_message,
                devices=arguments.devices,
                window=arguments.window,
                seed=arguments.seed,
            )
        )
    print(json.dumps(result))
    return 0 if result["acknowledged"] == arguments.messages else 1


if __name__ == "__main__":
    sys.exit(main())
