"""Readings of one shape as columns."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.codecs.columns import Identity, Part, kind_codes, text_series
from telemetry.codecs.literals import NULL, NUMBER, WRONG, Types, read_literals
from telemetry.codecs.rfc3339 import texts_us
from telemetry.codecs.scan import Texts
from telemetry.codecs.shapes import Candidates, Shape
from telemetry.codecs.words import F64, I64, U8, Bools
from telemetry.model.fields import FIELD_BY_NAME, FieldKind
from telemetry.model.identity import MAX_SERIAL_LENGTH

_EXACT: Final = 2.0**53
_NOT_PLAIN: Final = "[^ -~]"


@dataclass(frozen=True, slots=True)
class Group:
    """Readings of one shape. ``rows``: which objects. ``ok``: whether this reader understands all of it.

    ``values``: listed fields, NaN for null. ``others``: for each unlisted name, where it has a value.
    """

    rows: I64
    ok: Bools
    serial: pl.Series
    kind: U8
    ts: I64
    values: dict[str, F64]
    others: dict[str, Bools]

    def take(self, chosen: I64) -> "Group":
        """Only these of the readings."""
        return Group(
            self.rows[chosen],
            self.ok[chosen],
            self.serial.gather(chosen),
            self.kind[chosen],
            self.ts[chosen],
            {name: values[chosen] for name, values in self.values.items()},
            {name: given[chosen] for name, given in self.others.items()},
        )

    def part(self, messages: npt.NDArray[np.uint32]) -> Part:
        """As rows; ``messages``: the message number of each."""
        values = {name: column for name, column in self.values.items() if not np.isnan(column).all()}
        return Part(Identity(messages, self.serial, self.kind, self.ts), values)

    def unlisted(self) -> Counter[str]:
        """How many values each unlisted name has."""
        return Counter({name: int(count) for name, given in self.others.items() if (count := np.count_nonzero(given))})


class Builder:
    """Columns on the way to a group, one after the other, each of ``count`` readings."""

    def __init__(self, count: int) -> None:
        self._ok = np.ones(count, np.bool_)
        self._has_value = np.zeros(count, np.bool_)
        self._serial: pl.Series | None = None
        self._kind: U8 | None = None
        self._ts: I64 | None = None
        self._values: dict[str, F64] = {}
        self._others: dict[str, Bools] = {}

    def text(self, name: str, texts: Texts, start: I64, end: I64) -> None:
        """A column of strings without escapes, ``[start, end)``."""
        match name:
            case "serial":
                self._serial = text_series(texts, start, end)
                length = end - start
                self._ok &= (length >= 1) & (length <= MAX_SERIAL_LENGTH)
                if not texts.ascii_only:
                    self._ok &= ~self._serial.str.contains(_NOT_PLAIN).to_numpy()
            case "kind":
                self._kind = kind_codes(texts.words, start, end)
                self._ok &= self._kind > 0
            case "ts":
                self._ts, understood = texts_us(texts.words, start, end)
                self._ok &= understood
            case _ if name in FIELD_BY_NAME:
                self._ok[:] = False
            case _:
                self._others[name] = np.ones(start.size, np.bool_)

    def literal(self, name: str, numbers: F64, types: Types | None) -> None:
        """A column of literals as ``read_literals`` gives them; ``types`` is None where all are numbers."""
        match name:
            case "serial" | "kind":
                self._ok[:] = False
            case "ts":
                whole = _whole(numbers)
                self._ts = np.where(whole, numbers, 0).astype(np.int64) * 1000
                self._ok &= whole if types is None else whole & (types == NUMBER)
            case _ if name in FIELD_BY_NAME:
                self._field(name, numbers, types)
            case _:
                self._others[name] = np.ones(numbers.size, np.bool_) if types is None else types != NULL
                if types is not None:
                    self._ok &= types != WRONG

    def _field(self, name: str, numbers: F64, types: Types | None) -> None:
        if FIELD_BY_NAME[name].kind is FieldKind.STATUS:
            exact = _whole(numbers)
            self._ok &= exact if types is None else exact | (types != NUMBER)
        if types is None:
            self._has_value[:] = True
        else:
            given = types == NUMBER
            self._ok &= given | (types == NULL)
            self._has_value |= given
            numbers[~given] = np.nan
        self._values[name] = numbers

    def group(self, rows: I64) -> Group | None:
        """The columns as a group of the objects ``rows``; None where no reading is right."""
        if self._serial is None or self._kind is None or self._ts is None:
            return None
        ok = self._ok & self._has_value
        return Group(rows, ok, self._serial, self._kind, self._ts, self._values, self._others)


def read_group(texts: Texts, found: Candidates, shape: Shape, rows: I64) -> Group | None:
    """Read the objects ``rows``, which all have ``shape``; None where no reading of this shape can be right."""
    builder = Builder(rows.size)
    literals = [value for value in shape.values if not value.is_text]
    for value in shape.values:
        if value.is_text:
            builder.text(value.key, texts, *found.span(value))
    if literals:  # all at once, in the order of the text
        start, end = found.spans(literals)
        numbers, types = read_literals(texts, start.reshape(-1), end.reshape(-1))
        plain = not types.any()
        columns = np.ascontiguousarray(numbers.reshape(start.shape).T)
        for i, value in enumerate(literals):
            builder.literal(value.key, columns[i], None if plain else types.reshape(start.shape)[:, i])
    return builder.group(rows)


def _whole(numbers: F64) -> Bools:
    """Where numbers are integers that a float holds exactly."""
    whole: Bools = (np.abs(numbers) < _EXACT) & (numbers == np.floor(numbers))
    return whole
