"""The alerts as stored: begun, ended and forgotten by the job of role telemetry_rollup."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from telemetry.alerts.alarms import Changes, Known
from telemetry.model.alert import AlertKind
from telemetry.model.fields import CATALOGUE, FIELD_INDEX, DataClass
from telemetry.store.sql import queries

SQL: Final = queries("alerts")
NOT_KEPT: Final = 255
_DAY_US: Final = 86_400_000_000
_ALERT_FIELDS: Final = [index for index, field in enumerate(CATALOGUE) if field.data_class is DataClass.ALERT]
_ALERT_DAYS: Final = tuple(DataClass).index(DataClass.ALERT)


@dataclass(frozen=True, slots=True)
class Subject:
    """A device that may have alerts. ``cell7``, ``timezone``: of its site, as far as is stored."""

    device_key: int
    kind: int
    cell7: int | None
    timezone: str
    kept: bytes  # Resolution.rank of each field, NOT_KEPT where nothing is

    def rank(self, field: str) -> int:
        """How finely the field is kept."""
        index = FIELD_INDEX[field]
        return self.kept[index] if index < len(self.kept) else NOT_KEPT


async def subjects(connection: Any, now_us: int, most_days: int) -> list[Subject]:
    """Devices of whose class ``alert`` anything is kept, neighbours together; alerts past their time are forgotten:
    the owner's for the class, and the operator's ``most_days``.
    """
    classes = {row["plan_class"]: row for row in await connection.fetch(SQL["classes"])}
    numbers = sorted(classes)
    days = [min(most_days, classes[number]["retention_days"][_ALERT_DAYS]) for number in numbers]
    before = [now_us - each * _DAY_US for each in days]
    await connection.execute(SQL["forget"], numbers, before)
    found = []
    for row in await connection.fetch(SQL["subjects"]):
        kept: bytes = classes[row["plan_class"]]["kept_resolution"]
        if any(index < len(kept) and kept[index] != NOT_KEPT for index in _ALERT_FIELDS):
            found.append(Subject(row["device_key"], row["kind"], row["cell7"], row["timezone"], kept))
    return found


async def newest(connection: Any, kind: AlertKind, devices: Sequence[int] | None = None) -> dict[int, Known]:
    """The newest alert of each device that has any of this kind."""
    rows = await connection.fetch(SQL["newest"], kind, None if devices is None else list(devices))
    return {row["device_key"]: Known(row["opened"], row["closed"], row["severity"]) for row in rows}


async def store(connection: Any, kind: AlertKind, changes: Changes, now_us: int) -> None:
    """Write what ended, then what began, in one transaction. Doing it again changes nothing."""
    if not changes.ends and not changes.begins:
        return
    async with connection.transaction():
        ended = [list(column) for column in zip(*changes.ends, strict=True)] or [[], []]
        await connection.execute(SQL["close"], kind, *ended, now_us)
        begun = [list(column) for column in zip(*changes.begins, strict=True)] or [[], [], [], []]
        keys = [secrets.randbits(63) or 1 for _ in changes.begins]
        await connection.execute(SQL["open"], keys, kind, *begun, now_us)


def by_device(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Rows by device, in their order."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["device_key"], []).append(row)
    return found


async def breathe() -> None:
    """Let the event loop run between chunks."""
    await asyncio.sleep(0)
