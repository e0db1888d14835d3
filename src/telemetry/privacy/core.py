"""The privacy core: one pass over a whole batch, from bound rows to what may be written.

Every row ends in exactly one place, decided in this order (numbers: rules of SEMANTICS.md, docs/ARCHITECTURE.md):

1. its message's gateway is unknown or revoked → rejected;
2. its time, which is that of receipt cut to the tick where it has none (6), lies before the tenure of the gateway's
   site → withheld: it belongs to somebody who left, and nothing of it goes to quarantine, sealed to whoever came;
3. its serial is missing, empty or too long → rejected; it is bound to no device → rejected (1);
4. its device's plan class withholds everything (an erased owner, 5) → withheld. Before the bounds of time, so that
   nothing of it goes to quarantine, sealed or not;
5. its time is out of bounds → rejected (2);
6. values that its plan class does not keep are removed (7), then kept ones that are implausible: outside the
   catalogue's range, NaN or infinite (4). No value left: withheld as ``not_kept`` if the mask removed any value,
   else rejected as ``empty``. What the mask removes is not looked at, so it is never counted as implausible.
7. the rest is written, in the order of arrival. -0.0 stays what it is: it equals 0.0 everywhere that compares.

Removed values are overwritten with 0 beneath their null: no buffer that leaves here holds one.

Pure: no clock, no I/O, no logger, and no loop over rows. Columns whose smallest and largest value are plausible
pass through without a copy; so does all that a plan keeps for every class present.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.model.batch import Protected, Reason, Rejection, Withheld, field_columns
from telemetry.model.fields import FIELD_BY_NAME, FIELD_INDEX, Field
from telemetry.model.identity import MAX_SERIAL_LENGTH
from telemetry.privacy.bound import Bound
from telemetry.privacy.plan import Plan

Verdicts = npt.NDArray[np.uint8]

_REASONS: Final = tuple(Reason)
_WITHHELD: Final = tuple(Withheld)
_CODE_OF_REASON: Final = {reason: np.uint8(code) for code, reason in enumerate(_REASONS, start=1)}
_FIRST_WITHHELD: Final = 128
_CODE_OF_WITHHELD: Final = {reason: np.uint8(code) for code, reason in enumerate(_WITHHELD, start=_FIRST_WITHHELD)}
_PASS: Final = np.uint8(0)


@dataclass(frozen=True, slots=True)
class _Fields:
    """Columns after masks and ranges, and what was removed from them."""

    columns: list[pl.Series]
    dropped: dict[str, pl.Series]  # field → per row: did the mask remove a value?
    implausible: dict[str, int]


def protect(
    bound: Bound, *, received_us: npt.NDArray[np.int64], now_us: int, future_limit_us: int, tick_us: int
) -> Protected:
    """Apply the bound plan to every row.

    ``received_us``: int64[m], when each message arrived. ``now_us``: the clock, µs since 1970 UTC.
    ``future_limit_us``: how far ahead of it a reading may be. ``tick_us``: what receipt times are cut to.
    Result: READING_SCHEMA plus the fields that occur, rows in order of arrival; rejections by (message, reason),
    ascending. ``withheld_values`` and ``implausible`` count in all rows that reached step 6, in those that it
    left empty too.
    """
    rows = bound.rows
    ts = _times(rows, received_us, tick_us)
    verdicts = _row_verdicts(bound, ts, now_us, future_limit_us)
    device_key, plan_class = bound.device_key, bound.plan_class
    columns = [rows[name] for name in field_columns(rows)]
    if verdicts is not None:
        passing = verdicts == _PASS
        device_key, plan_class = device_key[passing], plan_class[passing]
        ts, *columns = (column.filter(pl.Series(passing)) for column in (ts, *columns))
    fields = _protect_fields(columns, bound.plan, plan_class)
    empty = _empty_rows(fields.columns, ts.len())
    frame = _reading_frame(ts, device_key, bound.plan.version, fields.columns)
    if empty is not None:
        verdicts = np.zeros(rows.height, np.uint8) if verdicts is None else verdicts
        withheld = reduce(or_, fields.dropped.values()).to_numpy() if fields.dropped else np.False_
        settled = np.where(withheld, _CODE_OF_WITHHELD[Withheld.NOT_KEPT], _CODE_OF_REASON[Reason.EMPTY])
        verdicts[verdicts == _PASS] = np.where(empty.to_numpy(), settled, _PASS)
        frame = frame.filter(~empty)
    return Protected(
        rows=frame,
        rejections=() if verdicts is None else _rejections(verdicts, rows["message"].to_numpy()),
        withheld_rows={} if verdicts is None else _withheld_rows(verdicts),
        withheld_values={
            (Withheld.NOT_KEPT, name): count
            for name, dropped in fields.dropped.items()
            if (count := int(dropped.sum()))
        },
        implausible=fields.implausible,
    )


def _times(rows: pl.DataFrame, received_us: npt.NDArray[np.int64], tick_us: int) -> pl.Series:
    """Rule 6: the reading's own time, or that of receipt cut to the tick."""
    ts = rows["ts"]
    if not ts.null_count():
        return ts
    ticks = pl.Series("ts", (received_us - received_us % tick_us)[rows["message"].to_numpy()])
    return ts.zip_with(ts.is_not_null(), ticks)


