"""What must hold before a grant is made: the rules as pure functions of settings, without a database.

Rule 8 (finer than what is kept), rule 18 (whence a grant reaches back), rule 19 (the solar curve beside the place).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
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
    return _renewed(terms, start=start, data_from=data_from)


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


def check_solar(grants: Iterable[Grant], confirmed_km: float | None, at: datetime) -> None:
    """Rule 19 on the combined view of one owner, recipient and purpose, the new grant included.

    Raises:
        SolarUnconfirmed: with the error in kilometres, unless exactly that was confirmed.

    """
    found = solar_warning(grants, at)
    if found is None or found[0] == confirmed_km:
        return
    error, finest, place = found
    shown = f"place is {place}" if place in {PlaceSetting.WITHHELD, PlaceSetting.EXACT} else f"a place of {place}"
    raise SolarUnconfirmed(
        f"a solar curve of {finest} tells where the site is within about {error:g} km, though {shown} is granted",
        error_km=error,
    )


def solar_warning(grants: Iterable[Grant], at: datetime) -> tuple[float, Resolution, PlaceSetting] | None:
    """The least error in kilometres that undercuts the place, with what causes it; None where nothing does.

    Every grant's beginning is looked at: what adds up later counts as well.
    """
    grants = list(grants)
    sites = {site for grant in grants for site in grant.terms.sites or ()} | {0}  # 0 is no site: grants for all
    instants = {at, *(grant.terms.start for grant in grants if grant.terms.start and grant.terms.start > at)}
    found = []
    for instant in instants:
        # A moment later, when there are instants that the grants cover.
        for view in (combine(grants, site, Standing(), instant + _INSTANT) for site in sites):
            finest = finest_solar(view.kinds)
            warning = solar_warning_km(finest, view.place)
            if warning is not None and finest is not None:
                found.append((warning, finest, view.place))
    return min(found, key=lambda one: one[0], default=None)


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
