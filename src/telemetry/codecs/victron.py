"""Victron Instant Readout advertisements (manufacturer 0x02E1), read by the library ``victron-ble`` and corrected.

    10 xx | model u16 | record u8 | nonce u16 | first key byte | AES-128-CTR of the record     (little-endian)

The library pads what is too short and compares "no value" after sign extension in places; so lengths are checked
before it is asked, and its values are held against the bits as they were sent (victron_table.py). The format has no
checksum: only the first byte of the key can be checked, so an impossible value rejects the whole frame.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any, Final

from telemetry.codecs.advertised import KEY_BYTES, Fault, Frame, Gathered
from telemetry.codecs.victron_table import BATTERY_SENSE, BATTERY_SENSE_MODELS, RECORDS, STATES, Record, Row
from telemetry.errors import ConfigurationError

COMPANY: Final = 0x02E1
COUNTER_BITS: Final = 16
_INSTANT_READOUT: Final = 0x10
_HEADER_BYTES: Final = 8
_BLOCK_BYTES: Final = 16
_KELVIN: Final = 273.15
_CELLS_TOLERANCE: Final = 0.05
_AUX_NAMES: Final = ("starter_voltage", "midpoint_voltage", "temperature_kelvin")


def decode_victron(data: bytes, key: bytes | None) -> Frame | Fault:
    """The frame in ``data``, the manufacturer data without the company's number. Pure; any thread."""
    if not data or data[0] != _INSTANT_READOUT:
        return Fault.FOREIGN
    if len(data) < _HEADER_BYTES:
        return Fault.TRUNCATED
    sense = int.from_bytes(data[2:4], "little") in BATTERY_SENSE_MODELS
    record = BATTERY_SENSE if sense else RECORDS.get(data[4])
    if record is None:
        return Fault.UNSUPPORTED
    if (fault := _envelope(data, record, key)) is not None or key is None:
        return fault or Fault.NO_KEY
    plain = _library(record.parser)(key.hex()).decrypt(data)[: len(data) - _HEADER_BYTES]
    frame = frame_of(record, plain, int.from_bytes(data[5:7], "little"))
    if isinstance(frame, Fault):
        return frame
    beyond = len(plain) - -(-record.bits // 8)
    return frame if beyond <= 0 else replace(frame, unlisted={**frame.unlisted, "trailing": beyond})


def _envelope(data: bytes, record: Record, key: bytes | None) -> Fault | None:
    """What is wrong with the length or the key."""
    fault = None
    if (len(data) - _HEADER_BYTES) * 8 < record.bits:
        fault = Fault.TRUNCATED
    elif len(data) > _HEADER_BYTES + _BLOCK_BYTES:
        fault = Fault.EXTENDED
    elif key is not None and (len(key) != KEY_BYTES or data[7] != key[0]):
        fault = Fault.WRONG_KEY
    return fault


def frame_of(record: Record, plain: bytes, counter: int) -> Frame | Fault:
    """The frame of a decrypted record."""
    measured = measure(record, plain)
    if measured is None:
        return Fault.IMPLAUSIBLE
    found = Gathered()
    for row in record.rows:
        value = measured.get(row.name)
        if value is not None:
            found.add(row.field, value, row.name)
    for field, cell in zip(
        ("battery_cell_voltage_min_v", "battery_cell_voltage_max_v"), measured.get("cells") or (), strict=False
    ):
        found.add(field, cell, "cells")
    if not found.values or any(found.out_of_range()):
        return Fault.IMPLAUSIBLE
    return Frame(record.kind, found.values, dict(found.unlisted), counter=counter, counter_bits=COUNTER_BITS)


def measure(record: Record, plain: bytes) -> dict[str, Any] | None:
    """Every value of a decrypted record in the catalogue's unit by the library's name, absent where there is none.

    None: the library cannot read it, or something in it cannot be.
    """
    bits = int.from_bytes(plain.ljust(_BLOCK_BYTES, b"\0")[:_BLOCK_BYTES], "little")
    try:
        library = _library(record.parser)("").parse_decrypted(_quiet(record, bits))
    except (ValueError, IndexError, KeyError, ArithmeticError):
        return None
    measured: dict[str, Any] = {}
    for row in record.rows:
        sent = (bits >> row.at) & ((1 << row.bits) - 1)
        if sent == row.none:
            continue
        if row.allowed and not any(sent in part for part in row.allowed):
            return None
        value = _raw(row, sent) if row.raw else _read(row, library)
        if value is not None:
            measured[row.name] = value
    cells = _cells(library)
    if not _cells_fit(cells, measured.get("battery_voltage")):
        return None
    if known := [cell for cell in cells if math.isfinite(cell)]:
        measured["cells"] = (min(known), max(known))
    return measured


def _raw(row: Row, sent: int) -> int | None:
    if row.field == "operating_state_code":
        return STATES.get(sent)
    return sent


def _read(row: Row, library: Mapping[str, Any]) -> float | None:
    value = library.get(row.name)
    if value is None:
        return None
    return float(value) - _KELVIN if row.name in _AUX_NAMES[2:] else float(value) * row.factor


def _cells(library: Mapping[str, Any]) -> list[float]:
    return [float(cell) for cell in library.get("cell_voltages", ()) if cell is not None]


def _cells_fit(cells: list[float], battery_v: float | None) -> bool:
    """Whether cells in a row have the battery's voltage, as far as all of them are known."""
    if battery_v is None or not cells or not all(map(math.isfinite, cells)):
        return True
    return abs(sum(cells) - battery_v) < _CELLS_TOLERANCE * battery_v


def _quiet(record: Record, bits: int) -> bytes:
    """The record with what is read here and not by the library set to 1, which all its enumerations know."""
    for row in record.rows:
        if row.raw:
            bits = bits & ~(((1 << row.bits) - 1) << row.at) | 1 << row.at
    return bits.to_bytes(_BLOCK_BYTES, "little")


@cache
def _library(parser: str) -> Any:
    """The library's class for a kind of record.

    Raises:
        ConfigurationError: the library is not installed.

    """
    try:
        from victron_ble import devices
        from victron_ble.devices.battery_sense import BatterySense
    except ImportError:
        raise ConfigurationError(
            "Victron advertisements need the library victron-ble", remedy="pip install 'telemetry[ble]'"
        ) from None
    return BatterySense if parser == BATTERY_SENSE.parser else getattr(devices, parser)
