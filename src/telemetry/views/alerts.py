"""Alerts as a recipient, or the owner, is shown them: where the class ``alert`` is granted, at that resolution.

An alert is seen where its last instant (now, while it is open) is granted. That it began before what is granted is
shown as no beginning. Below real time it appears when the window in which it was found is over, and its times are the
edges of the windows that they lie in (rules 17, 18, 20 to 22). Instants asked for are compared with those shown alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import polars as pl

from telemetry.model.alert import AlertKind
from telemetry.model.fields import CATALOGUE, DataClass
from telemetry.model.series import UTC_GRID
from telemetry.model.sharing import RESOLUTIONS, Resolution
from telemetry.privacy.combine import Interval, Span, instant_us, merged, newest_visible_us, own_days
from telemetry.privacy.resolution import UTC_ZONE, last_boundary, window_ends, window_starts
from telemetry.store.sql import queries
from telemetry.views.naming import Named
from telemetry.views.query import Query, Way
from telemetry.views.sight import SeenDevice, Sight, Viewer
from telemetry.views.view import Views
from telemetry.views.windows import alignment

_SQL: Final = queries("alerts")
_RECORD: Final = queries("views")["record"]
_MARGIN_US: Final = 33 * 86_400_000_000  # times shown lie so far at most from what they are
_RAW: Final = Resolution.RAW.rank
_FIELDS: Final = tuple(field.name for field in CATALOGUE if field.data_class is DataClass.ALERT)

# ``opened``: null where it began before what is granted; ``closed``: null while it is open. ``resolution``: the coarser
# of those that both are told at.
ALERT_SCHEMA: Final[Mapping[str, Any]] = {
    "site": pl.String(),
    "device": pl.String(),
    "kind": pl.String(),
    "severity": pl.Int16(),  # RFC 5424, 0 the worst
    "opened": pl.Datetime("us", "UTC"),
    "closed": pl.Datetime("us", "UTC"),
    "resolution": pl.String(),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """One alert as shown. ``alert_key`` and ``found_us`` leave the service nowhere. Instants in µs."""

    alert_key: int
    site: str
    device: str
    kind: AlertKind
    severity: int
    opened_us: int | None
    closed_us: int | None
    rank: int
    found_us: int


async def alerts(
    views: Views, viewer: Viewer, query: Query, *, open_only: bool = False, way: Way = Way.VIEW
) -> pl.DataFrame:
    """ALERT_SCHEMA: the alerts of which some part, as shown, lies in the range asked for; in the order of names.

    ``query``: purpose, range, sites, devices and timezone count. Alerts that look the same are one. An owner sees all
    of the own tenure, to the microsecond. Recorded for the owners concerned as a look at the class ``alert``.

    Raises:
        NotVisible: a site or device asked for does not exist or is not shared.
        StoreUnavailable: try again.

    """
    async with views.seeing(viewer) as (connection, sight, seen):
        named = seen.asked(query)
        found = await read_alerts(connection, sight, named, query.range_us)
        await record_look(connection, viewer, named, query, way)
    since, until = query.range_us
    rows = [
        (shown.site, shown.device, shown.kind.label, shown.severity, shown.opened_us, shown.closed_us, shown.rank)
        for shown in found
        if (shown.opened_us is None or shown.opened_us < until)
        and (shown.closed_us is None or (shown.closed_us > since and not open_only))
    ]
    schema = dict(ALERT_SCHEMA) | {"opened": pl.Int64, "closed": pl.Int64, "resolution": pl.Int64}
    frame = pl.DataFrame(rows, schema=schema, orient="row").unique()
    times = [pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone("UTC") for name in ("opened", "closed")]
    served = {resolution.rank: resolution.value for resolution in RESOLUTIONS}
    return (
        frame.sort("site", "device", "opened", "kind", "closed", "severity", nulls_last=True)
        .with_columns(*times, pl.col("resolution").replace_strict(served, return_dtype=pl.String))
        .with_columns(pl.col("opened", "closed").dt.convert_time_zone(query.timezone))
    )


async def read_alerts(
    connection: Any,
    sight: Sight,
    named: Named,
    range_us: Interval,
    *,
    keys: Sequence[int] | None = None,
    found_since_us: int | None = None,
) -> list[Shown]:
    """What is shown of these devices, in their order; at least what touches the range. Inside of ``Views.seeing``.

    ``keys``: of these alerts alone. ``found_since_us``: only what began or ended to be known since then.
    """
    devices = {device.device_key: (device, name) for device, name in zip(named.devices, named.names, strict=True)}
    granted = [key for key, (device, _) in devices.items() if device.view.alerts]
    if not granted:
        return []
    since, until = range_us[0] - _MARGIN_US, range_us[1] + _MARGIN_US
    wanted = None if keys is None else list(keys)
    rows = await connection.fetch(_SQL["seen"], granted, since, until, wanted, found_since_us)
    now_us, found = instant_us(sight.now), []
    for row in rows:
        device, name = devices[row["device_key"]]
        zone = sight.places[device.site_key].timezone if device.site_key in sight.places else UTC_ZONE
        if shown := _shown(row, device, (named.sites[device.site_key], name), zone, now_us):
            found.append(shown)
    return sorted(found, key=lambda one: (one.site, one.device, one.opened_us or 0, one.kind, one.alert_key))


def _shown(row: Mapping[str, Any], device: SeenDevice, named: tuple[str, str], zone: str, now_us: int) -> Shown | None:
    """The alert at the finest resolution that covers its last instant; None where there is none, or not yet.

    Where a coarser grant reaches further back, it says when the alert began.
    """
    spans = device.view.alerts
    found: Shown | None = None
    for rank in sorted({span.rank for span in spans}):
        window = _Windows(rank, device.day_grid, zone, spans)
        cutoff = window.cutoff(now_us)
        if max(row["opened"], row["found"]) > cutoff:
            continue
        closed: int | None = row["closed"]
        if closed is not None and max(closed, row["settled"]) > cutoff:
            closed = None
        last = now_us - 1 if closed is None else closed
        holding = next((part for part in window.granted if part[0] <= last < part[1]), None)
        if holding is None:
            continue
        opened = window.start(row["opened"]) if row["opened"] >= holding[0] else None
        if found is None:
            ended = None if closed is None else window.end(closed)
            kind = AlertKind(row["kind"])
            found = Shown(row["alert_key"], *named, kind, row["severity"], opened, ended, rank, row["found"])
        elif opened is not None:
            found = replace(found, opened_us=opened, rank=rank)
        if found.opened_us is not None:
            break
    return found


class _Windows:
    """The windows of one granted resolution, and the instants that it or a finer one covers."""

    def __init__(self, rank: int, day_grid: int, zone: str, spans: Iterable[Span]) -> None:
        self._rank, self._resolution = rank, RESOLUTIONS[rank]
        self.granted = merged((span.from_us, span.to_us) for span in spans if span.rank <= rank)
        coarse = rank >= Resolution.P1D.rank
        self._grid = own_days(spans, day_grid, alignment(zone)) if coarse else UTC_GRID
        self._zone = zone if self._grid != UTC_GRID else UTC_ZONE

    def cutoff(self, now_us: int) -> int:
        """What was known by then may be shown (rule 17); in real time that is now."""
        if self._rank == _RAW:
            return now_us
        return last_boundary(newest_visible_us(now_us), self._resolution, self._grid, self._zone) - 1

    def start(self, at_us: int) -> int:
        return at_us if self._rank == _RAW else window_starts(at_us, self._resolution, self._grid, self._zone)

    def end(self, at_us: int) -> int:
        return at_us if self._rank == _RAW else window_ends(self.start(at_us), self._resolution, self._grid, self._zone)


async def record_look(connection: Any, viewer: Viewer, named: Named, query: Query, way: Way) -> None:
    """For each owner concerned that alerts were looked at; an owner's own look is not recorded."""
    if viewer.recipient_key is None or viewer.purpose is None:
        return
    ranks: dict[int, int] = {}
    for device in named.devices:
        for span in device.view.alerts:
            ranks[device.owner_key] = min(span.rank, ranks.get(device.owner_key, span.rank))
    for rank in sorted(set(ranks.values())):
        owners = sorted(owner for owner, finest in ranks.items() if finest == rank)
        about = (viewer.recipient_key, owners, viewer.purpose.value, way.value, list(_FIELDS), rank)
        await connection.execute(_RECORD, *about, query.since, query.until)
