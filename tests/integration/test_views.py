"""What recipients and owners are shown: the rules and worked examples of SEMANTICS.md, on stored data."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
import pytest_asyncio

from telemetry.errors import InputError, NotVisible
from telemetry.model.series import SITE_GRID
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.views.query import DayGrid
from tests.support import consents
from tests.support.store import Store
from tests.support.view_world import DAY, HOUR, MINUTE, ViewWorld, as_bytes, mean_amount, query, us, values

LOOKER, OTHER, OWNER, SITE, DEVICE = 1, 2, 10, 100, 1000
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - 2 * DAY
QUARTER = 15 * MINUTE


@pytest_asyncio.fixture
async def world(store: Store) -> AsyncIterator[ViewWorld]:
    """One home with an inverter, nothing granted, as of noon of a day that is over."""
    admin = await store.admin()
    await consents.clear(admin)
    await consents.add_recipient(admin, LOOKER)
    await consents.add_recipient(admin, OTHER)
    await consents.add_owner(admin, OWNER)
    await consents.add_site(admin, SITE, OWNER)
    await consents.add_device(admin, DEVICE, SITE)
    world = ViewWorld(store, admin, NOON)
    yield world
    await world.pool.close()
    await consents.clear(admin)


class TestRule17WhenAWindowIsShown:
    async def test_the_worked_example_at_twenty_past_and_not_before(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER)
        # 600, 900, 1200 and 300 W over 60, 60, 300 and 180 s: 504,000 W s in 600 s of 900.
        await world.series([{"device_key": DEVICE, "start": NOON, "amount": 504_000_000, "covered_ms": 600_000}])
        asked = query(NOON - HOUR, NOON + HOUR)
        world.now = NOON + 20 * MINUTE - timedelta(microseconds=1)
        assert (await world.views.view(LOOKER, asked)).rows.is_empty()
        world.now = NOON + 20 * MINUTE
        view = await world.views.view(LOOKER, asked)
        assert view.rows.select("start", "end", "value", "coverage", "resolution").rows() == [
            (NOON, NOON + QUARTER, 840.0, "partial", "PT15M")
        ]
        assert view.devices["last_seen"].to_list() == [NOON + QUARTER]

    async def test_a_correction_changes_a_day_at_the_next_boundary_of_days(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, resolution=Resolution.P1D.rank)
        midnight = NOON.replace(hour=0) - DAY
        first = {"device_key": DEVICE, "start": midnight + 12 * HOUR, "amount": mean_amount(100)}
        late = first | {"amount": mean_amount(300), "effective_at": midnight + DAY + 11 * HOUR}
        await world.series([first, late])
        asked = query(midnight - DAY, midnight + 3 * DAY, resolution=Resolution.P1D)
        for now, expected in (
            (midnight + DAY + 4 * MINUTE, {}),
            (midnight + DAY + 5 * MINUTE, {midnight: 100.0}),
            (midnight + 2 * DAY + 4 * MINUTE, {midnight: 100.0}),
            (midnight + 2 * DAY + 5 * MINUTE, {midnight: 300.0}),
        ):
            world.now = now
            assert values(await world.views.view(LOOKER, asked)) == expected


class TestRule16Guards:
    @pytest.mark.parametrize(
        ("field", "before", "after"),
        [
            ("ac_power_w", 5 * MINUTE, 0 * MINUTE),
            ("energy_total_wh", HOUR, HOUR),
            ("alert_code", 0 * MINUTE, 0 * MINUTE),
        ],
    )
    async def test_a_window_is_shown_only_if_all_that_shaped_it_is_granted(
        self, world: ViewWorld, field: str, before: timedelta, after: timedelta
    ) -> None:
        us_ = timedelta(microseconds=1)
        start, end = NOON - 6 * HOUR, NOON - 6 * HOUR + QUARTER
        await world.series([{"device_key": DEVICE, "field": field, "start": start, "amount": 5}])
        asked = query(start, end)
        for data_from, expected in ((start - before, 1), (start - before + us_, 0)):
            await consents.add_grant(world.admin, us(data_from), OWNER, LOOKER, fields=[field], data_from=data_from)
            assert (await world.views.view(LOOKER, asked)).rows.height == expected
            await consents.withdraw(world.admin, us(data_from))
        await consents.add_grant(world.admin, 2, OWNER, LOOKER, fields=[field])
        for lifted_from, expected in ((end + after, 1), (end + after - us_, 0)):
            await world.admin.execute(
                "INSERT INTO consent.restriction VALUES ($1, $2, $3)", OWNER, lifted_from, lifted_from + 3 * HOUR
            )
            assert (await world.views.view(LOOKER, asked)).rows.height == expected
            await world.admin.execute("DELETE FROM consent.restriction")

    async def test_nothing_beyond_the_tenure_has_to_be_granted(self, world: ViewWorld) -> None:
        """A series begins and ends with its tenure: the first and last windows of a counter are shown."""
        began, over = NOON - 10 * HOUR, NOON - 6 * HOUR
        await world.admin.execute("UPDATE consent.site SET tenure_from = $1, tenure_until = $2", began, over)
        await world.admin.execute("INSERT INTO consent.restriction VALUES ($1, $2, $3)", OWNER, over, over + HOUR)
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, fields=["energy_total_wh"], data_from=began)
        starts = [began - QUARTER, began, over - QUARTER, over]
        await world.series(
            [{"device_key": DEVICE, "field": "energy_total_wh", "start": start, "amount": 5} for start in starts]
        )
        view = await world.views.view(LOOKER, query(NOON - DAY, NOON))
        assert set(values(view, "energy_total_wh")) == {began, over - QUARTER}


class TestRule20Resolution:
    async def test_served_is_the_coarser_of_asked_and_granted(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, resolution=Resolution.PT1H.rank)
        start = NOON - 3 * HOUR
        quarters = [{"device_key": DEVICE, "start": start + n * QUARTER, "amount": mean_amount(n)} for n in range(8)]
        await world.series(quarters)
        hours = {start: 1.5, start + HOUR: 5.5}
        for asked in (Resolution.RAW, Resolution.PT1M, Resolution.PT15M, Resolution.PT1H):
            view = await world.views.view(LOOKER, query(start, NOON, resolution=asked))
            assert values(view) == hours
            assert view.shared.rows() == [(view.devices["device"][0], "ac_power_w", "PT1H")]

    async def test_an_offset_shifts_no_window(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, resolution=Resolution.PT1H.rank)
        start = NOON - 3 * HOUR
        await world.series(
            [{"device_key": DEVICE, "start": start + n * QUARTER, "amount": mean_amount(n)} for n in range(8)]
        )
        seen = set()
        for offset in range(0, 61, 5):
            for length in (30, 60, 75, 120, 180):
                since = start + offset * MINUTE
                seen |= values(await world.views.view(LOOKER, query(since, since + length * MINUTE))).items()
        assert seen == {(start, 1.5), (start + HOUR, 5.5)}

    async def test_a_longer_coarser_grant_fills_in_behind_a_finer_one(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, data_from=NOON - 2 * HOUR)
        await consents.add_grant(world.admin, 2, OWNER, LOOKER, resolution=Resolution.PT1H.rank)
        start = NOON - 4 * HOUR
        await world.series(
            [{"device_key": DEVICE, "start": start + n * QUARTER, "amount": mean_amount(n)} for n in range(16)]
        )
        world.now = NOON + 10 * MINUTE  # the last hour is over as well, and served finer
        view = await world.views.view(LOOKER, query(start - HOUR, NOON))
        assert view.rows.height == 10
        assert values(view) == {
            start: 1.5,
            start + HOUR: 5.5,
            start + 2 * HOUR: 9.5,  # its first quarter's guard begins before the finer grant's data
            **{start + n * QUARTER: float(n) for n in range(9, 16)},
        }

    async def test_what_is_kept_coarser_is_served_as_it_is_kept(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER)
        await world.series(
            [
                {
                    "device_key": DEVICE,
                    "start": NOON - 3 * HOUR,
                    "amount": mean_amount(7, 60),
                    "resolution": Resolution.PT1H,
                }
            ]
        )
        view = await world.views.view(LOOKER, query(NOON - 5 * HOUR, NOON))
        assert view.rows.select("start", "value", "resolution").rows() == [(NOON - 3 * HOUR, 7.0, "PT1H")]


class TestRule10Days:
    async def test_own_days_are_for_those_who_may_know_the_region(self, world: ViewWorld) -> None:
        midnight = NOON.replace(hour=0) - DAY
        hours = [midnight + n * HOUR for n in range(-24, 24)]
        await world.series(
            [
                {"device_key": DEVICE, "start": h, "amount": mean_amount(n, 60), "resolution": Resolution.PT1H}
                for n, h in enumerate(hours)
            ]
        )
        asked = [query(midnight - DAY, NOON, resolution=Resolution.P1D, grid=grid) for grid in (None, *DayGrid)]
        for key, place, rank, expected in (
            (1, "country", Resolution.P1D.rank, ["utc", "utc", None]),
            (2, "region", Resolution.P1D.rank, ["site", None, "site"]),
            (3, "country", Resolution.PT1H.rank, ["utc", "utc", None]),
            (4, "region", Resolution.PT1H.rank, ["site", "utc", "site"]),
        ):
            await consents.add_grant(world.admin, key, OWNER, LOOKER, place=place, resolution=rank)
            grids = [(await world.views.view(LOOKER, one)).rows["grid"].unique().to_list() for one in asked]
            assert grids == [[] if grid is None else [grid] for grid in expected]
            await consents.withdraw(world.admin, key)

    async def test_own_days_that_are_kept_are_shown(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, place="region", resolution=Resolution.P1D.rank)
        local = NOON.replace(hour=0) - DAY - (1 if NOON.month in {11, 12, 1, 2} else 2) * HOUR
        day = {"device_key": DEVICE, "start": local, "amount": 1440 * 60_000 * 4, "resolution": Resolution.P1D}
        await world.series([day | {"grid": SITE_GRID, "zone": "Europe/Berlin"}])
        view = await world.views.view(LOOKER, query(local - DAY, NOON, resolution=Resolution.P1D))
        assert values(view) == {local: 4.0}


class TestRule14Extremes:
    async def test_minimum_and_maximum_only_where_granted(self, world: ViewWorld) -> None:
        row = {"device_key": DEVICE, "start": NOON - HOUR, "amount": mean_amount(5), "lowest": 1, "highest": 9}
        await world.series([row])
        for key, extremes, expected in ((1, False, (None, None)), (2, True, (1.0, 9.0))):
            await consents.add_grant(world.admin, key, OWNER, LOOKER, extremes=extremes)
            view = await world.views.view(LOOKER, query(NOON - HOUR, NOON))
            assert view.rows.select("lowest", "highest").row(0) == expected


class TestRule22Absence:
    async def test_what_is_not_granted_is_named_whether_or_not_it_is_reported(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER)
        view = await world.views.view(LOOKER, query(NOON - HOUR, NOON))
        withheld = set(view.not_shared["field"])
        assert {"energy_total_wh", "temperature_c", "grid_power_w"} <= withheld
        assert "ac_power_w" not in withheld
        assert "ev_power_w" not in withheld  # no inverter has it

    async def test_unknown_and_forbidden_names_give_the_same_error(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER)
        await consents.add_grant(world.admin, 2, OWNER, OTHER)
        asked = query(NOON - HOUR, NOON)
        others = (await world.views.view(OTHER, asked)).devices["device"][0]
        own = (await world.views.view(LOOKER, asked)).devices["device"][0]
        errors = []
        for name in (others, "dev_" + 27 * "a", "nonsense"):
            for kind in ("devices", "sites"):
                with pytest.raises(NotVisible) as caught:
                    await world.views.view(LOOKER, query(NOON - HOUR, NOON, **{kind: frozenset({name})}))
                errors.append(str(caught.value))
        assert len(set(errors)) == 1
        assert (await world.views.view(LOOKER, query(NOON - HOUR, NOON, devices=frozenset({own})))).devices.height == 1

    async def test_without_any_grant_there_is_nothing_and_no_error(self, world: ViewWorld) -> None:
        view = await world.views.view(LOOKER, query(NOON - HOUR, NOON))
        assert view.is_gone
        assert view.rows.is_empty()


class TestRule21RawAndAlerts:
    async def test_raw_readings_are_live_and_only_for_fields_granted_raw(self, world: ViewWorld) -> None:
        now = datetime.now(UTC)
        world.now = now
        await consents.add_grant(
            world.admin, 1, OWNER, LOOKER, classes=["alert"], fields=[], resolution=0, history=HOUR
        )
        await consents.add_grant(world.admin, 2, OWNER, LOOKER)
        instants = [now - 2 * HOUR, now - 3 * MINUTE]
        for at in instants:
            await consents.add_reading(world.admin, "hot", DEVICE, at, ac_power_w=1.0, alert_code=7)
        view = await world.views.view(LOOKER, query(now - 3 * HOUR, now, resolution=Resolution.RAW))
        alerts = view.rows.filter(pl.col("field") == "alert_code")
        assert alerts.select("start", "value", "resolution", "coverage").rows() == [(instants[1], 7.0, "raw", None)]
        assert set(view.rows.filter(pl.col("field") != "alert_code")["resolution"]) <= {"PT15M"}

    async def test_raw_readings_lie_in_the_range_asked(self, world: ViewWorld) -> None:
        world.now = now = datetime.now(UTC)
        await consents.add_grant(
            world.admin, 1, OWNER, LOOKER, classes=["alert"], fields=[], resolution=0, history=HOUR
        )
        instants = [now - minutes * MINUTE for minutes in (50, 40, 30, 20, 10)]
        for number, at in enumerate(instants):
            await consents.add_reading(world.admin, "hot", DEVICE, at, alert_code=number)
        asked = query(instants[1], instants[3], resolution=Resolution.RAW, fields=frozenset({"alert_code"}))
        assert (await world.views.view(LOOKER, asked)).rows["start"].to_list() == instants[1:3], "its end is not in it"

    async def test_a_counters_window_waits_for_no_hour_that_is_yet_to_come(self, world: ViewWorld) -> None:
        field = "energy_total_wh"
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, fields=[field])
        await world.series([{"device_key": DEVICE, "start": NOON, "field": field, "amount": 1000}])
        world.now = NOON + 21 * MINUTE
        assert values(await world.views.view(LOOKER, query(NOON, NOON + HOUR)), field) == {NOON: 1.0}

    async def test_finer_than_kept_is_served_from_readings(self, world: ViewWorld) -> None:
        world.now = now = datetime.now(UTC).replace(second=0, microsecond=0)
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, resolution=Resolution.PT1M.rank, history=HOUR)
        for minutes in range(30, 0, -1):
            at = now - minutes * MINUTE
            await consents.add_reading(world.admin, "hot", DEVICE, at, ac_power_w=float(minutes))
        view = await world.views.view(LOOKER, query(now - HOUR, now, resolution=Resolution.PT1M))
        assert values(view) == {now - minutes * MINUTE: float(minutes) for minutes in range(30, 5, -1)}
        coarse = await world.views.view(LOOKER, query(now - HOUR, now, resolution=Resolution.PT15M))
        assert set(coarse.rows["resolution"]) == {"PT15M"}


class TestFieldsAsked:
    async def test_only_the_fields_asked_for_are_in_the_answer(self, world: ViewWorld) -> None:
        fields = ["ac_power_w", "ac_voltage_v"]
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, fields=fields)
        await world.series(
            [{"device_key": DEVICE, "start": NOON - HOUR, "field": name, "amount": 1} for name in fields]
        )
        world.now = NOON
        view = await world.views.view(LOOKER, query(NOON - HOUR, NOON, fields=frozenset(fields[1:])))
        assert view.rows["field"].to_list() == ["ac_voltage_v"]
        assert view.shared["field"].to_list() == ["ac_voltage_v"]
        assert view.not_shared.is_empty()
        both = await world.views.view(LOOKER, query(NOON - HOUR, NOON))
        assert set(both.rows["field"]) == set(fields)


class TestNames:
    async def test_real_serials_and_coordinates_only_where_granted(self, world: ViewWorld) -> None:
        world.vault.serial_of[DEVICE] = "MADE-UP-1"
        world.vault.place_of[SITE] = (52.5, 13.4)
        asked = query(NOON - HOUR, NOON)
        for key, serial, place, expected in (
            (1, "withheld", "withheld", (None, None, None, None)),
            (2, "pseudonym", "country", (None, "DE", None, None)),
            (3, "pseudonym", "region", (None, "DE-BE", None, None)),
            (4, "pseudonym", "cell5", (None, None, None, None)),  # not labelled yet
            (5, "real", "exact", ("MADE-UP-1", None, 52.5, 13.4)),
        ):
            await consents.add_grant(world.admin, key, OWNER, LOOKER, serial=serial, place=place)
            view = await world.views.view(LOOKER, asked)
            assert view.devices.select("serial", "place", "latitude", "longitude").row(0) == expected
            assert bool(world.vault.asked) == (key == 5)
            await consents.withdraw(world.admin, key)

    async def test_a_label_stands_for_the_cell_and_never_finer_than_granted(self, world: ViewWorld) -> None:
        import h3.api.basic_int as h3

        label = h3.latlng_to_cell(52.5, 13.4, 6)
        await world.admin.execute("INSERT INTO consent.site_label VALUES ($1, $2, 6, $3)", LOOKER, SITE, label)
        for key, place, cell in ((1, "cell6", label), (2, "cell7", label), (3, "cell4", h3.cell_to_parent(label, 4))):
            await consents.add_grant(world.admin, key, OWNER, LOOKER, place=place)
            view = await world.views.view(LOOKER, query(NOON - HOUR, NOON))
            assert view.devices["place"].to_list() == [h3.int_to_str(cell)]
            await consents.withdraw(world.admin, key)

    async def test_withheld_serials_leave_no_lasting_name(self, world: ViewWorld) -> None:
        await consents.add_device(world.admin, DEVICE + 1, SITE)
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, serial="withheld")
        view = await world.views.view(LOOKER, query(NOON - HOUR, NOON))
        site = view.devices["site"][0]
        assert view.devices["device"].to_list() == [f"{site}/inverter-1", f"{site}/inverter-2"]

    async def test_a_new_epoch_gives_new_tokens(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER)
        asked = query(NOON - HOUR, NOON)
        before = await world.views.view(LOOKER, asked)
        await world.admin.execute("UPDATE consent.relation SET epoch = 2")
        after = await world.views.view(LOOKER, asked)
        for column in ("site", "device"):
            assert set(before.devices[column]).isdisjoint(after.devices[column])


class TestRule25TheOwner:
    async def test_everything_of_the_own_and_nothing_else(self, world: ViewWorld) -> None:
        await consents.add_owner(world.admin, OWNER + 1)
        await consents.add_site(world.admin, SITE + 1, OWNER + 1)
        await consents.add_device(world.admin, DEVICE + 1, SITE + 1)
        world.vault.serial_of |= {DEVICE: "MADE-UP-1", DEVICE + 1: "MADE-UP-2"}
        row = {"start": NOON - HOUR, "amount": mean_amount(5), "lowest": 1, "highest": 9}
        await world.series([row | {"device_key": DEVICE}, row | {"device_key": DEVICE + 1}])
        await world.admin.execute("INSERT INTO consent.restriction (owner_key) VALUES ($1)", OWNER)
        view = await world.views.own(OWNER, query(NOON - 2 * HOUR, NOON))
        assert view.devices["serial"].to_list() == ["MADE-UP-1"]
        assert view.rows.select("value", "lowest", "highest").rows() == [(5.0, 1.0, 9.0)]
        assert view.not_shared.is_empty()
        assert await world.admin.fetchval("SELECT count(*) FROM audit.read") == 0


class TestRecord:
    async def test_each_read_is_recorded_for_the_owner(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, fields=["ac_power_w", "temperature_c"])
        await world.views.view(LOOKER, query(NOON - HOUR, NOON, fields=frozenset({"ac_power_w", "ac_voltage_v"})))
        (row,) = await world.admin.fetch("SELECT * FROM audit.read")
        assert (row["recipient_key"], row["owner_key"], row["purpose"], row["way"], row["fields"]) == (
            LOOKER,
            OWNER,
            "maintenance",
            "view",
            ["ac_power_w"],
        )
        assert (row["resolution"], row["from_at"], row["to_at"]) == (2, NOON - HOUR, NOON)

    async def test_grants_of_another_purpose_do_not_add_up(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, purpose="billing")
        await world.series([{"device_key": DEVICE, "start": NOON - HOUR, "amount": 1}])
        assert (await world.views.view(LOOKER, query(NOON - HOUR, NOON))).is_gone
        billing = query(NOON - HOUR, NOON, purpose=SharingPurpose.BILLING)
        assert (await world.views.view(LOOKER, billing)).rows.height == 1

    async def test_a_time_zone_formats_and_does_nothing_else(self, world: ViewWorld) -> None:
        await consents.add_grant(world.admin, 1, OWNER, LOOKER, resolution=Resolution.P1D.rank)
        midnight = NOON.replace(hour=0) - DAY
        await world.series([{"device_key": DEVICE, "start": midnight, "amount": 5, "resolution": Resolution.P1D}])
        zones = ("UTC", "Asia/Tokyo")
        asked = [query(midnight, midnight + DAY, timezone=zone) for zone in zones]
        utc, tokyo = [await world.views.view(LOOKER, one) for one in asked]
        assert utc.rows["start"].to_list() == tokyo.rows["start"].to_list() == [midnight]
        assert as_bytes(utc) != as_bytes(tokyo)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fields": frozenset({"no_such_field"})},
        {"until": NOON - 2 * HOUR},
        {"timezone": "Nowhere/Else"},
        {"since": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"until": NOON + 12 * 366 * DAY},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        query(**{"since": NOON - HOUR, "until": NOON} | wrong)
