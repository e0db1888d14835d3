"""What a recipient may see of a site: the grants of one purpose added up (rules 10 and 16 to 22). Pure.

Grants are of one owner, recipient and purpose. Instants are µs since 1970 UTC; intervals hold their start and not
their end. What was granted finer never helps a coarser grant to reach further back, and a coarser grant never
supports a finer window: so a field has *spans*, each with its own resolution, and a window of some resolution is
visible where spans of that resolution or finer cover every instant that may have shaped it
(docs/decisions/0030-sharing-frame.md).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from telemetry.model.fields import CATALOGUE, FIELD_NAMES, FIELDS_OF_KIND, DataClass, DeviceKind, Field
from telemetry.model.series import (
    AGGREGATES,
    GAP_MAX_US,
    HOLD_MAX_US,
    LATENESS_US,
    SITE_GRID,
    UTC_GRID,
    Aggregate,
    has_extremes,
)
from telemetry.model.sharing import RESOLUTIONS, Grant, PlaceSetting, Resolution, SerialSetting

Interval = tuple[int, int]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_DAY_RANK: Final = Resolution.P1D.rank


def instant_us(instant: datetime) -> int:
    """µs since 1970 UTC, exactly."""
    return (instant - _EPOCH) // _US


@dataclass(frozen=True, slots=True)
class Restriction:
    """Processing restricted from an instant on; ``lifted_us`` None while it is in force.

    One that was just made counts even where its clock is ahead of the reader's.
    """

    from_us: int
    lifted_us: int | None = None


@dataclass(frozen=True, slots=True)
class Objection:
    """An objection that stands: to a purpose, of one recipient or (None) of all."""

    purpose: str
    recipient_key: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands against the grants of one owner and recipient. Denials win over every grant."""

    owner_erased: bool = False
    recipient_closed: bool = False
    restrictions: tuple[Restriction, ...] = ()
    objections: tuple[Objection, ...] = ()
    expired_policies: frozenset[str] = frozenset()

    def denies(self, grant: Grant, now_us: int) -> bool:
        """Whether the grant counts for nothing, for all instants."""
        return (
            self.owner_erased
            or self.recipient_closed
            or grant.policy in self.expired_policies
            or any(r.lifted_us is None or now_us < r.lifted_us for r in self.restrictions)
            or any(
                o.purpose == grant.terms.purpose and o.recipient_key in {None, grant.recipient_key}
                for o in self.objections
            )
        )


@dataclass(frozen=True, slots=True)
class Tenure:
    """When the site was the owner's; None without that edge."""

    from_us: int | None = None
    until_us: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Instants that one grant covers for one field, at the grant's resolution (``Resolution.rank``)."""

    rank: int
    from_us: int
    to_us: int
    extremes: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """Windows of one resolution, on one grid, that a field is served at.

    A window is shown where ``allowed`` covers its guard and ``finer``, what is served finer already, does not. Where
    ``finer`` is all of ``allowed``, only windows that are kept no finer are shown.
    """

    rank: int
    allowed: tuple[Interval, ...]
    finer: tuple[Interval, ...] = ()
    extremes: tuple[Interval, ...] = ()
    grid: int = UTC_GRID


@dataclass(frozen=True, slots=True)
class KindView:
    """What is visible of one kind of device at one site. Fields that are not granted are absent.

    ``alerts``: spans of grants that name the class ``alert`` as a class: what alerts are shown by.
    """

    fields: Mapping[str, tuple[Span, ...]]
    serial: SerialSetting
    real_time_alerts: bool
    alerts: tuple[Span, ...] = ()

    def finest(self, field: str) -> Resolution | None:
        """The finest resolution granted at any instant (rule 19), None where the field is not granted."""
        spans = self.fields.get(field)
        return RESOLUTIONS[min(span.rank for span in spans)] if spans else None


@dataclass(frozen=True, slots=True)
class SiteView:
    """What is visible of one site for one purpose. ``kinds`` without entries: the site does not exist (rule 22).

    ``day_grid``: the one grid on which days and months are shown where nothing finer is granted. Days on both
    would, subtracted, give hours at the days' edges.
    """

    kinds: Mapping[DeviceKind, KindView]
    place: PlaceSetting

    @property
    def day_grid(self) -> int:
        """The site's own only with place at region or finer: where a day begins is a place (rule 10)."""
        return SITE_GRID if self.place.rank >= PlaceSetting.REGION.rank else UTC_GRID


