"""What is an alarm, how long a silence is usual, and when a device makes too little: pure rules."""

import random

import numpy as np
import pytest

from telemetry.alerts.alarms import QUIET_US, Known, alarm_changes, severity_of
from telemetry.alerts.production import LOW_DAYS, SPAN_DAYS, Low, Sums, find_end, find_low, shares_of
from telemetry.alerts.rhythm import HOUR_S, usual_silence_s
from telemetry.alerts.sun import clear_strength, place_of, sine_of_elevation
from tests.support.sunny import DAY_US, QUARTER_US, Made, cell

MINUTE = 60_000_000
T0 = 1_700_000_000_000_000


class TestAlarms:
    @pytest.mark.parametrize(
        ("state", "severity"),
        [
            ({"alert_bits": 0, "alert_code": 0}, None),
            ({"alert_bits": 4}, 3),
            ({"alert_code": 301}, 3),
            ({"alert_code": 301, "alert_severity_code": 6}, None),
            ({"alert_code": 301, "alert_severity_code": 4}, 4),
            ({"alert_code": 0, "alert_severity_code": 2}, 2),
            ({"operating_state_code": 4}, None),
            ({"operating_state_code": 7}, 3),
            ({"operating_state_code": 7, "alert_severity_code": 6}, 3),
            ({"operating_state_code": 7, "alert_severity_code": 1}, 1),
        ],
    )
    def test_bits_codes_and_states_are_alarms_unless_a_severity_makes_them_harmless(self, state, severity):
        assert severity_of(state) == severity

    def rows(self, *bits, device=1, every=MINUTE, start=T0):
        names = ("alert_code", "alert_severity_code", "operating_state_code")
        return [
            {"device_key": device, "ts": start + n * every, "alert_bits": bit} | dict.fromkeys(names)
            for n, bit in enumerate(bits)
        ]

    def test_an_alarm_begins_with_its_first_reading(self):
        rows = self.rows(0, 0, 1, 1)
        assert alarm_changes(rows, {}, T0 + 4 * MINUTE).begins == [(1, T0 + 2 * MINUTE, None, 3)]

    def test_it_ends_when_the_quiet_has_lasted_and_at_its_first_instant(self):
        rows = self.rows(0, 1, 1, 0, 0)
        known = {1: Known(T0 + MINUTE, None)}
        assert alarm_changes(rows, known, T0 + 3 * MINUTE + QUIET_US - 1).ends == []
        assert alarm_changes(rows, known, T0 + 3 * MINUTE + QUIET_US).ends == [(1, T0 + 3 * MINUTE)]

    def test_one_that_is_over_is_told_whole(self):
        rows = self.rows(0, 1, 1, 0, 0)
        assert alarm_changes(rows, {}, T0 + 60 * MINUTE).begins == [(1, T0 + MINUTE, T0 + 3 * MINUTE, 3)]

    def test_one_that_flaps_is_one(self):
        rows = self.rows(*[1, 0] * 20)
        assert alarm_changes(rows, {}, T0 + 41 * MINUTE).begins == [(1, T0, None, 3)]
        assert alarm_changes(rows, {1: Known(T0, None)}, T0 + 41 * MINUTE).ends == []

    def test_what_is_open_and_goes_on_changes_nothing(self):
        rows = self.rows(1, 1, 1)
        changes = alarm_changes(rows, {1: Known(T0 - 300 * MINUTE, None)}, T0 + 3 * MINUTE)
        assert (changes.begins, changes.ends) == ([], [])

    def test_a_silent_device_keeps_its_alarm(self):
        known = {1: Known(T0, None)}
        assert alarm_changes(self.rows(1), known, T0 + 100 * MINUTE).ends == []
        assert alarm_changes([], known, T0 + 100 * MINUTE).ends == []

    def test_what_is_closed_is_not_opened_again_by_the_same_rows(self):
        rows = self.rows(0, 1, 1, 0, 0)
        changes = alarm_changes(rows, {1: Known(T0 + MINUTE, T0 + 3 * MINUTE)}, T0 + 60 * MINUTE)
        assert (changes.begins, changes.ends) == ([], [])

    def test_passes_in_any_rhythm_end_at_the_same_alerts(self):
        """Told in one pass or in many, killed or not: the alerts are those of a loop over all rows."""
        for seed in range(60):
            chance = random.Random(seed)
            bits, bit = [], 0
            for _ in range(200):
                bit = bit ^ (chance.random() < 0.06)
                bits.append(int(bit))
            rows = self.rows(*bits, 0, *[0] * 15)
            stored: list[list[int | None]] = []
            at = T0
            while at < rows[-1]["ts"] + 30 * MINUTE:
                at += chance.randrange(1, 40) * MINUTE
                for _ in range(2):  # what is told again changes nothing
                    newest = {1: Known(stored[-1][0], stored[-1][1])} if stored else {}
                    seen = [row for row in rows if at - 120 * MINUTE <= row["ts"] < at]
                    changes = alarm_changes(seen, newest, at)
                    for _, ended in changes.ends:
                        stored[-1][1] = max(ended, stored[-1][0])
                    stored += [[begun, end] for _, begun, end, _ in changes.begins]
            assert all(end is not None for _, end in stored)
            assert [tuple(one) for one in stored] == self.reference(rows), seed

    def reference(self, rows):
        found = []
        for row in rows:
            if row["alert_bits"]:
                if found and row["ts"] - found[-1][1] < QUIET_US:
                    found[-1][1] = row["ts"] + MINUTE
                else:
                    found.append([row["ts"], row["ts"] + MINUTE])
        return [tuple(one) for one in found]


