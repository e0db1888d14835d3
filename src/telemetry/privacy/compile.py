"""Compile what an owner settled into plan classes: one owner, in one go, without looking at any other.

For every site and kind of device (rules 7 and 8 of SEMANTICS.md, decision 0035):

- a field is kept if the owner keeps it for the own use or a grant in force admits it there, unless ``never`` names it;
- it is kept at the finest of the owner's wish, where it is kept for the own use, and of every such grant, but never
  finer than ``finest``. So grants that are finer, and live only, are served from hot rows and change nothing here;
- it expires by the owner's retention of its data class.

What comes out is checked against its own promise (``privacy.promise``) before anybody gets it. Pure: no clock, no I/O.
"""

from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from typing import Final

from telemetry.model.batch import Withheld
from telemetry.model.fields import CATALOGUE, DataClass, DeviceKind
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS, Grant, GrantState, GrantTerms, Keeping
from telemetry.privacy.plan import DATA_CLASSES, NOT_KEPT, PlanClass
from telemetry.privacy.promise import check_plan
from telemetry.privacy.settled import LATER, OwnerPlan, OwnerSettings

_EVERY_FIELD: Final = frozenset(range(len(CATALOGUE)))


def compile_owner(settings: OwnerSettings, now: datetime) -> OwnerPlan:
    """The owner's plan at ``now``.

    Raises:
        PlanError: what was compiled breaks its promise: a defect.

    """
    grants = [grant for grant in settings.grants if grant.active(now) and not _hindered(settings, grant, now)]
    known: dict[tuple[int, ...], PlanClass] = {}
    classes = {}
    for site in (*settings.sites, LATER):
        for kind in DeviceKind:
            here = [grant for grant in grants if _reaches(grant.terms, site, kind)]
            numbers = tuple(grant.grant_key for grant in here)
            if numbers not in known:
                known[numbers] = _class_of(settings, [grant.terms for grant in here])
            classes[site, kind] = known[numbers]
    plan = OwnerPlan(classes, None if settings.erased else _next_change(settings, now))
    check_plan(settings, plan, now)
    return plan


def _hindered(settings: OwnerSettings, grant: Grant, now: datetime) -> bool:
    """What stands against a grant that is active by itself: nobody may be shown what it admits."""
    if grant.policy not in settings.policies or grant.recipient_key in settings.closed:
        return True
    expires_at = settings.policies[grant.policy]
    if expires_at is not None and expires_at <= now:
        return True
    purpose = grant.terms.purpose
    return not settings.objections.isdisjoint({(purpose, None), (purpose, grant.recipient_key)})


def _reaches(terms: GrantTerms, site: int, kind: DeviceKind) -> bool:
    return (terms.sites is None or site in terms.sites) and (terms.kinds is None or kind in terms.kinds)


def _class_of(settings: OwnerSettings, admitted: Iterable[GrantTerms]) -> PlanClass:
    keeping = settings.keeping
    ranks = [NOT_KEPT] * len(CATALOGUE)
    if not settings.erased:
        finest = keeping.finest.rank
        for index in _own(keeping.classes, keeping.fields):
            ranks[index] = keeping.wished.rank  # never finer than `finest`: the model refuses that
        for terms in admitted:
            rank = max(terms.resolution.rank, finest)
            for index in _named(terms.classes, terms.fields):
                ranks[index] = min(ranks[index], rank)
        for index in _named(frozenset(), keeping.never):
            ranks[index] = NOT_KEPT
    return PlanClass(
        keep=bytes(rank != NOT_KEPT for rank in ranks),
        kept_resolution=bytes(ranks),
        retention_days=_retention(keeping),
        withhold=Withheld.ERASED if settings.erased else None,
    )


def _retention(keeping: Keeping) -> tuple[int, ...]:
    return tuple(keeping.retention_days.get(each, DEFAULT_RETENTION_DAYS) for each in DATA_CLASSES)


def _own(classes: frozenset[DataClass] | None, fields: frozenset[str]) -> frozenset[int]:
    """Catalogue indices of what the owner keeps for the own use."""
    return _EVERY_FIELD if classes is None else _named(classes, fields)


@lru_cache(maxsize=4096)
def _named(classes: frozenset[DataClass], fields: frozenset[str]) -> frozenset[int]:
    """Catalogue indices of the fields that are named or whose class is."""
    return frozenset(
        index for index, field in enumerate(CATALOGUE) if field.data_class in classes or field.name in fields
    )


def _next_change(settings: OwnerSettings, now: datetime) -> datetime | None:
    """The next instant at which some grant begins or ends by time."""
    instants = [
        instant
        for grant in settings.grants
        if grant.state is GrantState.ACTIVE
        for instant in (grant.terms.start, grant.terms.until, settings.policies.get(grant.policy))
        if instant is not None and instant > now
    ]
    return min(instants, default=None)
