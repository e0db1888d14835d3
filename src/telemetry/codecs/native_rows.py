"""Native JSON, one message at a time: the reference that the vectorised reader must equal.

A message is one reading (an object), an array of readings, or columns (an object whose ``serial``, ``kind`` or
``ts`` is an array). Each reading names its device by ``serial`` and ``kind`` and has a time ``ts``; everything else
is a field of the catalogue or unlisted.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from telemetry.codecs.json_text import Refused, parse_json
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import IDENTITY, LISTED
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.rfc3339 import instant_us
from telemetry.model.batch import Reason, Withheld
from telemetry.model.fields import FIELD_BY_NAME, KIND_BY_LABEL, Field, FieldKind
from telemetry.model.identity import MAX_SERIAL_LENGTH

_INT64: Final = 2**63


def decode_message(payload: bytes, message: int, limits: CodecLimits, outcome: Outcome) -> None:
    """Write down in ``outcome`` what ``payload`` holds, as message number ``message``."""
    value = parse_json(payload, limits)
    readings = value if isinstance(value, Refused) else _readings(value, limits)
    if isinstance(readings, Refused):
        outcome.reject(message, readings.reason, 1, readings.detail)
        return
    for reading in readings:
        _decode_reading(reading, message, outcome)


def _readings(value: object, limits: CodecLimits) -> Sequence[Mapping[str, object]] | Refused:
    """The three forms as one: a sequence of readings."""
    if isinstance(value, dict):
        is_columns = any(isinstance(value.get(name), list) for name in IDENTITY)
        return _transposed(value, limits) if is_columns else [value]
    if not isinstance(value, list):
        return Refused(Reason.MALFORMED, "neither an object nor an array")
    if len(value) > limits.max_readings_per_message:
        return Refused(Reason.TOO_MANY_READINGS, f"more than {limits.max_readings_per_message} readings")
    if not all(isinstance(reading, dict) for reading in value):
        return Refused(Reason.MALFORMED, "an array of something else than objects")
    return value


def _transposed(columns: Mapping[str, object], limits: CodecLimits) -> Sequence[Mapping[str, object]] | Refused:
    """Columns as readings. A listed column must be an array; every array has as many entries as the others.

    What is unlisted and not an array belongs to the first reading.
    """
    arrays = {name: column for name, column in columns.items() if isinstance(column, list)}
    others = {name: column for name, column in columns.items() if name not in arrays and column is not None}
    length = max(map(len, arrays.values()))
    if length > limits.max_readings_per_message:
        return Refused(Reason.TOO_MANY_READINGS, f"more than {limits.max_readings_per_message} readings")
    if any(len(column) != length for column in arrays.values()):
        return Refused(Reason.UNEQUAL_COLUMNS, "arrays of different lengths")
    if any(name in LISTED for name in others):
        return Refused(Reason.UNEQUAL_COLUMNS, "a field that is no array among arrays")
    readings = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
    if readings:
        readings[0].update(others)
    return readings


def _decode_reading(reading: Mapping[str, object], message: int, outcome: Outcome) -> None:
    serial, kind, at = (reading.get(name) for name in IDENTITY)
    if not is_serial(serial):
        outcome.reject(message, Reason.BAD_SERIAL)
        return
    if not isinstance(kind, str) or kind not in KIND_BY_LABEL:
        outcome.reject(message, Reason.BAD_KIND)
        return
    ts = instant_us(at)
    if ts is None:
        outcome.reject(message, Reason.BAD_TIME)
        return
    values: dict[str, object] = {}
    unlisted, implausible = [], []
    for name, value in reading.items():
        if name in IDENTITY or value is None:
            continue
        field = FIELD_BY_NAME.get(name)
        if field is None:
            unlisted.append(name)
        elif (number := as_number(field, value)) is None:
            implausible.append(name)
        else:
            values[name] = number
    outcome.unlisted.update(unlisted)
    outcome.implausible.update(implausible)
    if values:
        identity = {"message": message, "serial": serial, "kind": int(KIND_BY_LABEL[kind]), "ts": ts}
        outcome.rows.append(identity | values)
    elif unlisted and not implausible:
        outcome.withhold(Withheld.UNLISTED, 1)
    else:
        outcome.reject(message, Reason.EMPTY)


def is_serial(value: object) -> bool:
    """Whether ``value`` can name a device: 1 to 64 printable characters."""
    return isinstance(value, str) and 0 < len(value) <= MAX_SERIAL_LENGTH and value.isprintable()


def as_number(field: Field, value: object) -> int | float | None:
    """``value`` as ``field`` stores it, or None where it is of the wrong type, not finite or not exact."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if field.kind is not FieldKind.STATUS:
        return float(value) + 0.0  # no negative zero
    if value != int(value) or not -_INT64 <= value < _INT64:
        return None
    return int(value)
