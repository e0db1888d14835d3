"""Stage ``decode``: JSON messages of 50 readings to columns, on one core, against the JSON parser alone.

The limit is msgspec reading the same payloads to untyped objects: no columns, no checks. Rounds alternate.
Besides: one reading a message, columns, Arrow streams and SenML packs of the same readings; and every dialect of the
simulator (formats that carry a value or few a message), per message and per value, beside native JSON with one reading
a message. What announces is decoded before; the memory of each gateway is there, as in a worker that runs.
"""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # before polars is imported

import time
from itertools import islice
from typing import Any

import msgspec
import orjson
import pyarrow as pa

from benchmarks.generator import Load, payloads
from benchmarks.measure import CpuMeter, alternate, result
from device_sim.dialects import DIALECTS
from device_sim.fleet import FleetSettings, timeline
from device_sim.fleet import messages as fleet_messages
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import IDENTITY
from telemetry.codecs.native_arrow import CONTENT_TYPE as ARROW
from telemetry.codecs.registry import decode_batch, decode_remembering
from telemetry.codecs.state import EMPTY
from telemetry.memory import calm_garbage_collection, keep_freed_memory
from telemetry.model.batch import RawMessage

LIMITS = CodecLimits()
DEVICES = 250


def messages_of(count: int, readings_per_message: int) -> list[RawMessage]:
    """Messages as the load generator sends them, of eight gateways in turn."""
    now_ms = time.time_ns() // 1_000_000
    loads = [
        payloads(Load(f"gw-{number}", number, count // 8, readings_per_message, DEVICES, 100, now_ms))
        for number in range(8)
    ]
    return [
        RawMessage(f"gw-{number}", "readings", payload, 0, now_ms * 1000)
        for turn in zip(*loads, strict=True)
        for number, payload in enumerate(turn)
    ]


def as_columns(messages: list[RawMessage]) -> list[RawMessage]:
    """The same readings, each message as one object of arrays."""
    made = []
    for message in messages:
        readings = orjson.loads(message.payload)
        columns = {name: [reading[name] for reading in readings] for name in readings[0]}
        made.append(message._replace(payload=orjson.dumps(columns)))
    return made


def as_arrow(messages: list[RawMessage]) -> list[RawMessage]:
    """The same readings, each message as an Arrow stream."""
    made = []
    for message in messages:
        table = pa.Table.from_pylist(orjson.loads(message.payload))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        made.append(message._replace(payload=sink.getvalue().to_pybytes(), content_type=ARROW))
    return made


def as_senml(messages: list[RawMessage]) -> list[RawMessage]:
    """The same readings as SenML packs, a record for each value."""
    made = []
    for message in messages:
        pack = [
            {"n": f"{reading['serial']}/{name}", "t": number + 1.7e9, "v": value}
            for number, reading in enumerate(orjson.loads(message.payload))
            for name, value in reading.items()
            if name not in IDENTITY
        ]
        made.append(message._replace(topic="senml", payload=orjson.dumps(pack)))
    return made


def alone(messages: list[RawMessage], readings: int, rounds: int) -> dict[str, int]:
    """Readings a second of decoding, where no JSON parser is the limit."""
    seconds = alternate(rounds, {"decode": lambda: decode_batch(messages, LIMITS)})
    return {"readings_per_second": round(readings / seconds["decode"])}


def spoken(name: str, count: int) -> list[RawMessage]:
    """Messages of a dialect, of eight gateways in turn; all that announce come first."""
    start_s = time.time() - 86_400
    settings = FleetSettings(format=name, gateways=8, start_s=start_s, speed=float("inf"), interval_s=60.0)
    times = timeline(settings, time.time())
    every = [
        [
            RawMessage(gateway, one.topic, one.payload, 0, round(start_s * 1e6), retained=one.retain)
            for one in islice(fleet_messages(settings, times, number), count // 8)
        ]
        for number, gateway in enumerate(settings.names)
    ]
    return [message for turn in zip(*every, strict=True) for message in turn]


def dialect(name: str, rounds: int) -> dict[str, float]:
    """Messages and values a second of one dialect, with its memories at hand, and µs of each."""
    messages = spoken(name, 4_000)
    memories = decode_remembering(messages, LIMITS, lambda *_: EMPTY).memories
    told = [message for message in messages[1_600:] if not message.retained]  # past what announces

    def decode() -> Any:
        return decode_remembering(told, LIMITS, lambda gateway, codec: memories.get((gateway, codec), EMPTY))

    rows = decode().decoded.rows
    values = sum(rows[column].len() - rows[column].null_count() for column in rows.columns[4:])
    assert rows.height > 0.9 * len(told)
    seconds = alternate(rounds, {"decode": decode})["decode"]
    return {
        "messages_per_second": round(len(told) / seconds),
        "values_per_second": round(values / seconds),
        "us_per_message": round(1e6 * seconds / len(told), 2),
        "us_per_value": round(1e6 * seconds / values, 2),
    }


def native_alone(messages: list[RawMessage], rounds: int) -> dict[str, float]:
    """The same of native JSON with one reading a message."""
    rows = decode_batch(messages, LIMITS).rows
    values = sum(rows[column].len() - rows[column].null_count() for column in rows.columns[4:])
    seconds = alternate(rounds, {"decode": lambda: decode_batch(messages, LIMITS)})["decode"]
    return {
        "messages_per_second": round(len(messages) / seconds),
        "values_per_second": round(values / seconds),
        "us_per_message": round(1e6 * seconds / len(messages), 2),
        "us_per_value": round(1e6 * seconds / values, 2),
    }


def rate(messages: list[RawMessage], readings: int, rounds: int) -> dict[str, float]:
    """Readings a second of decoding and of parsing alone, in alternate rounds."""
    seconds = alternate(
        rounds,
        {
            "decode": lambda: decode_batch(messages, LIMITS),
            "parse": lambda: [msgspec.json.decode(message.payload) for message in messages],
        },
    )
    return {name: readings / value for name, value in seconds.items()}


def run(quick: bool) -> dict[str, Any]:
    """Measure; see the module. Rates in readings a second, CPU in µs a reading."""
    keep_freed_memory()
    rounds = 7 if quick else 25
    many, single = messages_of(2_000, 50), messages_of(2_000, 1)
    columns = as_columns(many)
    assert decode_batch(many, LIMITS).rows.height == decode_batch(columns, LIMITS).rows.height == 100_000
    calm_garbage_collection()
    found = rate(many, 100_000, rounds)
    with CpuMeter({"decode": os.getpid()}) as meter:
        for _ in range(rounds):
            decode_batch(many, LIMITS)
    ones, tables = rate(single, 2_000, rounds), rate(columns, 100_000, rounds)
    return result(
        readings_per_second=found["decode"],
        limit_per_second=found["parse"],
        cpu_us_per_reading=meter.per_reading(100_000 * rounds),
        single={"messages_per_second": round(ones["decode"]), "ratio": round(ones["decode"] / ones["parse"], 3)},
        columns={
            "readings_per_second": round(tables["decode"]),
            "ratio": round(tables["decode"] / tables["parse"], 3),
        },
        arrow=alone(as_arrow(many[:400]), 20_000, rounds),
        senml=alone(as_senml(many[:40]), 2_000, rounds),
        formats={"native-json": native_alone(single, rounds)} | {name: dialect(name, rounds) for name in DIALECTS},
        readings_per_message=50,
    )
