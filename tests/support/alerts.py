"""Alerts put straight into the table, as the job would have found them."""

import itertools
from datetime import datetime
from typing import Any

from telemetry.model.alert import AlertKind

_KEYS = itertools.count(1)


async def add_alert(
    admin: Any,
    device: int,
    opened: datetime,
    closed: datetime | None = None,
    *,
    kind: AlertKind = AlertKind.DEVICE_ALARM,
    severity: int = 3,
    found: datetime | None = None,
) -> int:
    """Found when it began, and settled when it ended, where nothing else is said. Its key."""
    key = next(_KEYS)
    await admin.execute(
        "INSERT INTO readings.alert (alert_key, device_key, kind, opened_at, closed_at, severity, found_at, settled_at)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        key,
        device,
        kind,
        opened,
        closed,
        severity,
        found or opened,
        closed if closed is None or found is None else max(closed, found),
    )
    return key
