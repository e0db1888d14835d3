"""Sentences on who may see what; each part of the combined view has one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from telemetry.model.sharing import Grant, GrantTerms, Keeping
from telemetry.privacy.combine import Objection, Restriction, Standing
from telemetry.privacy.explain import Situation, describe, explain

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def grant(key: int = 1, **terms: Any) -> Grant:
    whole = {"purpose": "maintenance", "start": NOON - DAY, "data_from": NOON - DAY} | terms
    return Grant(
        grant_key=key,
        version=1,
        owner_key=2,
        recipient_key=3,
        state="active",
        terms=GrantTerms(**whole),
        epoch=1,
        policy="2026-11",
        recorded_at=NOON - DAY,
    )


def told(
    *grants: Grant, standing: Standing | None = None, keeping: Keeping | None = None, sites: tuple[int, ...] = (7,)
) -> list[str]:
    situation = Situation(2, "example-installer", NOON, grants, standing or Standing(), keeping or Keeping(), sites)
    return explain(situation)


def test_the_grants_of_the_worked_example_are_explained_as_one_view():
    # SEMANTICS.md: a is finer, b has the place; the curve beside a cell of about 9 km was confirmed.
    a = grant(1, fields=["ac_power_w", "temperature_c"], resolution="PT15M", kinds=[1])
    b = grant(2, fields=["ac_power_w"], resolution="PT1H", place="cell5", kinds=[1])
    assert told(a, b) == [
        "example-installer and owner o_0000000000000002, as of 2026-11-02 12:00 UTC:",
        "For maintenance, of all sites:",
        "Inverters: ac_power_w, temperature_c by quarter hours.",
        "Not shared: consumption, battery, grid, alert, network, log, the rest of production and operation.",
        "Devices have no lasting name.",
        "Place as a cell of about 9 km radius, or coarser where too few sites are.",
        "The solar curve itself tells where the site is within about 5 km; the owner confirmed that.",
        (
            "Grant c_0000000000000001 (version 1) for maintenance: ac_power_w, temperature_c of all sites, inverters"
            " only, by quarter hours; place withheld, serials withheld; data from 2026-11-01 12:00 UTC on; in force"
            " from 2026-11-01 12:00 UTC until withdrawn, under notice 2026-11."
        ),
        (
            "Grant c_0000000000000002 (version 1) for maintenance: ac_power_w of all sites, inverters only, by hours;"
            " place as a cell of about 9 km radius, or coarser where too few sites are, serials withheld; data from"
            " 2026-11-01 12:00 UTC on; in force from 2026-11-01 12:00 UTC until withdrawn, under notice 2026-11."
        ),
    ]


def test_nothing_granted_is_nothing_seen():
    assert told()[1:] == ["example-installer sees nothing of this owner, not even that there is one."]


def test_how_far_back_and_until_when():
    text = describe(grant(classes=["battery"], history=30 * DAY, until=NOON + DAY, extremes=True, serial="real"))
    assert "at most 30 days back" in text
    assert "until 2026-11-03 12:00 UTC" in text
    assert "with minimum and maximum" in text
    assert "serials real" in text
    assert "at most 2 hours back" in describe(grant(classes=["battery"], history=timedelta(hours=2)))


def test_sites_that_differ_are_told_apart_and_one_that_is_not_granted_does_not_exist():
    lines = told(grant(1, classes=["grid"], sites=[7], kinds=[6]), sites=(7, 8))
    assert "For maintenance, of s_0000000000000007:" in lines
    assert "For maintenance, of s_0000000000000008: nothing, not even that there is one." in lines
    # Before there is any site, a grant for all of them is explained all the same.
    assert "For maintenance, of all sites:" in told(grant(1, classes=["grid"]), sites=())


def test_purposes_are_told_one_by_one():
    lines = told(grant(1, classes=["grid"], kinds=[6]), grant(2, purpose="billing", classes=["battery"], kinds=[2]))
    assert [line for line in lines if line.startswith("For ")] == [
        "For billing, of all sites:",
        "For maintenance, of all sites:",
    ]
    assert "Each request is for one purpose: what is granted for different purposes never adds up." in lines


def test_serials_and_alerts_and_what_is_kept():
    lines = told(
        grant(1, classes=["alert"], kinds=[3], resolution="raw", serial="pseudonym", history=timedelta(hours=1)),
        grant(2, classes=["battery"], kinds=[2], resolution="PT1M", serial="real", history=timedelta(hours=1)),
        keeping=Keeping(never=["battery_soc_pct"]),
    )
    assert "Gateways: alert as measured while it is new (what is kept is PT15M or coarser)." in lines
    assert "Alerts come in real time, with their instant." in lines
    assert "Granted but never kept, so not shown: battery_soc_pct." in lines
    assert "Devices have a pseudonym that only this recipient sees (gateways)." in lines
    assert "Devices are named by their real serial numbers (batteries)." in lines


def test_extremes_are_told_where_they_are_granted():
    assert "Meters: grid by days, power with minimum and maximum." in told(
        grant(1, classes=["grid"], kinds=[6], resolution="P1D", extremes=True)
    )
    mixed = told(
        grant(1, fields=["grid_power_l1_w"], kinds=[6], resolution="P1D", extremes=True),
        grant(2, fields=["grid_power_w"], kinds=[6], resolution="P1D"),
    )
    assert "Meters: grid_power_w by days; grid_power_l1_w by days, with minimum and maximum." in mixed


def test_a_device_without_any_granted_field_is_known_to_exist():
    assert "Gateways: that they exist, and no value." in told(grant(1, classes=["battery"], kinds=[3]))


def test_every_denial_is_told_and_wins():
    one = grant(1, classes=["grid"])
    for standing, said in (
        (Standing(owner_erased=True), "The owner is erased"),
        (Standing(recipient_closed=True), "The recipient is closed"),
        (Standing(restrictions=(Restriction(0),)), "Processing is restricted"),
        (Standing(objections=(Objection("maintenance"),)), "The owner objected to maintenance"),
        (Standing(objections=(Objection("maintenance", 3),)), "The owner objected to maintenance"),
    ):
        lines = told(one, standing=standing)
        assert any(line.startswith(said) for line in lines)
        assert "example-installer sees nothing of this owner, not even that there is one." in lines
        assert any(line.startswith("Stands, but is denied: ") for line in lines)
    other = told(one, standing=Standing(objections=(Objection("maintenance", 4),)))
    assert not any("objected" in line for line in other)
    assert "What was measured during an earlier restriction stays unseen." in told(
        one, standing=Standing(restrictions=(Restriction(0, 1),))
    )


def test_what_does_not_count_yet_or_any_more_is_told():
    lines = told(
        grant(1, classes=["grid"], until=NOON),
        grant(2, classes=["grid"], start=NOON + DAY),
        grant(3, classes=["grid"]),
        standing=Standing(expired_policies=frozenset({"2026-11"})),
    )
    assert "Grant c_0000000000000001 ended at 2026-11-02 12:00 UTC." in lines
    assert any(line.startswith("Grant c_0000000000000003 was given under notice 2026-11, which has") for line in lines)
    waiting = told(grant(2, classes=["grid"], start=NOON + DAY))
    assert any(line.startswith("Not yet in force: Grant c_0000000000000002") for line in waiting)
