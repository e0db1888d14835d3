"""What must hold before a grant is made: the rules as pure functions of settings, without a database.

Rule 8 (finer than what is kept), rule 18 (whence a grant reaches back), rule 19 (the solar curve beside the place).
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from pydantic import ValidationError

from telemetry.errors import HistoryTooFine, SharingError, SolarUnconfirmed
from telemetry.model.fields import CATALOGUE, DataClass, DeviceKind
from telemetry.model.sharing import (
    DEFAULT_RETENTION_DAYS,
    Grant,
    GrantTerms,
    Keeping,
    PlaceSetting,
    Resolution,
)
from telemetry.privacy.combine import KindView, Standing, combine
from telemetry.privacy.location import solar_warning_km

# What follows the sun: production, and the DC side's and the inverter's currents and voltages, which belong to
# operation. Grid and load power hold it too, mixed with the household (docs/LIMITS.md).
SOLAR_FIELDS: Final = frozenset(
    field.name
    for field in CATALOGUE
    if field.data_class is DataClass.PRODUCTION
    or (field.name.startswith(("dc_", "pv")) and field.name.endswith(("_v", "_a")))
    or (field.name.startswith("ac_current") and field.name.endswith("_a"))
)
EVERY_SITE: Final = 0  # no site's key: what is granted for all sites, later ones included
_WITHOUT_SUN: Final = frozenset({DeviceKind.BATTERY, DeviceKind.EV_CHARGER})
_INSTANT: Final = timedelta(microseconds=1)


def completed(terms: GrantTerms, previous: GrantTerms | None, at: datetime) -> GrantTerms:
    """The terms with start and data_from filled in, as of ``at``.

    A new version keeps the start of the one before, and its data_from where it allows nothing more; what is allowed
    anew reaches back only as far as was said (decision 0031).

    Raises:
        SharingError: a start that has passed, an end that has, or a start that would be moved after it began.

    """
    if terms.until is not None and terms.until <= at:
        raise SharingError("the grant would have ended already", remedy="choose a later `until`, or leave it out")
    start = terms.start or (previous.start if previous else None) or at
    begun = previous is not None and previous.start is not None and previous.start <= at
    if begun and previous is not None and start != previous.start:
        raise SharingError("the grant has begun; its start stays", remedy="leave `start` out")
    if not begun and start < at:
        raise SharingError("a grant starts now or later", remedy="leave `start` out; `data_from` shares earlier data")
    data_from = terms.data_from
    if data_from is None:
        kept = previous is not None and not wider(terms, previous)
        data_from = previous.data_from if kept and previous else max(start, at)
    instants = {"start": start, "data_from": data_from, "until": terms.until}
    return _renewed(terms, **{name: value and value.astimezone(UTC) for name, value in instants.items()})


def wider(terms: GrantTerms, than: GrantTerms) -> bool:
    """Whether a grant shows more of the past than another would: a field, site, kind, finer or with extremes."""
    more_fields = any(terms.admits(field.name) and not than.admits(field.name) for field in CATALOGUE)
    finer = terms.resolution.rank < than.resolution.rank or (terms.extremes and not than.extremes)
    return more_fields or finer or _beyond(terms.sites, than.sites) or _beyond(terms.kinds, than.kinds)


def check_history(terms: GrantTerms, keeping: Keeping, hot_retention: timedelta) -> None:
    """Rule 8: what is finer than may be kept can only be shown live.

    Raises:
        HistoryTooFine: naming both resolutions.

    """
    live = terms.history is not None and terms.history <= hot_retention
    if terms.resolution.rank < keeping.finest.rank and not live:
        hours = hot_retention.total_seconds() / 3600
        raise HistoryTooFine(
            f"{terms.resolution} is finer than what this owner lets be kept ({keeping.finest}), so there is no history",
            remedy=f"share {keeping.finest} or coarser, at most {hours:g} h of history, or let finer values be kept",
        )


SolarWarning = tuple[int, float, Resolution, PlaceSetting]
"""At which site (EVERY_SITE: those that no grant names), the error in kilometres, the series and the place."""


def check_solar(
    found: frozenset[SolarWarning], before: frozenset[SolarWarning], confirmed_km: Collection[float]
) -> None:
    """Rule 19 on the combined view of one owner, recipient and purpose, as it would be.

    ``before``: the warnings of what stood already, which were confirmed then and are not asked about again.

    Raises:
        SolarUnconfirmed: with the least error in kilometres, unless exactly that was confirmed.

    """
    new = sorted(found - before, key=lambda one: (one[1], one[2].rank, one[3].rank))
    if not new or new[0][1] in confirmed_km:
        return
    _, error, finest, place = new[0]
    shown = "no place" if place is PlaceSetting.WITHHELD else f"a place of {place}"
    raise SolarUnconfirmed(
        f"a solar curve of {finest} tells where the site is within about {error:g} km, though {shown} is granted",
        error_km=error,
    )


def solar_warnings(grants: Iterable[Grant], at: datetime) -> frozenset[SolarWarning]:
    """Where a solar curve undercuts the place granted beside it, by site.

    Every grant's beginning is looked at: what adds up later counts as well.
    """
    grants = list(grants)
    sites = {site for grant in grants for site in grant.terms.sites or ()} | {EVERY_SITE}
    instants = {at, *(grant.terms.start for grant in grants if grant.terms.start and grant.terms.start > at)}
    found: set[SolarWarning] = set()
    for instant in instants:
        for site in sites:
            # A moment later, when there are instants that the grants cover.
            view = combine(grants, site, Standing(), instant + _INSTANT)
            finest = finest_solar(view.kinds)
            error = solar_warning_km(finest, view.place)
            if error is not None and finest is not None:
                found.add((site, error, finest, view.place))
    return frozenset(found)


def finest_solar(kinds: Mapping[DeviceKind, KindView]) -> Resolution | None:
    """The finest series of what follows the sun, over the kinds of device that measure it."""
    found = [
        finest
        for kind, view in kinds.items()
        if kind not in _WITHOUT_SUN
        for field in SOLAR_FIELDS
        if (finest := view.finest(field)) is not None
    ]
    return min(found, key=lambda resolution: resolution.rank, default=None)


def retention_of(terms: GrantTerms, keeping: Keeping) -> dict[str, int]:
    """For how many days what the grant names is stored, by data class."""
    classes = {field.data_class for field in CATALOGUE if terms.admits(field.name)}
    return {one.value: keeping.retention_days.get(one, DEFAULT_RETENTION_DAYS) for one in sorted(classes)}


def _beyond(what: frozenset[Any] | None, other: frozenset[Any] | None) -> bool:
    return other is not None and (what is None or not what <= other)


def _renewed(terms: GrantTerms, **changes: object) -> GrantTerms:
    try:
        return GrantTerms.model_validate(dict(terms) | changes)
    except ValidationError as error:
        told = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
        raise SharingError(f"these terms do not fit together: {told}") from None