def in_force(grants: Iterable[Grant], standing: Standing, now: datetime) -> tuple[Grant, ...]:
    """The grants that count at ``now``, in the order given."""
    now_us = instant_us(now)
    return tuple(grant for grant in grants if grant.active(now) and not standing.denies(grant, now_us))


def combine(
    grants: Iterable[Grant],
    site_key: int,
    standing: Standing,
    now: datetime,
    *,
    kinds_there: Iterable[DeviceKind] = DeviceKind,
) -> SiteView:
    """Add up what grants of one owner, recipient and purpose allow of one site, for the kinds of device there.

    Raises:
        ValueError: the grants are of several owners, recipients or purposes, which never add up (rule 18).

    """
    counting = [grant for grant in in_force(grants, standing, now) if covers_site(grant, site_key)]
    if len({(grant.owner_key, grant.recipient_key, grant.terms.purpose) for grant in counting}) > 1:
        raise ValueError("grants of different owners, recipients or purposes never add up")
    kinds = {}
    for kind in kinds_there:
        of_kind = [grant for grant in counting if grant.terms.kinds is None or kind in grant.terms.kinds]
        if of_kind:
            kinds[kind] = _kind_view(of_kind, standing, now)
    place = max((grant.terms.place for grant in counting), key=lambda p: p.rank, default=PlaceSetting.WITHHELD)
    return SiteView(kinds, place)


def covers_site(grant: Grant, site_key: int) -> bool:
    """Whether the grant names the site, or all sites."""
    return grant.terms.sites is None or site_key in grant.terms.sites


def _kind_view(grants: Sequence[Grant], standing: Standing, now: datetime) -> KindView:
    found: dict[str, tuple[Span, ...]] = {}
    alerts: list[Span] = []
    for grant in grants:
        terms, intervals = grant.terms, permitted_instants(grant, standing, now)
        # Shared by all the fields that the grant names: there are many of them, and many grants.
        plain = tuple(Span(terms.resolution.rank, *each) for each in intervals)
        rich = (
            tuple(Span(terms.resolution.rank, *each, extremes=True) for each in intervals) if terms.extremes else plain
        )
        for name, extremes in _admitted(terms.classes, terms.fields):
            spans = rich if extremes else plain
            found[name] = tuple(sorted(found[name] + spans)) if name in found else spans
        if DataClass.ALERT in terms.classes:
            alerts += plain
    fields = found if len(grants) == 1 else {name: found[name] for name in FIELD_NAMES if name in found}
    real_time = any(
        DataClass.ALERT in grant.terms.classes and grant.terms.resolution is Resolution.RAW for grant in grants
    )
    serial = max((grant.terms.serial for grant in grants), key=lambda s: s.rank)
    return KindView(fields, serial, real_time, tuple(sorted(alerts)))


@lru_cache(maxsize=4096)
def _admitted(classes: frozenset[DataClass], fields: frozenset[str]) -> tuple[tuple[str, bool], ...]:
    """The fields that a grant of these names, and whether each has a minimum and a maximum."""
    return tuple(
        (field.name, has_extremes(field)) for field in CATALOGUE if field.name in fields or field.data_class in classes
    )


