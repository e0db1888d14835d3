"""Stage ``decode``: JSON messages of 50 readings to columns, on one core, against the JSON parser alone.

The limit is msgspec reading the same payloads to untyped objects: no columns, no checks. Rounds alternate.
Besides: one reading a message, columns, Arrow streams and SenML packs of the same readings.
"""

import os

os.environ["POLARS_MAX_THREADS"] = "1"  # before polars is imported

import time
from typing import Any

import msgspec
import orjson
import pyarrow as pa

from benchmarks.generator import Load, payloads
from benchmarks.measure import CpuMeter, alternate, result
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import IDENTITY
from telemetry.codecs.native_arrow import CONTENT_TYPE as ARROW
from telemetry.codecs.registry import decode_batch
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
        readings_per_message=50,
    )