def _row_verdicts(bound: Bound, ts: pl.Series, now_us: int, future_limit_us: int) -> Verdicts | None:
    """Steps 1 to 5; None where every row passes. Later steps are written first, so that earlier ones win."""
    message = bound.rows["message"].to_numpy()
    verdicts = _time_verdicts(bound, message, ts, now_us, future_limit_us)
    if any(bound.plan.withhold):
        codes = np.array([0 if reason is None else _CODE_OF_WITHHELD[reason] for reason in bound.plan.withhold])
        withheld = codes.astype(np.uint8)[bound.plan_class]
        verdicts = np.where(withheld, withheld, np.uint8(0) if verdicts is None else verdicts)
    left = _of_other_tenures(bound, message, ts)
    stranger = bound.unknown_gateway | bound.revoked
    if left is None and bound.device_key.all() and not stranger.any():
        return verdicts
    verdicts = np.zeros(message.size, np.uint8) if verdicts is None else verdicts
    _refuse_unbound(bound, message, verdicts)
    if left is not None:
        verdicts[left] = _CODE_OF_WITHHELD[Withheld.OTHER_TENURE]
    by_message = np.where(
        bound.unknown_gateway,
        _CODE_OF_REASON[Reason.UNKNOWN_GATEWAY],
        np.where(bound.revoked, _CODE_OF_REASON[Reason.REVOKED_GATEWAY], _PASS),
    )[message]
    return np.where(by_message, by_message, verdicts)


def _refuse_unbound(bound: Bound, message: npt.NDArray[np.uint32], verdicts: Verdicts) -> None:
    """Step 3."""
    unbound = np.flatnonzero(bound.device_key == 0)
    refused = np.where(
        bound.announced_only, _CODE_OF_REASON[Reason.UNKNOWN_DEVICE], _CODE_OF_REASON[Reason.DEVICE_LIMIT]
    )
    serial = bound.rows["serial"].gather(unbound)
    usable = serial.str.len_chars().is_between(1, MAX_SERIAL_LENGTH).fill_null(value=False).to_numpy()
    verdicts[unbound] = np.where(usable, refused[message[unbound]], _CODE_OF_REASON[Reason.BAD_SERIAL])


def _of_other_tenures(bound: Bound, message: npt.NDArray[np.uint32], ts: pl.Series) -> npt.NDArray[np.bool_] | None:
    """Per row, step 2: is it from before its site's tenure? None if no row is; the earliest time tells mostly."""
    if not ts.len():
        return None
    times = ts.to_numpy()
    if times.min() >= bound.tenure_from_us.max():
        return None
    left: npt.NDArray[np.bool_] = times < bound.tenure_from_us[message]
    return left if left.any() else None


def _time_verdicts(
    bound: Bound, message: npt.NDArray[np.uint32], ts: pl.Series, now_us: int, future_limit_us: int
) -> Verdicts | None:
    """Rule 2. The batch's earliest and latest time settle it for almost every batch."""
    if not ts.len():
        return None
    oldest_us, newest_us = now_us - bound.backfill_us, now_us + future_limit_us
    times = ts.to_numpy()
    if times.min() >= oldest_us.max() and times.max() <= newest_us:
        return None
    verdicts = np.zeros(times.size, np.uint8)
    verdicts[times < oldest_us[message]] = _CODE_OF_REASON[Reason.TOO_OLD]
    verdicts[times > newest_us] = _CODE_OF_REASON[Reason.IN_THE_FUTURE]
    return verdicts


def _protect_fields(columns: list[pl.Series], plan: Plan, plan_class: npt.NDArray[np.int32]) -> _Fields:
    """Step 6, column by column."""
    result = _Fields(columns=[], dropped={}, implausible={})
    masks = None if plan.keep.all() else _Masks(plan, plan_class)
    for column in columns:
        _protect_column(column, None if masks is None else masks.of(column.name), result)
    return result