def permitted_instants(grant: Grant, standing: Standing, now: datetime) -> tuple[Interval, ...]:
    """Instants that an active grant covers: from its history or ``data_from`` on, to now, less restrictions."""
    now_us, terms = instant_us(now), grant.terms
    start = terms.data_from or terms.start or grant.recorded_at
    from_us = instant_us(start)
    if terms.history is not None:
        from_us = max(from_us, now_us - terms.history // _US)
    left = [(from_us, now_us)] if from_us < now_us else []
    for restriction in standing.restrictions:
        end = now_us if restriction.lifted_us is None else restriction.lifted_us
        left = [part for interval in left for part in _without(interval, (restriction.from_us, end))]
    return tuple(left)


def _without(interval: Interval, hole: Interval) -> list[Interval]:
    parts = [(interval[0], min(interval[1], hole[0])), (max(interval[0], hole[1]), interval[1])]
    return [(start, end) for start, end in parts if start < end] if hole[0] < hole[1] else [interval]


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same instants as disjoint intervals, neighbours joined, in order."""
    joined: list[Interval] = []
    for start, end in sorted(intervals):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def supports(span_rank: int, rank: int, grid: int, own: int) -> bool:
    """Whether a grant at ``span_rank`` admits windows of ``rank`` on ``grid`` (rule 20: a multiple, same grid).

    Every resolution divides each coarser one on the UTC grid. ``own``: the grid of the field's days; granted windows
    from a day on lie on it, and without it the site's own days are nobody's to see (rule 10).
    """
    if span_rank > rank or (grid == SITE_GRID and own != SITE_GRID):
        return False
    return span_rank < _DAY_RANK or grid == own


def own_days(spans: Iterable[Span], day_grid: int, align_min: int) -> int:
    """The grid of a field's days and months: the site's own only where no finer granted window is cut by them.

    Own days in half-hour zones beside granted hours would, subtracted, give half hours.
    """
    minutes = [RESOLUTIONS[span.rank].minutes or 1 for span in spans if span.rank < _DAY_RANK]
    return day_grid if all(align_min % each == 0 for each in minutes) else UTC_GRID


def levels(
    spans: Sequence[Span],
    asked: Resolution,
    *,
    grid: int | None = None,
    day_grid: int = UTC_GRID,
    align_min: int = 60,
    kept: Iterable[int] = (),
) -> tuple[Level, ...]:
    """The resolutions a field is served at when ``asked`` is, finest first.

    Served is the coarser of asked and granted (rule 20); where a coarser grant reaches further back than a finer
    one, its windows fill in what the finer does not show. ``kept``: resolutions of stored windows; where one is
    coarser than what is granted, it is served as it is kept. ``grid``: of days and months, None for the field's own.
    """
    found: list[Level] = []
    served: tuple[Interval, ...] = ()
    own = own_days(spans, day_grid, align_min)
    granted = {max(span.rank, asked.rank) for span in spans}
    for rank in sorted(granted | {rank for rank in kept if rank > min(granted, default=rank)}):
        on = UTC_GRID if rank < _DAY_RANK else own if grid is None else grid
        usable = [span for span in spans if supports(span.rank, rank, on, own)]
        allowed = merged((span.from_us, span.to_us) for span in usable)
        if allowed:
            extremes = merged((span.from_us, span.to_us) for span in usable if span.extremes)
            found.append(Level(rank, allowed, served if rank in granted else allowed, extremes, on))
            served = allowed
    return tuple(found)


_GUARDS: Final = {Aggregate.INTEGRAL: (HOLD_MAX_US, 0), Aggregate.INCREMENT: (GAP_MAX_US, GAP_MAX_US)}


def guard_of(field_index: int) -> tuple[int, int]:
    """How far before and after a window of this field lie instants that may have shaped it, in µs."""
    return _GUARDS.get(AGGREGATES[field_index], (0, 0))


def guard(field_index: int, window: Interval, tenure: Tenure, now_us: int) -> Interval:
    """The instants that may have shaped a window: none lies after now or outside of the tenure."""
    before, after = guard_of(field_index)
    start, end = window[0] - before, min(window[1] + after, now_us)
    if tenure.from_us is not None:
        start = max(start, tenure.from_us)
    if tenure.until_us is not None:
        end = min(end, tenure.until_us)
    return start, end


def covered(interval: Interval, by: Iterable[Interval]) -> bool:
    """Whether one of the disjoint intervals ``by`` holds all of a non-empty ``interval``."""
    return interval[0] < interval[1] and any(start <= interval[0] and interval[1] <= end for start, end in by)


def newest_visible_us(now_us: int) -> int:
    """What is over by then may be shown (rule 17); the grid served cuts it further."""
    return now_us - LATENESS_US


def not_shared(kind: DeviceKind, view: KindView) -> tuple[Field, ...]:
    """The catalogue's fields of this kind that are not granted, whether or not the device reports them (rule 22)."""
    return _not_among(kind, tuple(view.fields))


@lru_cache(maxsize=4096)
def _not_among(kind: DeviceKind, fields: tuple[str, ...]) -> tuple[Field, ...]:
    return tuple(field for field in CATALOGUE if field.name in FIELDS_OF_KIND[kind] and field.name not in fields)
