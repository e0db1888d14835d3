"""What goes wrong in the field, by seed: broken messages, impossible values, fields nobody listed, repetitions."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import orjson

from device_sim.formats import rfc3339
from device_sim.message import Reading, Value


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares (0 to 1): of messages that are poison or repeat an earlier one, of readings with a bad value."""

    duplicate_share: float = 0.0
    poison_share: float = 0.0
    implausible_share: float = 0.0
    unlisted_share: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__slots__:
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; a share lies between 0 and 1")
        if self.duplicate_share + self.poison_share > 1:
            raise ValueError("duplicate_share and poison_share together exceed 1")


# far outside of what any home device reports, for fields of the first device kinds; and fields in no catalogue
_IMPLAUSIBLE: Final = {
    "ac_voltage_v": 1e6,
    "grid_power_w": -1e9,
    "battery_soc_pct": 250.0,
    "temperature_c": 9999.0,
}
_UNLISTED: Final[tuple[tuple[str, Value], ...]] = (
    ("owner_name", "Erika Mustermann"),
    ("latitude", 48.137),
    ("firmware_version", "4.21.0"),
    ("wifi_ssid", "Musterhaus"),
)


def spoil(rng: random.Random, faults: Faults, reading: Reading) -> tuple[Reading, Reading]:
    """``reading`` as it is sent, and what a correct receiver keeps of it. Never takes the last value."""
    sent, kept = reading, reading
    if rng.random() < faults.implausible_share:
        name = next((name for name in _IMPLAUSIBLE if name in reading.fields), None)
        if name is not None and len(reading.fields) > 1:
            sent = reading._replace(fields=reading.fields | {name: _IMPLAUSIBLE[name]})
            kept = reading._replace(fields={k: v for k, v in reading.fields.items() if k != name})
    if rng.random() < faults.unlisted_share:
        name, value = rng.choice(_UNLISTED)
        sent = sent._replace(fields=sent.fields | {name: value})
    return sent, kept


def _object(serial: str, ts_us: int, more: Mapping[str, object] = MappingProxyType({})) -> bytes:
    return orjson.dumps({"serial": serial, "kind": "inverter", "ts": rfc3339(ts_us), "ac_power_w": 1.0, **more})


def _raw(serial: str, ts_us: int, value: str) -> bytes:
    return _object(serial, ts_us).replace(b"1.0", value.encode())


_DEEP: Final = b"[" * 2000 + b"]" * 2000
# name → payload for (serial, time): each is one reading's worth, none may be stored
POISON: Final[dict[str, Callable[[str, int], bytes]]] = {
    "truncated": lambda serial, ts: _object(serial, ts)[:-9],
    "empty_payload": lambda _serial, _ts: b"",
    "not_text": lambda serial, ts: b"\xff\xfe" + _object(serial, ts),
    "not_a_number": lambda serial, ts: _raw(serial, ts, "NaN"),
    "infinite": lambda serial, ts: _raw(serial, ts, "1e999"),
    "too_deep": lambda _serial, _ts: _DEEP,
    "duplicate_key": lambda serial, ts: _object(serial, ts)[:-1] + b',"ac_power_w":2.0}',
    "unequal_columns": lambda serial, ts: orjson.dumps(
        {"serial": [serial], "kind": ["inverter"], "ts": [ts // 1000], "ac_power_w": [1.0, 2.0]}
    ),
    "no_serial": lambda serial, ts: _object(serial, ts, {"serial": None}),
    "bad_kind": lambda serial, ts: _object(serial, ts, {"kind": "toaster"}),
    "bad_time": lambda serial, ts: _object(serial, ts, {"ts": "yesterday"}),
    "year_1970": lambda serial, ts: _object(serial, ts, {"ts": "1970-01-01T00:00:00Z"}),
    "year_2100": lambda serial, ts: _object(serial, ts, {"ts": "2100-01-01T00:00:00Z"}),
    "wrong_type": lambda serial, ts: _object(serial, ts, {"ac_power_w": "1.0 W"}),
    "scalar": lambda _serial, _ts: b'"hello"',
}
