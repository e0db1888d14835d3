"""What a name on the wire means in the catalogue, and the account of one reading made of such names.

A format's table maps its names to an Entry, to PLACE, or not at all: a name in no table is withheld and counted.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, TypeGuard

from telemetry.codecs.native_rows import as_number, is_serial
from telemetry.codecs.outcome import Outcome
from telemetry.codecs.units import SAME, Conversion
from telemetry.model.batch import Reason, Withheld
from telemetry.model.fields import FIELD_BY_NAME, DeviceKind

_NUMBER: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?(?:nan|inf)", re.IGNORECASE)
_LONGEST_SCALAR: Final = 64
_WORDS: Final = MappingProxyType({"true": True, "false": False})


class Mark(Enum):
    """Meanings that are no field."""

    PLACE = "place"  # tells where the home is: withheld under its own reason


PLACE: Final = Mark.PLACE


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a table: ``field`` of the catalogue and how to get to its unit.

    ``codes``, where given, translates states (numbers, booleans, words) instead: None stands for a state about which
    the catalogue has nothing to say, a state that is missing is implausible.
    """

    field: str
    convert: Conversion = SAME
    codes: Mapping[object, int | None] | None = None

    def __post_init__(self) -> None:
        assert self.field in FIELD_BY_NAME, f"{self.field} is not in the catalogue"  # noqa: S101 - our own table


Meaning = Entry | Mark | None


class Erased(Enum):
    """A payload that takes a value back: it is no reading."""

    ERASED = ""


def scalar(payload: bytes) -> float | bool | str | Erased:
    """The value of a payload that is one scalar: number, ``true`` or ``false``, else text (which is never kept).

    NaN and infinity come back as such floats: the caller drops them as implausible.
    """
    if not payload:
        return Erased.ERASED
    if len(payload) > _LONGEST_SCALAR:
        return "…"
    try:
        text = payload.decode("ascii").strip()
    except UnicodeDecodeError:
        return "…"
    if not text:
        return Erased.ERASED
    if _NUMBER.fullmatch(text):
        return float(text)
    return _WORDS.get(text.lower(), text)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether ``value`` is a number and no truth value (which Python takes for one)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(name: str) -> str:
    """A sender's name as counts show it: lower case, levels parted by dots, no digit in front."""
    written = name.lower().replace("/", ".").replace(":", ".").replace(" ", "_")
    return f"n{written}" if written[:1].isdigit() else written


def ratio(value: object) -> object:
    """A power factor as a ratio: senders write 0.98 and 98 alike, and no load has a power factor below 1 percent."""
    return value / 100.0 if is_number(value) and abs(value) > 1.0 else value


@dataclass(slots=True)
class Reading:
    """One device at one instant while its values are found. ``kind`` and ``ts`` (µs) may be unknown."""

    serial: str
    kind: DeviceKind | None = None
    ts: int | None = None
    values: dict[str, int | float] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    implausible: list[str] = field(default_factory=list)
    place: list[str] = field(default_factory=list)

    def put(self, name: str, meaning: Meaning, value: object) -> None:
        """Take ``value``, which the sender calls ``name``, for what its table says. None is no value. Of an object or
        an array that is not listed every value counts, however deep (parsers have bounded that).
        """
        if value is None:
            return
        match meaning:
            case Entry():
                self.put_value(name, meaning, value)
            case Mark.PLACE:
                self.place.append(plain(name))
            case None if isinstance(value, dict):
                for inner, one in value.items():
                    self.put(inner, None, one)
            case None if isinstance(value, list):
                for one in value:
                    self.put(name, None, one)
            case None:
                self.unlisted.append(plain(name))

    def put_value(self, name: str, entry: Entry, value: object) -> None:
        """Take ``value`` for the field of ``entry``, converted."""
        if entry.codes is not None:
            key = value if isinstance(value, bool | int | float | str) else None
            if key not in entry.codes:
                self.implausible.append(entry.field)
            elif (code := entry.codes[key]) is None:
                self.unlisted.append(plain(name))
            else:
                self.values[entry.field] = code
            return
        number = as_number(FIELD_BY_NAME[entry.field], converted(entry.convert, value))
        if number is None:
            self.implausible.append(entry.field)
        else:
            self.values[entry.field] = number

    def account(self, message: int, outcome: Outcome) -> None:
        """Write the reading down as a row, as withheld or as rejected, with all that was dropped of it."""
        outcome.unlisted.update(self.unlisted)
        outcome.implausible.update(self.implausible)
        outcome.place.update(self.place)
        if not is_serial(self.serial):
            outcome.reject(message, Reason.BAD_SERIAL)
        elif self.values:
            kind = None if self.kind is None else int(self.kind)
            outcome.rows.append({"message": message, "serial": self.serial, "kind": kind, "ts": self.ts} | self.values)
        elif self.implausible or not (self.unlisted or self.place):
            outcome.reject(message, Reason.EMPTY)
        else:
            outcome.withhold(Withheld.PLACE if self.place else Withheld.UNLISTED, 1)


def converted(convert: Conversion, value: object) -> object:
    """A number in the catalogue's unit; what is no number stays what it is."""
    return convert(value) if is_number(value) and not convert.same else value
