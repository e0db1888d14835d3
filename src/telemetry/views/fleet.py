"""Pages of sites: names, places, kinds, when last seen, and what is shared of each kind; no values."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.views.alerts import read_alerts
from telemetry.views.latest import last_windows
from telemetry.views.query import WHOLE, Part, Query, Way
from telemetry.views.sight import Viewer
from telemetry.views.view import Opened, View, Views, subjects_of

LOOK_BACK: Final = timedelta(days=35)  # as long as devices may send what they buffered
AFTER_ALL_DEVICES: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class FleetPage:
    """Sites in the order of names.

    ``sites``: site, place, latitude, longitude (null where withheld), kinds (list, sorted), devices (how many are
    seen), last_seen (the end of the window that starts last of those shown of any device; null where none starts in the
    last 35 days), alerts_open (how many alerts shown are open; null where alerts are granted of no device there).
    ``shared``: site, kind, field, resolution (the finest). ``not_shared``: site, kind, field. ``after``: the name
    after which the next page begins, None at the end.
    """

    sites: pl.DataFrame
    shared: pl.DataFrame
    not_shared: pl.DataFrame
    after: str | None


@dataclass(frozen=True, slots=True)
class FleetQuery:
    """A page of at most ``at_most`` sites after the name ``after``; ``sites``: of these names alone."""

    purpose: SharingPurpose
    at_most: int = 100
    after: str | None = None
    sites: frozenset[str] | None = None
    timezone: str = "UTC"


async def fleet(views: Views, viewer: Viewer, asked: FleetQuery, *, way: Way = Way.VIEW) -> FleetPage:
    """One page of the sites that are seen.

    Raises:
        NotVisible: a site asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    after = None if asked.after is None else (asked.after, AFTER_ALL_DEVICES)
    part = Part(after=after, at_most_sites=asked.at_most + 1)
    query = _query(asked.purpose, asked.timezone, sites=asked.sites)
    async with views.opened(viewer, query, part, way) as seen:
        view = await _listed(views, seen, query)
        alerts = await _open_alerts(seen, query)
    names = view.devices["site"].unique(maintain_order=True)
    more = names.len() > asked.at_most
    page = names.head(asked.at_most)
    devices = view.devices.filter(pl.col("site").is_in(page.implode()))
    return FleetPage(
        _sites(devices, alerts),
        _kinds(view.shared, devices),
        _kinds(view.not_shared, devices),
        page[-1] if more else None,
    )


async def roster(views: Views, viewer: Viewer, query: Query, *, part: Part = WHOLE, way: Way = Way.VIEW) -> View:
    """The devices that are seen, when each was last seen in the range, and what is shared of each; without rows.

    ``last_seen``: the end of the window that starts last.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    async with views.opened(viewer, query, part, way) as seen:
        return await _listed(views, seen, query)


async def _listed(views: Views, seen: Opened, query: Query) -> View:
    subjects = subjects_of(seen, query)
    rows = await last_windows(views, seen, subjects, query, of_devices=True)
    view = await views.made(seen, query, subjects, rows)
    return replace(view, rows=view.rows.clear())


async def _open_alerts(seen: Opened, query: Query) -> dict[str, int | None]:
    """How many alerts shown are open, by site; None where alerts are granted of no device there."""
    granted = {seen.named.sites[device.site_key] for device in seen.named.devices if device.view.alerts}
    counts: dict[str, int | None] = {site: 0 if site in granted else None for site in seen.named.sites.values()}
    looks = set()
    for alert in await read_alerts(seen.connection, seen.sight, seen.named, query.range_us):
        if alert.closed_us is None:
            looks.add((alert.site, alert.device, alert.kind, alert.severity, alert.opened_us))
    for site, *_ in looks:  # alerts that look the same are one
        counts[site] = (counts[site] or 0) + 1
    return counts


def roster_query(
    purpose: SharingPurpose,
    *,
    sites: frozenset[str] | None = None,
    devices: frozenset[str] | None = None,
    timezone: str = "UTC",
) -> Query:
    """What ``roster`` is asked for all that is seen, or for what is named."""
    return _query(purpose, timezone, sites=sites, devices=devices)


def _query(
    purpose: SharingPurpose,
    timezone: str,
    *,
    sites: frozenset[str] | None = None,
    devices: frozenset[str] | None = None,
) -> Query:
    now = datetime.now(UTC)
    return Query(
        purpose, now - LOOK_BACK, now + timedelta(hours=1), Resolution.RAW, None, sites, devices, timezone=timezone
    )


def _sites(devices: pl.DataFrame, alerts: Mapping[str, int | None]) -> pl.DataFrame:
    found = devices.group_by("site", maintain_order=True).agg(
        pl.col("place", "latitude", "longitude").first(),
        pl.col("kind").unique().sort().alias("kinds"),
        pl.len().alias("devices"),
        pl.col("last_seen").max(),
    )
    opened = pl.Series("alerts_open", [alerts.get(site) for site in found["site"]], pl.Int64)
    return found.with_columns(opened)


def _kinds(fields: pl.DataFrame, devices: pl.DataFrame) -> pl.DataFrame:
    """Fields by device as fields by kind: what is granted is granted of a kind (rule 18), so one device tells it."""
    about = devices.select("site", "device", "kind").unique(["site", "kind"], keep="first", maintain_order=True)
    more = [name for name in fields.columns if name != "device"]
    return about.join(fields, on="device", maintain_order="left_right").select("site", "kind", *more)
