"""Owners, sites, devices, grants and readings put straight into the tables, for tests of what is shown.

The administrator writes them, past row-level security: what is tested is who may read. Keys are small numbers.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

CLEAR = """
TRUNCATE consent.owner, consent.recipient, consent.active_grant, consent.keeping, audit.read,
    readings.hot, readings.late, readings.series CASCADE;
DELETE FROM consent.policy WHERE policy <> '2026-11'
"""


async def clear(admin: Any) -> None:
    """Remove everybody, and everything of theirs."""
    await admin.execute(CLEAR)
    await admin.fetchval("SELECT readings.ensure_partitions(48, 1)")


async def add_recipient(admin: Any, recipient_key: int, closed_at: datetime | None = None) -> None:
    await admin.execute(
        "INSERT INTO consent.recipient (recipient_key, handle, kind, closed_at) VALUES ($1, $2, 'installer', $3)",
        recipient_key,
        f"recipient-{recipient_key}",
        closed_at,
    )


async def add_owner(admin: Any, owner_key: int, erased_at: datetime | None = None) -> None:
    await admin.execute(
        "INSERT INTO consent.owner (owner_key, region, public_key, erased_at) VALUES ($1, 'default', $2, $3)",
        owner_key,
        bytes(1216),
        erased_at,
    )


async def add_site(admin: Any, site_key: int, owner_key: int, **more: Any) -> None:
    """``more``: tenure_from, tenure_until; country, region and timezone, and a gateway of the same key is added."""
    await admin.execute(
        "INSERT INTO consent.site (site_key, owner_key, tenure_from, tenure_until) VALUES ($1, $2, $3, $4)",
        site_key,
        owner_key,
        more.get("tenure_from"),
        more.get("tenure_until"),
    )
    await admin.execute(
        "INSERT INTO consent.gateway (gateway_key, site_key, name_blind, backfill_us) VALUES ($1, $1, $2, 0)",
        site_key,
        site_key.to_bytes(16),
    )
    await admin.execute(
        "INSERT INTO consent.site_place (site_key, cell7, country, region, timezone) VALUES ($1, $2, $3, $4, $5)",
        site_key,
        more.get("cell7", 608_693_241_318_998_015),
        more.get("country", "DE"),
        more.get("region", "DE-BE"),
        more.get("timezone", "Europe/Berlin"),
    )


async def add_device(admin: Any, device_key: int, site_key: int, kind: int = 1) -> None:
    await admin.execute(
        "INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind)"
        " VALUES ($1, $2, $2, $3, $4)",
        device_key,
        site_key,
        kind,
        device_key.to_bytes(16),
    )


async def add_grant(admin: Any, grant_key: int, owner_key: int, recipient_key: int, **terms: Any) -> None:
    """``terms``: columns of consent.grant_version, by default all of ac_power_w from ever at PT15M."""
    now = await admin.fetchval("SELECT now()")
    values: dict[str, Any] = {
        "grant_key": grant_key,
        "version": 1,
        "owner_key": owner_key,
        "recipient_key": recipient_key,
        "state": "active",
        "purpose": "maintenance",
        "sites": None,
        "kinds": None,
        "classes": [],
        "fields": ["ac_power_w"],
        "resolution": 2,
        "serial": "pseudonym",
        "place": "withheld",
        "extremes": False,
        "history": None,
        "data_from": now - timedelta(days=3000),
        "start": now - timedelta(days=3000),
        "until": None,
        "epoch": 1,
        "policy": "2026-11",
    } | terms
    names = ", ".join(values)
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await admin.execute(f"INSERT INTO consent.grant_version ({names}) VALUES ({places})", *values.values())
    await admin.execute(
        "INSERT INTO consent.relation (owner_key, recipient_key) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        owner_key,
        recipient_key,
    )


async def withdraw(admin: Any, grant_key: int) -> None:
    """A new version of the grant that says so."""
    row: Mapping[str, Any] = await admin.fetchrow("SELECT * FROM consent.active_grant WHERE grant_key = $1", grant_key)
    values = dict(row) | {"version": row["version"] + 1, "state": "withdrawn"}
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await admin.execute(f"INSERT INTO consent.grant_version ({', '.join(values)}) VALUES ({places})", *values.values())


async def add_reading(admin: Any, table: str, device_key: int, ts: datetime, **fields: Any) -> None:
    """One row of readings.hot or readings.late."""
    values: dict[str, Any] = {"ts": ts, "device_key": device_key, "plan_version": 1} | fields
    if table == "late":
        values["received_hour"] = await admin.fetchval("SELECT date_trunc('hour', now())")
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await admin.execute(f"INSERT INTO readings.{table} ({', '.join(values)}) VALUES ({places})", *values.values())


async def add_window(admin: Any, device_key: int, start: datetime, **columns: Any) -> None:
    """One row of readings.series; by default a first version of PT15M of the catalogue's first field."""
    values: dict[str, Any] = {
        "device_key": device_key,
        "window_start": start,
        "effective_at": start + timedelta(minutes=15),
        "amount": 0,
        "covered_ms": 900_000,
        "resolution": 2,
        "grid": 0,
        "field": 0,
    } | columns
    await admin.fetchval("SELECT readings.ensure_series($1::timestamptz[])", [start])
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await admin.execute(f"INSERT INTO readings.series ({', '.join(values)}) VALUES ({places})", *values.values())
