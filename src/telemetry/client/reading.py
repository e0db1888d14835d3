"""What recipients and owners read, each call as a plan (``wire``)."""

import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, TypedDict, Unpack
from urllib.parse import quote

import polars as pl

from telemetry.client.results import (
    Alert,
    Changes,
    Device,
    GrantSeen,
    Grid,
    Purpose,
    Resolution,
    Site,
    rows_of_arrow,
    rows_of_series,
)
from telemetry.client.wire import ARROW, Plan, Reply, Request, following, get

ExportForm = Literal["csv", "jsonl", "parquet", "arrow"]
_MEDIA_TYPES: Final = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "arrow": ARROW,
}


class What(TypedDict, total=False):
    """What to look at. ``purpose`` may be left out where the token is bound to one. ``sites``, ``devices``,
    ``fields``: by name; all without. ``tz``: an IANA zone in which times are written. ``grid``: days of UTC or of the
    site.
    """

    purpose: Purpose
    resolution: Resolution
    fields: Collection[str]
    sites: Collection[str]
    devices: Collection[str]
    tz: str
    grid: Grid


@dataclass(frozen=True, slots=True)
class _Sites:
    sites: tuple[Site, ...]


@dataclass(frozen=True, slots=True)
class _Devices:
    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class _Changes:
    series: list[dict[str, Any]]
    devices: tuple[Device, ...]
    renewed: tuple[str, ...]
    next: str


@dataclass(frozen=True, slots=True)
class _Alerts:
    alerts: tuple[Alert, ...]


@dataclass(frozen=True, slots=True)
class _Grants:
    grants: tuple[GrantSeen, ...]


def pages(request: Request) -> Plan[list[Reply]]:
    """Every page of a list."""
    replies, next_one = [], request
    while True:
        reply = yield next_one
        replies.append(reply)
        if (found := following(next_one, reply)) is None:
            return replies
        next_one = found


def fleet(*, purpose: Purpose | None = None, tz: str | None = None) -> Plan[tuple[Site, ...]]:
    """Sites of which anything is shared, in the order of their names, with what is shared of each kind of device."""
    replies = yield from pages(get("/fleet", purpose=purpose, tz=tz, limit=1000))
    return tuple(site for reply in replies for site in reply.as_(_Sites).sites)


def site(name: str, *, purpose: Purpose | None = None) -> Plan[Site]:
    """One site. Raises NotFound where there is none, or none that is shared."""
    return (yield get(f"/sites/{quote(name, safe='')}", purpose=purpose)).as_(Site)


def devices(site: str, *, purpose: Purpose | None = None) -> Plan[tuple[Device, ...]]:
    """Devices of a site, each with what is shared of it and what is not. Raises NotFound."""
    replies = yield from pages(get(f"/sites/{quote(site, safe='')}/devices", purpose=purpose))
    return tuple(device for reply in replies for device in reply.as_(_Devices).devices)


def device(name: str, *, purpose: Purpose | None = None) -> Plan[Device]:
    """One device. Raises NotFound."""
    return (yield get(f"/devices/{quote(name)}", purpose=purpose)).as_(Device)


def series(since: datetime, until: datetime, **what: Unpack[What]) -> Plan[pl.DataFrame]:
    """Windows of fields in [since, until), all pages of it, as one frame.

    Columns: site, device, field, resolution (served), grid, start, end, value, coverage, lowest, highest.

    Raises:
        NotFound: a site or device that was named is not shared.
        TooCostly: not even one device's answer is small enough; ``export`` has no such limit.

    """
    replies = yield from pages(_arrow("/series", since, until, what))
    return pl.concat([rows_of_arrow(reply.body) for reply in replies])


def latest(**what: Unpack[What]) -> Plan[pl.DataFrame]:
    """The last window or reading of each device and field, columns as of ``series``."""
    replies = yield from pages(replace(get("/latest", **what), accept=ARROW))
    return pl.concat([rows_of_arrow(reply.body) for reply in replies])


def changes(since: datetime, cursor: str | None = None, **what: Unpack[What]) -> Plan[Changes]:
    """Windows from ``since`` on that are new or corrected since the answer that ``cursor`` is of; all without one.

    Raises:
        CursorExpired: the cursor is older than a day: begin anew without one.

    """
    told = (yield get("/changes", from_=since, cursor=cursor, **what)).as_(_Changes)
    return Changes(rows_of_series(told.series), told.devices, told.renewed, told.next)


def alerts(
    since: datetime,
    until: datetime,
    *,
    purpose: Purpose | None = None,
    sites: Collection[str] | None = None,
    devices: Collection[str] | None = None,
    open_only: bool = False,
) -> Plan[tuple[Alert, ...]]:
    """Alerts in [since, until) of devices of which they are granted."""
    asked = {"purpose": purpose, "sites": sites, "devices": devices, "open": "true" if open_only else None}
    return (yield get("/alerts", from_=since, to=until, **asked)).as_(_Alerts).alerts


def grants(*, purpose: Purpose | None = None) -> Plan[tuple[GrantSeen, ...]]:
    """Grants under which something is seen."""
    replies = yield from pages(get("/grants", purpose=purpose, limit=1000))
    return tuple(grant for reply in replies for grant in reply.as_(_Grants).grants)


def _arrow(path: str, since: datetime, until: datetime, what: What) -> Request:
    return replace(get(path, from_=since, to=until, **what), accept=ARROW)


def export_of(
    into: str | Path | BinaryIO, since: datetime, until: datetime, form: ExportForm, what: What, *, path: str
) -> Plan[None]:
    """An export into a file, which is there under its name only if it is whole."""
    request = replace(get(path, from_=since, to=until, **what), accept=_MEDIA_TYPES[form])
    if not isinstance(into, str | Path):
        yield replace(request, into=into)
        return
    target = Path(into)
    part = target.with_name(f".{target.name}.part")
    try:
        with part.open("wb") as file:
            yield replace(request, into=file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def export(
    into: str | Path | BinaryIO, since: datetime, until: datetime, form: ExportForm = "parquet", **what: Unpack[What]
) -> Plan[None]:
    """All rows of [since, until), however many, streamed into a file. Memory is that of one piece.

    ``into``: a path, which appears only once the file is whole, or a binary file, to which what came is written.

    Raises:
        NotFound: nothing is shared, or not what was named.
        Unreachable: the export was broken off, as where a grant is withdrawn meanwhile; it is not asked for again.

    """
    yield from export_of(into, since, until, form, what, path="/export")
