"""Generated settings of owners: keeping, grants and what stands against them. All of it made up."""

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from telemetry.model.fields import FIELD_NAMES, DataClass, DeviceKind
from telemetry.model.sharing import (
    RESOLUTIONS,
    Grant,
    GrantState,
    GrantTerms,
    Keeping,
    Resolution,
    SharingPurpose,
)
from telemetry.privacy.settled import OwnerSettings

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SITES = (11, 12, 13)
RECIPIENTS = (21, 22)
POLICIES = ("2026-11", "2026-12", "2020-01")
INSTANTS = [NOW - timedelta(days=2), NOW - timedelta(microseconds=1), NOW, NOW + timedelta(microseconds=1)]


def grant(number: int = 1, **changes: Any) -> Grant:
    """An active grant; ``changes`` of the grant and of its terms together."""
    own = {"recipient_key": RECIPIENTS[0], "policy": POLICIES[0], "state": GrantState.ACTIVE}
    own |= {name: changes.pop(name) for name in list(changes) if name in own}
    terms = {"purpose": SharingPurpose.MAINTENANCE, "start": NOW - timedelta(days=1)} | changes
    return Grant(grant_key=number, version=1, owner_key=1, epoch=1, recorded_at=NOW, terms=GrantTerms(**terms), **own)


def settings_of(*grants: Grant, **changes: Any) -> OwnerSettings:
    return OwnerSettings(
        **{"owner_key": 1, "sites": SITES, "grants": grants, "policies": {POLICIES[0]: None}} | changes
    )


_FIELDS = st.frozensets(st.sampled_from(FIELD_NAMES), max_size=4)
_CLASSES = st.frozensets(st.sampled_from(DataClass), max_size=3)


@st.composite
def keepings(draw: st.DrawFn) -> Keeping:
    finest = draw(st.sampled_from(RESOLUTIONS[1:]))
    return Keeping(
        finest=finest,
        wished=draw(st.sampled_from(RESOLUTIONS[finest.rank :])),
        classes=draw(st.none() | _CLASSES),
        fields=draw(_FIELDS),
        never=draw(_FIELDS),
        retention_days=draw(st.dictionaries(st.sampled_from(DataClass), st.integers(1, 3660), max_size=3)),
    )


@st.composite
def grants(draw: st.DrawFn, number: int) -> Grant:
    start = draw(st.none() | st.sampled_from(INSTANTS))
    until = draw(st.none() | st.sampled_from(INSTANTS))
    if start is not None and until is not None and until <= start:
        until = None
    classes, fields = draw(_CLASSES), draw(_FIELDS)
    return grant(
        number,
        recipient_key=draw(st.sampled_from(RECIPIENTS)),
        policy=draw(st.sampled_from(POLICIES)),
        state=draw(st.sampled_from([GrantState.ACTIVE, GrantState.ACTIVE, GrantState.WITHDRAWN])),
        purpose=draw(st.sampled_from(list(SharingPurpose)[:3])),
        classes=classes,
        fields=fields if fields or classes else frozenset({"ac_power_w"}),
        sites=draw(st.none() | st.frozensets(st.sampled_from([*SITES, 99]), min_size=1)),
        kinds=draw(st.none() | st.frozensets(st.sampled_from(DeviceKind), min_size=1, max_size=3)),
        resolution=draw(st.sampled_from(Resolution)),
        history=draw(st.none() | st.sampled_from([timedelta(hours=1), timedelta(days=30)])),
        start=start,
        until=until,
    )


@st.composite
def owners(draw: st.DrawFn) -> OwnerSettings:
    count = draw(st.integers(0, 4))
    return OwnerSettings(
        owner_key=1,
        sites=SITES[: draw(st.integers(0, 3))],
        keeping=draw(keepings() | st.just(Keeping())),
        grants=tuple(draw(grants(number)) for number in range(1, count + 1)),
        policies={POLICIES[0]: draw(st.none() | st.sampled_from(INSTANTS)), POLICIES[1]: None},
        closed=draw(st.frozensets(st.sampled_from(RECIPIENTS), max_size=1) | st.just(frozenset())),
        objections=draw(
            st.frozensets(
                st.tuples(st.sampled_from(list(SharingPurpose)[:3]), st.sampled_from([None, *RECIPIENTS])), max_size=2
            )
        ),
        erased=draw(st.integers(0, 9)) == 0,
    )