class TestRhythm:
    def heard(self, *hours, days=14, length=15 * MINUTE):
        """Each day at these hours."""
        return [(T0 // DAY_US * DAY_US + d * DAY_US + int(h * 60) * MINUTE, length) for d in range(days) for h in hours]

    def always(self, days=14):
        return self.heard(*[n / 4 for n in range(96)], days=days)

    def test_one_that_always_reports_may_be_silent_for_an_hour(self):
        heard = self.always()
        assert usual_silence_s(heard, heard[-1][0]) == HOUR_S

    def test_one_that_sleeps_at_night_may_be_silent_for_a_night_and_a_half(self):
        heard = self.heard(*[6 + n / 4 for n in range(40)])
        assert usual_silence_s(heard, heard[-1][0]) == pytest.approx(1.5 * 14.25 * HOUR_S)

    def test_an_outage_or_two_are_not_its_rhythm(self):
        heard = self.always()
        holes = [at for n, at in enumerate(heard) if not (300 <= n < 350 or 700 <= n < 760)]
        assert usual_silence_s(holes, heard[-1][0]) == HOUR_S

    @pytest.mark.parametrize("days", [1, 2, 3])
    def test_one_that_is_new_has_none(self, days):
        heard = self.always(days)
        assert usual_silence_s(heard, heard[-1][0]) is None

    def test_one_that_is_heard_now_and_then_has_none(self):
        heard = [at for n, at in enumerate(self.heard(12)) if n % 3 == 0]
        assert usual_silence_s(heard, heard[-1][0]) is None
        assert usual_silence_s([], T0) is None


class TestSun:
    def test_it_stands_where_pvlib_puts_it(self):
        from pvlib import spa

        at = np.arange(1_780_000_000, 1_780_000_000 + 86_400 * 300, 7_777, dtype=np.int64)
        mine = sine_of_elevation(at * 1_000_000, 51.3, 9.7)
        theirs = spa.solar_position(at.astype(float), 51.3, 9.7, 100.0, 1000.0, 12.0, 69.0, 0.5667)[1]
        assert np.abs(np.degrees(np.arcsin(mine)) - (90 - theirs)).max() < 0.05

    def test_at_night_there_is_none(self):
        assert (clear_strength(np.array([-0.1, 0.0, 0.1, 1.0])) > 0).tolist() == [False, False, True, True]

    def test_a_place_is_the_cell_or_the_time_zones_town(self):
        assert place_of(None, "Europe/Berlin") == pytest.approx((52.5, 13.37), abs=0.05)
        assert place_of(None, "America/Los_Angeles") == pytest.approx((34.05, -118.24), abs=0.05)
        assert place_of(None, "UTC") is None
        latitude, longitude = place_of(608_693_241_318_998_015, "Asia/Tokyo")
        assert -90 <= latitude <= 90
        assert -180 <= longitude <= 180
        assert (latitude, longitude) != place_of(None, "Asia/Tokyo")


PLACES = {"cell": lambda made: (made.home.latitude, made.home.longitude), "none": lambda _: None}


def sums_of(made: Made, days: int, wh: np.ndarray | None = None) -> Sums:
    first = max(0, days - SPAN_DAYS)
    starts = (made.first_day + first) * DAY_US + np.arange((days - first) * 96, dtype=np.int64) * QUARTER_US
    return Sums(starts, (made.wh if wh is None else wh)[first:days].ravel(), 15)


@pytest.fixture(scope="module")
def fair() -> Made:
    """Half a hundred days without haze."""
    return cell(5, 20_600, 55, 1, shares=(0.4, 0.4, 0.2, 0.0))[0]


@pytest.mark.parametrize("where", PLACES)
class TestProduction:
    def found(self, made, wh, where, days, dark=()):
        return find_low(shares_of(sums_of(made, days, wh), PLACES[where](made)), dark)

    def test_a_roof_under_any_sky_is_well(self, fair, where):
        assert [self.found(fair, None, where, day) for day in range(41, 56)] == [None] * 15

    @pytest.mark.parametrize("left", [0.67, 0.5])
    def test_a_string_that_fails_is_found_once_there_were_clear_hours_enough(self, fair, where, left):
        wh = fair.wh.copy()
        wh[42:] *= left
        found = [self.found(fair, wh, where, day) for day in range(43, 56)]
        first = next(n for n, low in enumerate(found) if low is not None)
        assert first >= LOW_DAYS - 1
        assert not found[first].off
        assert found[first].since_us >= (fair.first_day + 42) * DAY_US

    def test_an_inverter_that_is_off_is_found_the_same_day(self, fair, where):
        wh = fair.wh.copy()
        wh[44] = 0
        low = self.found(fair, wh, where, 45)
        assert low is not None
        assert low.off
        assert (fair.first_day + 44) * DAY_US < low.since_us < (fair.first_day + 45) * DAY_US

    def test_what_is_found_is_found_again_at_the_same_instant(self, fair, where):
        wh = fair.wh.copy()
        wh[44:] = 0
        assert self.found(fair, wh, where, 45).since_us == self.found(fair, wh, where, 47).since_us

    def test_on_days_that_were_dark_to_the_neighbours_nothing_is_found(self, fair, where):
        wh = fair.wh.copy()
        wh[44] = 0
        assert self.found(fair, wh, where, 45, dark={fair.first_day + 44}) is None
        assert self.found(fair, wh, where, 45, dark={fair.first_day + 40}) is not None

    def test_it_is_over_when_it_makes_again_what_it_made(self, fair, where):
        wh = fair.wh.copy()
        wh[42:50] *= 0.6
        low = next(low for day in range(43, 51) if (low := self.found(fair, wh, where, day)))
        for day in (50, 55):
            shares = shares_of(sums_of(fair, day, wh), PLACES[where](fair), low.since_us)
            end = find_end(shares, low)
            assert (end is None) == (day == 50)
        assert end > (fair.first_day + 50) * DAY_US

    def test_without_ten_days_of_past_nothing_is_said(self, fair, where):
        wh = fair.wh[:9].copy()
        wh[7:] = 0
        assert find_low(shares_of(sums_of(fair, 9, wh), PLACES[where](fair))) is None

    def test_a_month_without_a_sum_says_nothing(self, fair, where):
        empty = Sums(np.array([], np.int64), np.array([]), 15)
        assert shares_of(empty, PLACES[where](fair)) is None


class TestDaysInARow:
    """Cloudless days of one and the same sun, each times something."""

    HOURS = np.arange(96) / 4
    BELL = np.maximum(0.0, np.sin((HOURS - 6) / 12 * np.pi)) * 1000

    def shares(self, *factors, since_day: int | None = None):
        days = [np.broadcast_to(factor, 96) * self.BELL for factor in ([1.0] * 32 + list(factors))]
        first = 20_600
        starts = first * DAY_US + np.arange(len(days) * 96, dtype=np.int64) * QUARTER_US
        since = None if since_day is None else (first + since_day) * DAY_US
        return shares_of(Sums(starts, np.concatenate(days), 15), None, since)

    @pytest.mark.parametrize(
        ("factors", "found"),
        [
            ([0.67, 0.67], False),
            ([0.67, 0.67, 0.67], True),
            ([0.67, 0.67, 1.0, 0.67], False),
            ([0.67, 0.67, 1.0, 0.67, 0.67, 0.67], True),
            ([0.67, 0.5, 0.75], False),
            ([0.85, 0.85, 0.85], False),
            ([0.2, 0.2, 0.2], False),
        ],
    )
    def test_three_days_at_one_level_with_none_near_one_since(self, factors, found):
        assert (find_low(self.shares(*factors)) is not None) == found

    def test_a_day_that_reaches_further_at_some_hour_is_none(self):
        parted = np.where(self.HOURS < 12, 0.6, 0.84)
        assert find_low(self.shares(parted, parted, parted)) is None
        assert find_low(self.shares(*[np.where(self.HOURS < 12, 0.6, 0.75)] * 3)) is not None

    def test_a_fault_that_lasts_is_held_to_the_days_before_it(self):
        long = [0.6] * 40
        low = Low(since_us=(20_600 + 32) * DAY_US, off=False)
        assert find_end(self.shares(*long, since_day=32), low) is None
        assert find_end(self.shares(*long, 1.0, since_day=32), low) is not None
