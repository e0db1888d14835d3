"""Where codecs write down what they make of messages, and how results of several codecs become one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from telemetry.model.batch import DECODED_SCHEMA, Decoded, Reason, Rejection, Withheld
from telemetry.model.fields import FIELD_SCHEMA

_ORDER: Final[Mapping[str, pl.DataType]] = {**DECODED_SCHEMA, **FIELD_SCHEMA}

_PLACE: Final[Mapping[str, int]] = {name: place for place, name in enumerate(_ORDER)}


@dataclass(slots=True)
class Outcome:
    """The account of some messages while they are being decoded; ``decoded`` closes it.

    ``rows``: one mapping per reading, column to value, for codecs that read one by one. ``frames``: columns of
    the decoded schema in any order, for codecs that read many at once.
    """

    rows: list[dict[str, object]] = field(default_factory=list)
    frames: list[pl.DataFrame] = field(default_factory=list)
    rejected: dict[tuple[int, Reason], tuple[int, str]] = field(default_factory=dict)
    unlisted: Counter[str] = field(default_factory=Counter)
    implausible: Counter[str] = field(default_factory=Counter)
    place: Counter[str] = field(default_factory=Counter)
    withheld: Counter[Withheld] = field(default_factory=Counter)
    codec_of_message: dict[int, str] = field(default_factory=dict)

    def reject(self, message: int, reason: Reason, readings: int = 1, detail: str = "") -> None:
        """Count ``readings`` of a message (1 where it cannot be read at all) as rejected for ``reason``."""
        before, first_detail = self.rejected.get((message, reason), (0, detail))
        self.rejected[message, reason] = (before + readings, first_detail)

    def withhold(self, reason: Withheld, readings: int) -> None:
        """Count readings that are in no row and in no rejection."""
        if readings:
            self.withheld[reason] += readings

    def merge(self, part: "Outcome") -> None:
        """Take over what was written down about other messages, or about a message as a whole."""
        self.rows += part.rows
        self.frames += part.frames
        for (message, reason), (readings, detail) in part.rejected.items():
            self.reject(message, reason, readings, detail)
        self.unlisted.update(part.unlisted)
        self.implausible.update(part.implausible)
        self.place.update(part.place)
        self.withheld.update(part.withheld)
        self.codec_of_message.update(part.codec_of_message)

    def add(self, part: Decoded) -> None:
        """Take over another codec's result on other messages of the same batch."""
        self.frames.append(part.rows)
        for item in part.rejections:
            self.reject(item.message, item.reason, item.readings, item.detail)
        self.unlisted.update(part.unlisted)
        self.implausible.update(part.implausible)
        self.place.update(part.place)
        self.withheld.update(part.withheld_rows)
        self.codec_of_message.update(part.codec_of_message)

    def decoded(self) -> Decoded:
        """Everything as one result: rows by message and as each message orders them, rejections by message."""
        frames = [frame for frame in self.frames if frame.height]
        if self.rows:
            frames.append(_frame(self.rows))
        rows = join(frames)
        if not rows["message"].is_sorted():
            rows = rows.sort("message", maintain_order=True)
        rejections = [
            Rejection(message, reason, readings, detail)
            for (message, reason), (readings, detail) in sorted(self.rejected.items(), key=lambda item: item[0][0])
        ]
        return Decoded(
            rows=rows,
            rejections=rejections,
            unlisted=dict(self.unlisted),
            withheld_rows=dict(self.withheld),
            implausible=dict(self.implausible),
            place=dict(self.place),
            codec_of_message=self.codec_of_message,
        )


def _frame(rows: Sequence[Mapping[str, object]]) -> pl.DataFrame:
    """Rows as columns: those of the decoded schema, and the fields that occur."""
    present = set(DECODED_SCHEMA).union(*rows)
    return pl.DataFrame(
        {
            name: pl.Series(name, [row.get(name) for row in rows], dtype=dtype)
            for name, dtype in _ORDER.items()
            if name in present
        }
    )


def join(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Frames below each other, columns in the catalogue's order; a column that one lacks is null there."""
    if not frames:
        return pl.DataFrame(schema=dict(DECODED_SCHEMA))
    joined = frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal")
    present = joined.columns
    names = sorted(present, key=_PLACE.__getitem__)
    return joined if names == present else joined.select(names)
