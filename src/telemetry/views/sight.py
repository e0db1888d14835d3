"""Who is seen: devices with what is granted of each, read in the snapshot that the data is read in."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from telemetry.model.fields import CATALOGUE, DeviceKind
from telemetry.model.series import has_extremes
from telemetry.model.sharing import Grant, PlaceSetting, Resolution, SerialSetting, SharingPurpose
from telemetry.privacy.combine import (
    KindView,
    Objection,
    Restriction,
    SiteView,
    Span,
    Standing,
    Tenure,
    combine,
    instant_us,
)
from telemetry.store.failures import reported
from telemetry.store.grant_rows import grant_of
from telemetry.store.sql import queries

_SQL: Final = queries("views")
_EVER_US: Final = -(2**62)

Seen = tuple[Sequence[int], Sequence[int]]
"""Keys of devices and of sites."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who looks: a recipient for one purpose, or an owner at the own data (rule 25). ``scope``: at these alone."""

    recipient_key: int | None = None
    purpose: SharingPurpose | None = None
    owner_key: int | None = None
    scope: tuple[int, ...] | None = None

    @property
    def settings(self) -> tuple[str, str, str, str]:
        """What row-level security is told, in the order of the statement ``look``."""
        scope = "" if self.scope is None else "{" + ",".join(map(str, self.scope)) + "}"
        recipient = "" if self.recipient_key is None else str(self.recipient_key)
        owner = "" if self.owner_key is None else str(self.owner_key)
        return recipient, self.purpose or "", owner, scope


@dataclass(frozen=True, slots=True)
class SeenDevice:
    """One device, and what of it is visible. ``place``: what is granted of its site."""

    device_key: int
    site_key: int
    owner_key: int
    kind: DeviceKind
    view: KindView
    place: PlaceSetting
    day_grid: int
    tenure: Tenure


@dataclass(frozen=True, slots=True)
class Place:
    """What is stored of a site's place. ``label``: the cell stored for this recipient."""

    country: str | None = None
    region: str | None = None
    timezone: str = "UTC"
    label: int | None = None


@dataclass(frozen=True, slots=True)
class Sight:
    """All that one snapshot shows of settings. ``epochs``: token epoch by owner."""

    viewer: Viewer
    now: datetime
    devices: tuple[SeenDevice, ...]
    epochs: Mapping[int, int]
    places: Mapping[int, Place]

    def of_sites(self, site_keys: set[int]) -> "Sight":
        """The same of these sites alone."""
        return replace(self, devices=tuple(device for device in self.devices if device.site_key in site_keys))


@contextlib.asynccontextmanager
async def snapshot(connection: Any, viewer: Viewer) -> AsyncIterator[datetime]:
    """One transaction that sees one state of everything; gives its time. Commits what was recorded in it."""
    with reported("reading a view"):
        async with connection.transaction(isolation="repeatable_read"):
            row = await connection.fetchrow(_SQL["look"], *viewer.settings)
            yield row["now"]


async def look(connection: Any, viewer: Viewer, now: datetime, seen: Seen | None = None) -> Sight:
    """Read and add up the settings, inside of ``snapshot``. ``seen``: what row-level security shows, if it is known."""
    rows = await _rows(connection, seen)
    devices: tuple[SeenDevice, ...]
    if viewer.owner_key is not None:
        own = own_view(now)
        devices = tuple(_seen(row, own) for row in rows)
        epochs: dict[int, int] = {}
    else:
        grants, standings, epochs = await _settings(connection, sorted({row["owner_key"] for row in rows}), now)
        devices = tuple(_devices(rows, grants, standings, now))
        owners = {device.owner_key for device in devices}
        epochs = {owner: epoch for owner, epoch in epochs.items() if owner in owners}
    return Sight(viewer, now, devices, epochs, await _places(connection, devices))


@dataclass(frozen=True, slots=True)
class Proposal:
    """Grants of one owner, recipient and purpose that need not be made, and what stands against them.

    ``epoch``: the token epoch that they are or would be of.
    """

    owner_key: int
    recipient_key: int
    purpose: SharingPurpose
    grants: tuple[Grant, ...]
    standing: Standing
    epoch: int


async def look_as_if(connection: Any, proposal: Proposal, now: datetime) -> Sight:
    """What the recipient would see, inside of the owner's own ``snapshot``: added up as by ``look``.

    Rows are those that the owner may read; cells have no labels, which are made when a grant is.
    """
    owner = proposal.owner_key
    viewer = Viewer(proposal.recipient_key, proposal.purpose, scope=(owner,))
    found = _devices(await _rows(connection, None), {owner: proposal.grants}, {owner: proposal.standing}, now)
    devices = tuple(found)
    return Sight(viewer, now, devices, {owner: proposal.epoch}, await _places(connection, devices))