class _Masks:
    """Which rows may keep a field, from their plan classes; the same for all rows where their classes agree."""

    def __init__(self, plan: Plan, plan_class: npt.NDArray[np.int32]) -> None:
        self._keep = np.ascontiguousarray(plan.keep.T)
        self._class = plan_class.astype(np.int64)
        self._present = np.flatnonzero(np.bincount(self._class, minlength=plan.classes))

    def of(self, name: str) -> pl.Series | None:
        """Per row: may the field be kept? None where every row's may."""
        keep = self._keep[FIELD_INDEX[name]]
        return None if keep[self._present].all() else pl.Series(keep[self._class])


def _protect_column(column: pl.Series, keep: pl.Series | None, result: _Fields) -> None:
    """Remove what the mask does not keep, then what is implausible; a column left without values is absent."""
    name = column.name
    admitted = keep
    if keep is not None:
        result.dropped[name] = column.is_not_null() & ~keep if column.null_count() else ~keep
    if not _all_plausible(column):
        field = FIELD_BY_NAME[name]
        low, high = _bounds(field)
        plausible = (column >= low) & (column <= high)
        admitted = plausible if keep is None else plausible & keep
        looked_at = column.len() - column.null_count() - (int(result.dropped[name].sum()) if keep is not None else 0)
        if wrong := looked_at - int(admitted.sum()):
            result.implausible[name] = wrong
    if admitted is not None:
        # first the value, then its validity: a null alone would leave the value in the buffer
        column = column.zip_with(admitted, _ZERO[column.dtype]).zip_with(admitted, _NULL[column.dtype])
    if column.null_count() < column.len():
        result.columns.append(column)


def _all_plausible(column: pl.Series) -> bool:
    """True if no value of the column is implausible; reads it three times, writes nothing.

    min and max leave NaN out and a sum does not, nor can a sum of plausible values overflow.
    """
    field = FIELD_BY_NAME[column.name]
    low, high = column.min(), column.max()
    if low is None or high is None:
        return True
    return bool(field.minimum <= low and high <= field.maximum and column.sum() == column.sum())  # type: ignore[operator]


def _bounds(field: Field) -> tuple[float, float]:
    """Inclusive, as integers for codes: a float would round numbers beyond 2^53."""
    if field.dtype == pl.Int64:
        return int(field.minimum), int(field.maximum)
    return field.minimum, field.maximum


_ZERO: Final[Mapping[pl.DataType, pl.Series]] = {
    dtype: pl.Series([0], dtype=dtype) for dtype in (pl.Float64(), pl.Int64())
}
_NULL: Final[Mapping[pl.DataType, pl.Series]] = {
    dtype: pl.Series([None], dtype=dtype) for dtype in (pl.Float64(), pl.Int64())
}


def _empty_rows(columns: list[pl.Series], height: int) -> pl.Series | None:
    """Per row: is it without any value? None if no row is."""
    empty = pl.repeat(value=True, n=height, dtype=pl.Boolean, eager=True)
    for column in columns:
        if not column.null_count():
            return None
        empty &= column.is_null()
    return empty if empty.any() else None


def _reading_frame(
    ts: pl.Series, device_key: npt.NDArray[np.int64], plan_version: int, columns: list[pl.Series]
) -> pl.DataFrame:
    keys = pl.Series("device_key", device_key)
    version = pl.Series("plan_version", np.full(device_key.size, plan_version, np.int64))
    return pl.DataFrame([ts, keys, version, *columns])


def _rejections(verdicts: Verdicts, message: npt.NDArray[np.uint32]) -> tuple[Rejection, ...]:
    """One rejection for each (message, reason), with the number of its rows."""
    rejected = np.flatnonzero((verdicts > _PASS) & (verdicts < _FIRST_WITHHELD))
    pairs = message[rejected].astype(np.int64) * _FIRST_WITHHELD + verdicts[rejected]
    distinct, counts = np.unique(pairs, return_counts=True)
    return tuple(
        Rejection(message=pair // _FIRST_WITHHELD, reason=_REASONS[pair % _FIRST_WITHHELD - 1], readings=count)
        for pair, count in zip(distinct.tolist(), counts.tolist(), strict=True)
    )


def _withheld_rows(verdicts: Verdicts) -> dict[Withheld, int]:
    counts = np.bincount(verdicts, minlength=_FIRST_WITHHELD + len(_WITHHELD))[_FIRST_WITHHELD:]
    return {reason: count for reason, count in zip(_WITHHELD, counts.tolist(), strict=True) if count}
