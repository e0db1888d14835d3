"""Codecs ``senml-json`` and ``senml-cbor``: SenML packs (RFC 8428) on ``gw/<gateway>/senml``.

The name of a record names device and field: ``urn:dev:ow:10e2073a01080063:voltage`` is the voltage of the device
``10e2073a01080063`` (RFC 9039), and so are ``INV00000042/voltage`` or base name ``INV00000042`` with name
``voltage``. A name without a field says it by its unit. Records of one device and time are one reading. SenML does
not say what kind of device it is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from telemetry.codecs.cbor_text import parse_cbor
from telemetry.codecs.found import Found
from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.native_rows import as_number, is_serial
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.senml_pack import Record, resolve
from telemetry.codecs.senml_table import FIELD_OF_NAME, FIELD_OF_UNIT, SUM_OF_FIELD, conversion, sum_in_wh
from telemetry.model.batch import MICROSECONDS, Decoded, RawMessage, Reason
from telemetry.model.fields import FIELD_BY_NAME

_URN: Final = "urn:dev:"
_SEPARATORS: Final = ":/"
_MAX_S: Final = 2**63 // MICROSECONDS
_CBOR_ARRAYS: Final = range(0x80, 0xA0)  # RFC 8949: major type 4; JSON begins with "[" or white space


def looks_like_cbor(payload: bytes) -> bool:
    """Whether a pack without content type is CBOR."""
    return bool(payload) and payload[0] in _CBOR_ARRAYS


@dataclass(frozen=True, slots=True)
class Senml:
    """Pure; safe to call from any thread. Made by ``senml_json`` and ``senml_cbor``."""

    limits: CodecLimits
    name: str
    parse: Callable[[bytes, CodecLimits], object | Refused]

    def decode(self, messages: Sequence[RawMessage], indices: Sequence[int]) -> Decoded:
        """Rows, rejections and counts of ``messages``; message ``i`` is called ``indices[i]``."""
        outcome = Outcome(codec_of_message=dict.fromkeys(indices, self.name))
        for message, index in zip(messages, indices, strict=True):
            pack = self.parse(message.payload, self.limits)
            if not isinstance(pack, Refused):
                now_s = message.received_us / MICROSECONDS
                pack = resolve(pack, now_s, self.limits.max_readings_per_message)
            if isinstance(pack, Refused):
                outcome.reject(index, pack.reason, 1, pack.detail)
            else:
                _decode_pack(pack, index, outcome)
        return outcome.decoded()


def senml_json(limits: CodecLimits) -> Senml:
    """``application/senml+json``."""
    return Senml(limits, "senml-json", parse_json)


def senml_cbor(limits: CodecLimits) -> Senml:
    """``application/senml+cbor``."""
    return Senml(limits, "senml-cbor", parse_cbor)


@dataclass(slots=True)
class _Reading(Found):
    serial: str = ""
    ts: int | None = None


def _decode_pack(records: Sequence[Record], message: int, outcome: Outcome) -> None:
    readings: list[_Reading] = []
    latest: dict[tuple[str, int | None], _Reading] = {}
    for record in records:
        serial, name = device_and_field(record)
        ts = _ts_us(record.time_s)
        if not is_serial(serial):
            outcome.reject(message, Reason.BAD_SERIAL)
            continue
        if record.time_s is not None and ts is None:
            outcome.reject(message, Reason.BAD_TIME)
            continue
        reading = latest.get((serial, ts))
        found = _interpreted(record, name)
        if reading is None or not reading.values.keys().isdisjoint(found.values):
            reading = latest[serial, ts] = _Reading(serial=serial, ts=ts)  # a field the second time is another reading
            readings.append(reading)
        reading.values.update(found.values)
        reading.unlisted += found.unlisted
        reading.implausible += found.implausible
    for reading in readings:
        reading.close(message, reading.serial, None, reading.ts, outcome)


def device_and_field(record: Record) -> tuple[str, str]:
    """The serial that a record names, and the rest of its name, which may be a field's or empty."""
    name = record.name
    if name and record.base and record.own.lstrip(_SEPARATORS) in FIELD_OF_NAME:
        return _serial(record.base.rstrip(_SEPARATORS)), record.own.lstrip(_SEPARATORS)
    urn = name[: len(_URN)].lower() == _URN
    identity = name[len(_URN) :].partition(":")[2] if urn else name
    at = max(identity.rfind(separator) for separator in _SEPARATORS)
    return (identity, "") if at < 0 else (identity[:at], identity[at + 1 :])


def _serial(name: str) -> str:
    """The serial in a device's name: that of a URN without its scheme and type."""
    return name[len(_URN) :].partition(":")[2] if name[: len(_URN)].lower() == _URN else name


def _ts_us(time_s: float | None) -> int | None:
    if time_s is None or not math.isfinite(time_s) or abs(time_s) >= _MAX_S:
        return None
    return round(time_s * MICROSECONDS)


def _interpreted(record: Record, name: str) -> Found:
    """One record's value and sum, as the catalogue's fields."""
    found = Found(unlisted=list(record.extra))
    of_field = FIELD_OF_NAME.get(name) if name else FIELD_OF_UNIT.get(record.unit)
    if of_field is None:
        found.unlisted += [name or record.unit or "value"] * ((record.value is not None) + (record.total is not None))
        return found
    if record.value is not None:
        _put(found, of_field, _converted(of_field, record.unit, record.value))
    if record.total is not None:
        sum_field = SUM_OF_FIELD.get(of_field)
        if sum_field is None:
            found.unlisted.append(f"{name or record.unit}.sum")
        else:
            _put(found, sum_field, sum_in_wh(of_field, record.unit, record.total))
    return found


def _converted(of_field: str, unit: str, value: object) -> object:
    convert = conversion(of_field, unit)
    if convert is None or isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if convert.same else convert(value)


def _put(found: Found, name: str, value: object) -> None:
    number = as_number(FIELD_BY_NAME[name], value)
    if number is None:
        found.implausible.append(name)
    else:
        found.values[name] = number