async def _rows(connection: Any, seen: Seen | None) -> Sequence[Mapping[str, Any]]:
    """Devices with their sites: device_key, kind, site_key, owner_key, tenure_from, tenure_until."""
    if seen is None:
        row = await connection.fetchrow(_SQL["seen"])
        seen = row["devices"], row["sites"]
    found: Sequence[Mapping[str, Any]] = await connection.fetch(_SQL["devices"], *seen)
    return found


def own_view(now: datetime) -> SiteView:
    """Everything (rule 25): all fields as fine as they are kept, minimum and maximum, real serials, the place."""
    now_us = instant_us(now)
    fields = {f.name: (Span(Resolution.RAW.rank, _EVER_US, now_us, has_extremes(f)),) for f in CATALOGUE}
    alerts = (Span(Resolution.RAW.rank, _EVER_US, now_us),)
    view = KindView(fields, SerialSetting.REAL, real_time_alerts=True, alerts=alerts)
    return SiteView(dict.fromkeys(DeviceKind, view), PlaceSetting.EXACT)


async def _settings(
    connection: Any, owners: Sequence[int], now: datetime
) -> tuple[dict[int, list[Grant]], dict[int, Standing], dict[int, int]]:
    """Grants, what stands against them, and token epochs, by owner."""
    grants: dict[int, list[Grant]] = {}
    for row in await connection.fetch(_SQL["grants"], owners):
        grants.setdefault(row["owner_key"], []).append(grant_of(row))
    denials = await connection.fetchrow(_SQL["denials"], owners)
    closed = denials["closed_at"] is not None and denials["closed_at"] <= now
    restrictions: dict[int, list[Restriction]] = {}
    for row in await connection.fetch(_SQL["restrictions"], owners) if denials["restricted"] else ():
        lifted = None if row["lifted_at"] is None else instant_us(row["lifted_at"])
        restrictions.setdefault(row["owner_key"], []).append(Restriction(instant_us(row["from_at"]), lifted))
    objections: dict[int, list[Objection]] = {}
    for row in await connection.fetch(_SQL["objections"], owners) if denials["objected"] else ():
        objections.setdefault(row["owner_key"], []).append(Objection(row["purpose"], row["recipient_key"]))
    erased, expired = set(denials["erased"]), frozenset(denials["expired"])
    standings = {
        owner: Standing(
            owner in erased,
            closed,
            tuple(restrictions.get(owner, ())),
            tuple(objections.get(owner, ())),
            expired,
        )
        for owner in grants
    }
    return grants, standings, dict(zip(denials["related"], denials["epochs"], strict=True))


def _devices(
    rows: Sequence[Mapping[str, Any]],
    grants: Mapping[int, Sequence[Grant]],
    standings: Mapping[int, Standing],
    now: datetime,
) -> Iterable[SeenDevice]:
    sites: dict[int, SiteView] = {}
    there: dict[int, set[DeviceKind]] = {}
    for row in rows:
        there.setdefault(row["site_key"], set()).add(DeviceKind(row["kind"]))
    for row in rows:
        owner, site = row["owner_key"], row["site_key"]
        if site not in sites:
            standing = standings.get(owner, Standing())
            sites[site] = combine(grants.get(owner, ()), site, standing, now, kinds_there=there[site])
        if DeviceKind(row["kind"]) in sites[site].kinds:
            yield _seen(row, sites[site])


def _seen(row: Mapping[str, Any], site: SiteView) -> SeenDevice:
    edges = [None if row[name] is None else instant_us(row[name]) for name in ("tenure_from", "tenure_until")]
    kind = DeviceKind(row["kind"])
    return SeenDevice(
        row["device_key"],
        row["site_key"],
        row["owner_key"],
        kind,
        site.kinds[kind],
        site.place,
        site.day_grid,
        Tenure(*edges),
    )


async def _places(connection: Any, devices: Iterable[SeenDevice]) -> dict[int, Place]:
    granted = {device.site_key: device.place for device in devices}
    if all(place is PlaceSetting.WITHHELD for place in granted.values()):
        return {}
    found = {}
    for row in await connection.fetch(_SQL["places"], list(granted)):
        place = granted.get(row["site_key"], PlaceSetting.WITHHELD)
        if place is PlaceSetting.WITHHELD:
            continue
        own_days = place.rank >= PlaceSetting.REGION.rank
        found[row["site_key"]] = Place(
            row["country"],
            row["region"] if own_days else None,
            row["timezone"] if own_days else "UTC",
            row["label"],
        )
    return found
