"""A Sparkplug B payload as plain values: Eclipse Tahu's message, as far as a meter of energy needs it.

Source: the Sparkplug specification 3.0, chapter 6 (payloads) and its schema. What is not listed here (metadata,
templates, data sets, files, bodies) is stepped over unread; a metric whose value is one of these has ``NOT_A_NUMBER``.
"""

import struct
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

import numpy as np

from telemetry.codecs.protobuf_wire import BYTES, FIXED32, FIXED64, VARINT, WireError, fields

_MAX_FIELDS_A_METRIC: Final = 64
_MAX_PROPERTIES: Final = 128
_SIGNED_BITS: Final = {1: 8, 2: 16, 3: 32, 4: 64}


class DataType(IntEnum):
    """The types of a metric that this service reads (section 6.4.16)."""

    UNKNOWN = 0
    INT8 = 1
    INT64 = 4
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


class NotANumber(Enum):
    """A value that no field can hold: text, bytes, a date, a data set, a template, an array."""

    NOT_A_NUMBER = "not a number"


NOT_A_NUMBER: Final = NotANumber.NOT_A_NUMBER
Value = int | float | bool | str | NotANumber | None


@dataclass(slots=True)
class Metric:
    """One metric. ``alias`` and ``name``: at least one, by the specification. ``datatype``: 0 where it is not said.
    ``raw``: the value as it stands, with the number of the field that held it. ``unit``: property ``engUnit``.
    ``unread``: what else there was: "property" for each other one, "metadata", "field" for one of tomorrow's schema.
    """

    name: str = ""
    alias: int | None = None
    timestamp_ms: int | None = None
    datatype: int = 0
    is_transient: bool = False
    is_null: bool = False
    raw: int | bytes | None = None
    raw_field: int = 0
    unit: str = ""
    unread: list[str] = field(default_factory=list)

    @property
    def is_integer(self) -> bool:
        """Whether its value stands in one of the integer fields."""
        return not self.is_null and self.raw_field in {_INT_VALUE, _LONG_VALUE}

    def value(self, datatype: int) -> Value:
        """The value as ``datatype`` has it; None where the metric says that there is none.

        Integers of any width are accepted in either integer field, and reals in either real field: libraries differ.
        """
        if self.is_null or self.raw is None:
            return None
        if isinstance(self.raw, int):
            return bool(self.raw) if self.raw_field == _BOOLEAN_VALUE else _integer(self.raw, datatype)
        if self.raw_field == _FLOAT_VALUE:
            return float(str(np.frombuffer(self.raw, "<f4")[0]))  # the shortest decimal that is this float
        if self.raw_field == _DOUBLE_VALUE:
            return float(struct.unpack("<d", self.raw)[0])
        if self.raw_field == _STRING_VALUE and datatype in {DataType.STRING, DataType.UNKNOWN}:
            return self.raw.decode("utf-8", "replace")
        return NOT_A_NUMBER


@dataclass(slots=True)
class Payload:
    """One message. ``seq``: 0 to 255. ``unread``: as a metric's; UUID and body are among them."""

    timestamp_ms: int | None = None
    seq: int | None = None
    metrics: list[Metric] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


# The schema's numbers of a metric's fields, and the wire type of each.
_INT_VALUE, _LONG_VALUE, _FLOAT_VALUE, _DOUBLE_VALUE, _BOOLEAN_VALUE, _STRING_VALUE = range(10, 16)
_METADATA, _PROPERTIES, _VALUES = 8, 9, range(_INT_VALUE, 20)
_WIRE_TYPES: Final = {
    1: BYTES, 2: VARINT, 3: VARINT, 4: VARINT, 5: VARINT, 6: VARINT, 7: VARINT, _METADATA: BYTES, _PROPERTIES: BYTES,
    _INT_VALUE: VARINT, _LONG_VALUE: VARINT, _FLOAT_VALUE: FIXED32, _DOUBLE_VALUE: FIXED64, _BOOLEAN_VALUE: VARINT,
    _STRING_VALUE: BYTES, 16: BYTES, 17: BYTES, 18: BYTES, 19: BYTES,
}  # fmt: skip


def read_payload(content: bytes, max_metrics: int) -> Payload:
    """The payload that ``content`` is.

    Raises:
        WireError: it is none, has more than ``max_metrics`` metrics or a field of another type than the schema's.

    """
    payload = Payload()
    for number, kind, value in fields(content, max_metrics + 8):
        match number, kind, value:
            case 1, 0, int(timestamp):
                payload.timestamp_ms = timestamp
            case 2, 2, bytes(metric):
                payload.metrics.append(_metric(metric))
            case 3, 0, int(seq):
                payload.seq = seq
            case ((1 | 2 | 3), _, _):
                raise WireError("a field of another type than the schema's")
            case _:
                payload.unread.append("field")
    return payload


def _metric(content: bytes) -> Metric:
    metric = Metric()
    for number, kind, value in fields(content, _MAX_FIELDS_A_METRIC):
        if _WIRE_TYPES.get(number, kind) != kind:
            raise WireError("a field of another type than the schema's")
        if number in _VALUES:
            metric.raw, metric.raw_field = value, number
        elif isinstance(value, int):
            _set_number(metric, number, value)
        elif number == 1:
            metric.name = _text(value)
        elif number == _PROPERTIES:
            _read_properties(value, metric)
        else:
            metric.unread.append("metadata" if number == _METADATA else "field")
    return metric


def _set_number(metric: Metric, number: int, value: int) -> None:
    match number:
        case 2:
            metric.alias = value
        case 3:
            metric.timestamp_ms = value
        case 4:
            metric.datatype = value
        case 6:
            metric.is_transient = bool(value)
        case 5:
            pass  # is_historical: a reading like any other, at its own time
        case 7:
            metric.is_null = bool(value)
        case _:
            metric.unread.append("field")


def _read_properties(content: bytes, metric: Metric) -> None:
    """The property ``engUnit``, where there is one as text; of the others only the names."""
    keys: list[str] = []
    values: list[bytes] = []
    for number, kind, value in fields(content, 2 * _MAX_PROPERTIES):
        if number == 1 and kind == BYTES and isinstance(value, bytes):
            keys.append(_text(value))
        elif number == 2 and kind == BYTES and isinstance(value, bytes):
            values.append(value)
    for key, held in zip(keys, values, strict=False):
        if key == "engUnit":
            texts = [one.value for one in fields(held, 16) if one.number == 8 and isinstance(one.value, bytes)]
            metric.unit = _text(texts[-1]) if texts else ""
        else:
            metric.unread.append("property")


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise WireError("a text that is not UTF-8") from None


def _integer(number: int, datatype: int) -> Value:
    """An integer field by its type: two's complement of the type's width where it is signed (section 6.4.17)."""
    if datatype in _SIGNED_BITS:
        bits = _SIGNED_BITS[datatype]
        number &= (1 << bits) - 1
        return number - (1 << bits) if number >> (bits - 1) else number
    if datatype in range(DataType.INT8, DataType.DOUBLE + 1) or datatype == DataType.UNKNOWN:
        return number
    if datatype == DataType.BOOLEAN:
        return bool(number)
    return NOT_A_NUMBER  # a date, or a type of tomorrow
