"""What devices say of themselves: from fields of status to spans of alarm. Pure.

A severity that is worse than notice (RFC 5424) is an alarm, and one that is not makes bits and codes harmless. Without
a severity any bit and any code is one. SunSpec's state 7 is a fault whatever else is said. A field holds its last
value. An alarm is over when nothing has said otherwise for ``QUIET_US``; it ended when that began.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from telemetry.model.alert import ERROR, WARNING

QUIET_US: Final = 10 * 60 * 1_000_000
_FAULT: Final = 7  # SunSpec model 101, point St
_NOTED: Final = ("alert_bits", "alert_code", "alert_severity_code", "operating_state_code")


@dataclass(frozen=True, slots=True)
class Known:
    """The newest alert that is stored of a device; ``closed_us`` None while it is open."""

    opened_us: int
    closed_us: int | None
    severity: int = ERROR


@dataclass(slots=True)
class Changes:
    """What is to be stored: (device, instant) that end what is open, and what begins: (device, instant, instant of its
    end or None, severity).

    What ends goes first: a device has one open alert of a kind.
    """

    ends: list[tuple[int, int]] = field(default_factory=list)
    begins: list[tuple[int, int, int | None, int]] = field(default_factory=list)


def severity_of(state: Mapping[str, int | None]) -> int | None:
    """How bad what a device says is; None where it is well."""
    severity = state.get("alert_severity_code")
    if state.get("operating_state_code") == _FAULT:
        return ERROR if severity is None else min(severity, ERROR)
    if severity is not None:
        return severity if severity <= WARNING else None
    return ERROR if (state.get("alert_bits") or 0) > 0 or (state.get("alert_code") or 0) > 0 else None


def alarm_changes(rows: Sequence[Mapping[str, Any]], known: Mapping[int, Known], now_us: int) -> Changes:
    """What has begun and ended.

    ``rows``: device_key, ts (µs) and the fields of status, ordered by device and instant, as far back as readings are
    whole. ``known``: the newest stored alert by device. Telling the same rows again changes nothing.
    """
    changes = Changes()
    start = 0
    while start < len(rows):
        device = rows[start]["device_key"]
        end = start
        while end < len(rows) and rows[end]["device_key"] == device:
            end += 1
        _changes_of(device, rows[start:end], known.get(device), now_us, changes)
        start = end
    return changes


def _changes_of(
    device: int, rows: Sequence[Mapping[str, Any]], known: Known | None, now_us: int, changes: Changes
) -> None:
    spans = _spans(rows, now_us)
    after = -1
    if known is not None and known.closed_us is None:
        end = _end_of(known, rows, spans, now_us)
        if end is None:
            return
        changes.ends.append((device, end))
        after = end
    elif known is not None and known.closed_us is not None:
        after = known.closed_us
    changes.begins += [(device, *span) for span in spans if span[0] >= after]


def _spans(rows: Sequence[Mapping[str, Any]], now_us: int) -> list[tuple[int, int | None, int]]:
    """First instant, first quiet instant (None while it lasts) and the worst severity, in order."""
    state: dict[str, int | None] = {}
    spans: list[tuple[int, int | None, int]] = []
    for row in rows:
        state |= {name: row[name] for name in _NOTED if row[name] is not None}
        severity = severity_of(state)
        if severity is None:
            if spans and spans[-1][1] is None:
                spans[-1] = (spans[-1][0], row["ts"], spans[-1][2])
        elif spans and (spans[-1][1] is None or row["ts"] - spans[-1][1] < QUIET_US):
            spans[-1] = (spans[-1][0], None, min(spans[-1][2], severity))
        else:
            spans.append((row["ts"], None, severity))
    if spans and (quiet := spans[-1][1]) is not None and now_us - quiet < QUIET_US:
        spans[-1] = (spans[-1][0], None, spans[-1][2])
    return spans


def _end_of(
    known: Known, rows: Sequence[Mapping[str, Any]], spans: Sequence[tuple[int, int | None, int]], now_us: int
) -> int | None:
    """When an open alert ended: at the first quiet instant after it began, where the quiet lasted."""
    since = [row["ts"] for row in rows if row["ts"] > known.opened_us]
    if not since:
        return None
    first = next((span for span in spans if span[1] is None or span[1] > known.opened_us), None)
    if first is None or first[0] - since[0] >= QUIET_US:
        quiet = since[0]  # nothing of what is at hand is of this alarm: it ended before, or with it
        return quiet if now_us - quiet >= QUIET_US else None
    return first[1]
