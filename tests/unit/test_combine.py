"""Rules 10 and 16 to 22: what grants of one purpose add up to. Held to tests/support/scalar_view.py."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.model.fields import CATALOGUE, FIELD_INDEX, FIELDS_OF_KIND, DataClass, DeviceKind
from telemetry.model.series import AGGREGATES, SITE_GRID, UTC_GRID, has_extremes
from telemetry.model.sharing import (
    RESOLUTIONS,
    Grant,
    GrantState,
    GrantTerms,
    PlaceSetting,
    Resolution,
    SerialSetting,
    SharingPurpose,
)
from telemetry.privacy.combine import (
    Objection,
    Restriction,
    Standing,
    Tenure,
    combine,
    covered,
    guard,
    in_force,
    instant_us,
    levels,
    merged,
    not_shared,
    permitted_instants,
)
from tests.support import scalar_view

NOW = datetime(2026, 6, 15, 12, 7, tzinfo=UTC)
NOW_US = instant_us(NOW)
DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
US = timedelta(microseconds=1)
OWNER, RECIPIENT, SITE, OTHER_SITE = 11, 22, 33, 44


def grant(key: int = 1, *, state: GrantState = GrantState.ACTIVE, policy: str = "p1", **terms: Any) -> Grant:
    given = {"purpose": SharingPurpose.MAINTENANCE, "start": NOW - 30 * DAY} | terms
    return Grant(
        grant_key=key,
        version=1,
        owner_key=OWNER,
        recipient_key=RECIPIENT,
        state=state,
        terms=GrantTerms(**given),
        epoch=1,
        policy=policy,
        recorded_at=given["start"],
    )


def power(key: int = 1, **terms: Any) -> Grant:
    return grant(key, fields=frozenset({"ac_power_w"}), **terms)


def shown(grants: list[Grant], asked: Resolution, window: tuple[datetime, datetime], **rest: Any) -> bool:
    """Whether ac_power_w of an inverter is served in exactly this window."""
    view = combine(grants, SITE, rest.get("standing", Standing()), NOW)
    spans = view.kinds[DeviceKind.INVERTER].fields["ac_power_w"] if view.kinds else ()
    instants = instant_us(window[0]), instant_us(window[1])
    needed = guard(FIELD_INDEX["ac_power_w"], instants, Tenure(), NOW_US)
    return any(
        covered(needed, level.allowed) and not covered(needed, level.finer)
        for level in levels(spans, asked)
        if level.rank == rest.get("rank", asked.rank)
    )


class TestRule19FinestHolds:
    def test_the_worked_example_of_two_grants(self) -> None:
        both = [
            grant(1, fields=frozenset({"ac_power_w", "temperature_c"}), place=PlaceSetting.WITHHELD),
            power(2, resolution=Resolution.PT1H, place=PlaceSetting.CELL5),
        ]
        view = combine(both, SITE, Standing(), NOW)
        kind = view.kinds[DeviceKind.INVERTER]
        assert (kind.finest("ac_power_w"), kind.finest("temperature_c")) == (Resolution.PT15M, Resolution.PT15M)
        assert view.place is PlaceSetting.CELL5
        withheld = {field.name for field in not_shared(DeviceKind.INVERTER, kind)}
        assert {"energy_total_wh", "energy_day_wh"} <= withheld
        assert not {"ac_power_w", "temperature_c"} & withheld

    def test_each_setting_on_its_own(self) -> None:
        view = combine(
            [
                power(1, serial=SerialSetting.REAL, kinds=frozenset({DeviceKind.BATTERY})),
                power(2, place=PlaceSetting.REGION, resolution=Resolution.P1D, serial=SerialSetting.PSEUDONYM),
            ],
            SITE,
            Standing(),
            NOW,
        )
        assert view.kinds[DeviceKind.BATTERY].serial is SerialSetting.REAL
        assert view.kinds[DeviceKind.INVERTER].serial is SerialSetting.PSEUDONYM
        assert view.kinds[DeviceKind.INVERTER].finest("ac_power_w") is Resolution.P1D
        assert view.place is PlaceSetting.REGION

    def test_a_coarse_grant_with_long_history_supports_no_fine_window(self) -> None:
        both = [
            power(1, resolution=Resolution.PT15M, history=DAY, data_from=NOW - 30 * DAY),
            power(2, resolution=Resolution.PT1H, data_from=NOW - 30 * DAY),
        ]
        noon = NOW.replace(hour=10, minute=0)
        quarter, hour = (noon, noon + 15 * MINUTE), (noon, noon + HOUR)
        old_quarter, old_hour = ((start - 3 * DAY, end - 3 * DAY) for start, end in (quarter, hour))
        assert shown(both, Resolution.PT15M, quarter)
        assert not shown(both, Resolution.PT15M, old_quarter)
        assert shown(both, Resolution.PT15M, old_hour, rank=Resolution.PT1H.rank)
        assert not shown(both, Resolution.PT15M, hour, rank=Resolution.PT1H.rank)  # served finer already


class TestRule18DenialsWin:
    HOUR_BEFORE = (NOW.replace(hour=10, minute=0), NOW.replace(hour=11, minute=0))

    @pytest.mark.parametrize(
        "standing",
        [
            Standing(owner_erased=True),
            Standing(recipient_closed=True),
            Standing(expired_policies=frozenset({"p1"})),
            Standing(restrictions=(Restriction(NOW_US - 1),)),
            Standing(restrictions=(Restriction(NOW_US - 1, NOW_US + 1),)),
            Standing(restrictions=(Restriction(NOW_US + 1),)),  # just made, by a clock that is ahead
            Standing(objections=(Objection("maintenance"),)),
            Standing(objections=(Objection("maintenance", RECIPIENT),)),
        ],
    )
    def test_each_denial_hides_the_site(self, standing: Standing) -> None:
        assert combine([power()], SITE, standing, NOW).kinds == {}

    @pytest.mark.parametrize(
        "standing",
        [
            Standing(),
            Standing(expired_policies=frozenset({"p2"})),
            Standing(objections=(Objection("billing"), Objection("maintenance", 99))),
            Standing(restrictions=(Restriction(NOW_US - 20, NOW_US - 10),)),
        ],
    )
    def test_what_is_against_others_does_not(self, standing: Standing) -> None:
        assert combine([power()], SITE, standing, NOW).kinds != {}

    def test_what_was_measured_while_restricted_stays_unseen(self) -> None:
        start, end = self.HOUR_BEFORE
        lifted = Standing(restrictions=(Restriction(instant_us(start + MINUTE), instant_us(start + 2 * MINUTE)),))
        grants = [power(resolution=Resolution.PT1H)]
        assert shown(grants, Resolution.PT1H, (start, end))
        assert not shown(grants, Resolution.PT1H, (start, end), standing=lifted)
        assert shown(grants, Resolution.PT1H, (start - HOUR, end - HOUR), standing=lifted)

    @pytest.mark.parametrize(
        "terms",
        [
            {"start": NOW + US},
            {"until": NOW},
            {"sites": frozenset({OTHER_SITE})},
            {"history": timedelta(0)},
        ],
    )
    def test_a_grant_that_does_not_cover_shows_nothing(self, terms: dict[str, Any]) -> None:
        assert not shown([power(**terms)], Resolution.PT1H, self.HOUR_BEFORE)
        assert shown([power()], Resolution.PT1H, self.HOUR_BEFORE)

    def test_withdrawn_shows_nothing(self) -> None:
        assert in_force([power(state=GrantState.WITHDRAWN)], Standing(), NOW) == ()

    def test_not_before_data_from_nor_history(self) -> None:
        (interval,) = permitted_instants(power(data_from=NOW - DAY, history=2 * DAY), Standing(), NOW)
        assert interval == (instant_us(NOW - DAY), NOW_US)
        (interval,) = permitted_instants(power(data_from=NOW - DAY, history=HOUR), Standing(), NOW)
        assert interval == (instant_us(NOW - HOUR), NOW_US)
        (interval,) = permitted_instants(power(), Standing(), NOW)
        assert interval == (instant_us(NOW - 30 * DAY), NOW_US)  # the grant's own start

    def test_purposes_never_add_up(self) -> None:
        with pytest.raises(ValueError, match="never add up"):
            combine([power(), power(2, purpose=SharingPurpose.BILLING)], SITE, Standing(), NOW)


class TestRule16Guards:
    @pytest.mark.parametrize(
        ("field", "before", "after"),
        [("ac_power_w", 5, 0), ("energy_total_wh", 60, 60), ("alert_code", 0, 0), ("battery_soc_pct", 0, 0)],
    )
    def test_what_may_have_shaped_a_window(self, field: str, before: int, after: int) -> None:
        start, end = instant_us(NOW - 5 * HOUR), instant_us(NOW - 4 * HOUR)
        about = FIELD_INDEX[field], (start, end)
        us = 60_000_000
        assert guard(*about, Tenure(), NOW_US) == (start - before * us, end + after * us)
        assert guard(*about, Tenure(), end) == (start - before * us, end)
        assert guard(*about, Tenure(start, end), NOW_US) == (start, end)


def test_neighbouring_intervals_are_one() -> None:
    assert merged([(5, 9), (0, 2), (2, 3), (6, 7)]) == ((0, 3), (5, 9))


class TestRule20SameGrid:
    def test_days_are_shown_on_one_grid_alone_where_nothing_finer_is_granted(self) -> None:
        for place, own in ((PlaceSetting.REGION, SITE_GRID), (PlaceSetting.COUNTRY, UTC_GRID)):
            view = combine([power(resolution=Resolution.P1D, place=place)], SITE, Standing(), NOW)
            spans = view.kinds[DeviceKind.INVERTER].fields["ac_power_w"]
            served = [
                grid
                for grid in (UTC_GRID, SITE_GRID)
                if levels(spans, Resolution.P1D, grid=grid, day_grid=view.day_grid)
            ]
            assert served == [own]

    def test_own_days_are_made_of_granted_windows_only_where_they_begin_on_their_edges(self) -> None:
        spans = combine([power(resolution=Resolution.PT1H)], SITE, Standing(), NOW).kinds[DeviceKind.INVERTER].fields
        arguments = (spans["ac_power_w"], Resolution.P1D)
        assert levels(*arguments, grid=SITE_GRID, day_grid=SITE_GRID, align_min=60)
        assert not levels(*arguments, grid=SITE_GRID, day_grid=SITE_GRID, align_min=30)  # Asia/Kolkata
        (day,) = levels(*arguments, day_grid=SITE_GRID, align_min=30)
        assert day.grid == UTC_GRID

    def test_what_is_kept_coarser_than_granted_is_served_as_it_is_kept(self) -> None:
        spans = combine([power()], SITE, Standing(), NOW).kinds[DeviceKind.INVERTER].fields["ac_power_w"]
        fine, kept = levels(spans, Resolution.PT15M, kept=[Resolution.PT1M.rank, Resolution.PT1H.rank])
        assert (fine.rank, kept.rank) == (Resolution.PT15M.rank, Resolution.PT1H.rank)
        assert kept.allowed == kept.finer == fine.allowed


class TestRule21RealTime:
    @pytest.mark.parametrize(
        ("terms", "expected"),
        [
            ({"classes": frozenset({DataClass.ALERT}), "resolution": Resolution.RAW}, True),
            ({"classes": frozenset({DataClass.ALERT}), "resolution": Resolution.PT1M}, False),
            ({"classes": frozenset({DataClass.LOG}), "resolution": Resolution.RAW}, False),
        ],
    )
    def test_only_class_alert_at_raw(self, terms: dict[str, Any], expected: bool) -> None:
        assert combine([grant(**terms)], SITE, Standing(), NOW).kinds[DeviceKind.METER].real_time_alerts is expected


class TestRule22Absence:
    def test_kinds_and_sites_that_are_not_granted_do_not_exist(self) -> None:
        grants = [power(kinds=frozenset({DeviceKind.METER}), sites=frozenset({SITE}))]
        assert set(combine(grants, SITE, Standing(), NOW).kinds) == {DeviceKind.METER}
        assert combine(grants, OTHER_SITE, Standing(), NOW).kinds == {}

    def test_every_field_belongs_to_a_kind(self) -> None:
        assert frozenset().union(*FIELDS_OF_KIND.values()) == {field.name for field in CATALOGUE}


# --- differential ------------------------------------------------------------------------------------------------

_HOURS = st.integers(0, 72).map(lambda hours: NOW - timedelta(hours=hours, minutes=7))
_FIELDS = ["ac_power_w", "energy_total_wh", "alert_code", "temperature_c"]


@st.composite
def grants_of_one(draw: st.DrawFn) -> list[Grant]:
    found = []
    for key in range(draw(st.integers(1, 3))):
        start = draw(_HOURS) if draw(st.integers(0, 9)) else NOW + HOUR
        found.append(
            grant(
                key + 1,
                state=draw(st.sampled_from([GrantState.ACTIVE] * 5 + [GrantState.WITHDRAWN])),
                policy=draw(st.sampled_from(["p1", "p1", "p2"])),
                classes=draw(st.sampled_from([frozenset(), frozenset({DataClass.PRODUCTION})])),
                fields=draw(st.frozensets(st.sampled_from(_FIELDS), min_size=1)),
                sites=draw(st.sampled_from([None, None, frozenset({SITE}), frozenset({OTHER_SITE})])),
                kinds=draw(st.sampled_from([None, None, frozenset({DeviceKind.INVERTER})])),
                resolution=draw(st.sampled_from(RESOLUTIONS)),
                serial=draw(st.sampled_from(SerialSetting)),
                place=draw(st.sampled_from(PlaceSetting)),
                extremes=draw(st.booleans()),
                history=draw(st.sampled_from([None, timedelta(hours=2), timedelta(hours=30)])),
                data_from=draw(_HOURS),
                start=start,
                until=draw(st.sampled_from([None, None, start + 200 * HOUR, max(NOW, start + US)])),
            )
        )
    return found


_INSTANTS = _HOURS.map(instant_us)
_STANDINGS = st.builds(
    Standing,
    owner_erased=st.sampled_from([False] * 9 + [True]),
    recipient_closed=st.sampled_from([False] * 9 + [True]),
    restrictions=st.lists(
        st.builds(
            lambda start, hours: Restriction(start, None if hours is None else start + hours * 3600 * 10**6),
            _INSTANTS,
            st.sampled_from([1, 1, 2, 5, 100, None]),
        ),
        max_size=1,
    ).map(tuple),
    objections=st.lists(
        st.builds(Objection, st.sampled_from(["billing", "maintenance"]), st.sampled_from([None, 99, RECIPIENT])),
        max_size=1,
    ).map(tuple),
    expired_policies=st.sampled_from([frozenset(), frozenset(), frozenset({"p2"})]),
)


def scalar_world(standing: Standing, tenure: Tenure, align_min: int) -> dict[str, Any]:
    return {
        "now_us": NOW_US,
        "purpose": "maintenance",
        "recipient": RECIPIENT,
        "erased": standing.owner_erased,
        "closed": standing.recipient_closed,
        "expired": standing.expired_policies,
        "restrictions": [(r.from_us, r.lifted_us) for r in standing.restrictions],
        "objections": [(o.purpose, o.recipient_key) for o in standing.objections],
        "tenure": (tenure.from_us, tenure.until_us),
        "align_min": align_min,
    }


def scalar_grant(grant: Grant) -> dict[str, Any]:
    terms = grant.terms
    assert terms.data_from is not None
    assert terms.start is not None
    return {
        "active": grant.state is GrantState.ACTIVE,
        "policy": grant.policy,
        "sites": terms.sites,
        "kinds": terms.kinds,
        "classes": terms.classes,
        "fields": terms.fields,
        "rank": terms.resolution.rank,
        "place": terms.place.value,
        "serial": terms.serial.value,
        "extremes": terms.extremes,
        "history_us": None if terms.history is None else terms.history // US,
        "data_from_us": instant_us(terms.data_from),
        "start_us": instant_us(terms.start),
        "until_us": None if terms.until is None else instant_us(terms.until),
    }


@given(
    grants=grants_of_one(),
    standing=_STANDINGS,
    tenure=st.builds(Tenure, st.none() | _INSTANTS, st.none() | _INSTANTS),
    asked=st.sampled_from(RESOLUTIONS),
    grid=st.sampled_from([UTC_GRID, SITE_GRID]),
    align_min=st.sampled_from([15, 30, 60]),
    kept=st.frozensets(st.sampled_from(range(1, 7)), max_size=2),
    kind=st.sampled_from([DeviceKind.INVERTER, DeviceKind.METER]),
)
def test_combined_views_equal_the_scalar_reference(
    grants: list[Grant],
    standing: Standing,
    tenure: Tenure,
    asked: Resolution,
    grid: int,
    align_min: int,
    kept: frozenset[int],
    kind: DeviceKind,
) -> None:
    world, plain = scalar_world(standing, tenure, align_min), [scalar_grant(one) for one in grants]
    view = combine(grants, SITE, standing, NOW)
    assert view.place.value == scalar_view.place(plain, world, SITE)
    kind_view = view.kinds.get(kind)
    assert (kind_view is not None) == bool(scalar_view.covering(plain, world, SITE, kind))
    if kind_view is None:
        return
    assert kind_view.serial.value == scalar_view.serial(plain, world, SITE, kind)
    for name in _FIELDS:
        field = CATALOGUE[FIELD_INDEX[name]]
        about = (plain, world, SITE, kind, name, field.data_class)
        assert (name in kind_view.fields) == scalar_view.granted(*about)
        served = {
            level.rank: level
            for level in levels(
                kind_view.fields.get(name, ()),
                asked,
                grid=grid,
                day_grid=view.day_grid,
                align_min=align_min,
                kept=kept,
            )
        }
        aggregate = AGGREGATES[FIELD_INDEX[name]].value
        for rank in {*served, *kept, *scalar_view.served_ranks(*about, asked.rank)}:
            level = served.get(rank)
            for window in _windows(rank):
                needed = guard(FIELD_INDEX[name], window, tenure, NOW_US)
                ours = level is not None and covered(needed, level.allowed) and not covered(needed, level.finer)
                grid_name = "site" if grid == SITE_GRID else "utc"
                theirs = scalar_view.shown(*about, aggregate, asked.rank, grid_name, rank, window)
                assert ours == theirs
                if rank in kept:
                    as_kept = level is not None and covered(needed, level.allowed)
                    about_it = (*about, aggregate, asked.rank, grid_name, rank, window)
                    assert as_kept == scalar_view.shown(*about_it, kept=True)
                if level is not None and ours and has_extremes(field):
                    assert covered(needed, level.extremes) == scalar_view.visible(
                        *about, aggregate, rank, grid_name, window, extremes=True
                    )


def _windows(rank: int) -> list[tuple[int, int]]:
    """Some windows that end before now: for the pure rules any interval will do."""
    minutes = RESOLUTIONS[rank].minutes or {0: 1, 6: 2880}[rank]
    length = minutes * 60_000_000
    last = NOW_US // length * length
    return [(last - (back + 1) * length, last - back * length) for back in (0, 1, 2, 5, 11, 30, 120, 200)]
