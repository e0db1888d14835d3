"""Rules 5, 7, 8 and 9 of SEMANTICS.md as compiling has them, one example each, and the promise that is checked."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from telemetry.errors import PlanError
from telemetry.model.batch import Withheld
from telemetry.model.fields import CATALOGUE, FIELD_INDEX, FIELD_NAMES, DataClass, DeviceKind
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS, Grant, GrantState, Keeping, Resolution, SharingPurpose
from telemetry.privacy import compile as compiling
from telemetry.privacy.compile import compile_owner
from telemetry.privacy.plan import DATA_CLASSES, DEFAULT_CLASS, NOT_KEPT, Plan, PlanClass
from telemetry.privacy.promise import check_plan, explain_plan
from telemetry.privacy.settled import LATER, OwnerPlan, OwnerSettings
from tests.support.settled import NOW, POLICIES, RECIPIENTS, SITES, grant, settings_of

NOTHING = Keeping(classes=frozenset())
INVERTER, BATTERY = DeviceKind.INVERTER, DeviceKind.BATTERY


def kept(settings: OwnerSettings, site: int = SITES[0], kind: DeviceKind = INVERTER) -> dict[str, Resolution]:
    compiled = compile_owner(settings, NOW).classes[site, kind]
    ranks = zip(FIELD_NAMES, compiled.kept_resolution, strict=True)
    return {name: tuple(Resolution)[rank] for name, rank in ranks if rank != NOT_KEPT}


def test_who_settled_nothing_has_the_default_class() -> None:
    plan = compile_owner(OwnerSettings(1, sites=(5,)), NOW)
    assert set(plan.classes.values()) == {DEFAULT_CLASS}
    assert plan.next_change is None


def test_rule_5_of_an_erased_owner_nothing_is_kept_whatever_was_granted() -> None:
    plan = compile_owner(settings_of(grant(fields={"ac_power_w"}), erased=True), NOW)
    for compiled in plan.classes.values():
        assert compiled.withhold is Withheld.ERASED
        assert compiled.fields == frozenset()
        assert set(compiled.kept_resolution) == {NOT_KEPT}
    assert plan.next_change is None


def test_rule_5_a_restricted_owners_readings_are_stored_as_before() -> None:
    """A restriction is nothing that compiling knows of: it ends showing, not keeping."""
    assert "restrict" not in " ".join(OwnerSettings.__slots__)


def test_rule_7_what_neither_a_grant_nor_the_owner_admits_is_not_kept() -> None:
    assert kept(settings_of(keeping=NOTHING)) == {}
    only = settings_of(grant(fields={"ac_power_w"}, classes={DataClass.ALERT}), keeping=NOTHING)
    alerts = {field.name for field in CATALOGUE if field.data_class is DataClass.ALERT}
    assert set(kept(only)) == {"ac_power_w"} | alerts


def test_rule_7_the_owners_own_use_names_classes_and_fields() -> None:
    own = Keeping(classes=frozenset({DataClass.NETWORK}), fields=frozenset({"ac_power_w"}))
    network = {field.name for field in CATALOGUE if field.data_class is DataClass.NETWORK}
    assert set(kept(settings_of(keeping=own))) == {"ac_power_w"} | network


def test_rule_7_never_beats_every_grant_and_the_own_use() -> None:
    never = Keeping(never=frozenset({"ac_power_w"}))
    assert set(kept(settings_of(grant(fields={"ac_power_w"}), keeping=never))) == set(FIELD_NAMES) - {"ac_power_w"}


def test_rule_7_a_grant_reaches_its_own_sites_and_kinds_only() -> None:
    scoped = settings_of(grant(fields={"ac_power_w"}, sites={SITES[1]}, kinds={BATTERY}), keeping=NOTHING)
    plan = compile_owner(scoped, NOW)
    reached = {where for where, compiled in plan.classes.items() if compiled.fields}
    assert reached == {(SITES[1], BATTERY)}


def test_rule_7_a_site_added_later_has_what_is_granted_for_all_sites() -> None:
    both = settings_of(
        grant(1, fields={"ac_power_w"}), grant(2, fields={"rssi_dbm"}, sites={SITES[0]}), keeping=NOTHING
    )
    assert set(kept(both, LATER)) == {"ac_power_w"}
    assert set(kept(both)) == {"ac_power_w", "rssi_dbm"}


@pytest.mark.parametrize(
    "changes",
    [
        {"state": GrantState.WITHDRAWN},
        {"start": NOW + timedelta(microseconds=1)},
        {"until": NOW},
        {"policy": "2020-01"},
        {"policy": "not known"},
        {"recipient_key": RECIPIENTS[1]},
        {"purpose": SharingPurpose.BILLING},
        {"purpose": SharingPurpose.WARRANTY},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_rule_7_a_grant_that_is_not_in_force_keeps_nothing(changes: dict[str, Any]) -> None:
    against = {
        "keeping": NOTHING,
        "policies": {POLICIES[0]: None, "2020-01": NOW},
        "closed": frozenset({RECIPIENTS[1]}),
        "objections": frozenset({(SharingPurpose.BILLING, None), (SharingPurpose.WARRANTY, RECIPIENTS[0])}),
    }
    assert set(kept(settings_of(grant(fields={"ac_power_w"}), **against))) == {"ac_power_w"}
    assert kept(settings_of(grant(fields={"ac_power_w"}, **changes), **against)) == {}


def test_rule_7_an_objection_for_one_recipient_leaves_the_others() -> None:
    objected = frozenset({(SharingPurpose.MAINTENANCE, RECIPIENTS[1])})
    assert kept(settings_of(grant(fields={"ac_power_w"}), keeping=NOTHING, objections=objected))


def test_rule_8_the_finest_of_the_owners_wish_and_every_grant() -> None:
    keeping = Keeping(wished=Resolution.PT1H, finest=Resolution.PT1M)
    both = settings_of(
        grant(1, fields={"ac_power_w", "rssi_dbm"}, resolution="PT30M"),
        grant(2, fields={"ac_power_w"}, resolution="PT15M"),
        grant(3, fields={"temperature_c"}, resolution="P1D"),
        keeping=keeping,
    )
    resolutions = kept(both)
    assert resolutions["ac_power_w"] == Resolution.PT15M
    assert resolutions["rssi_dbm"] == Resolution.PT30M
    assert resolutions["temperature_c"] == Resolution.PT1H
    assert resolutions["ac_voltage_v"] == Resolution.PT1H


@pytest.mark.parametrize("resolution", ["raw", "PT1M"])
def test_rule_8_never_finer_than_the_owner_lets_be_kept(resolution: str) -> None:
    """A grant that is finer can be live only, and is served from hot rows."""
    live = grant(fields={"ac_power_w"}, resolution=resolution, history=timedelta(hours=1))
    assert kept(settings_of(live))["ac_power_w"] == Resolution.PT15M
    finer = Keeping(wished=Resolution.PT15M, finest=Resolution.PT1M)
    assert kept(settings_of(live, keeping=finer))["ac_power_w"] == Resolution.PT1M
    assert kept(settings_of(live, keeping=finer))["ac_voltage_v"] == Resolution.PT15M


def test_rule_8_what_only_a_grant_needs_is_kept_as_that_grant_needs_it() -> None:
    """Decision 0035: the owner's wish is for the own use; a daily grant alone keeps days."""
    assert kept(settings_of(grant(fields={"ac_power_w"}, resolution="P1D"), keeping=NOTHING)) == {
        "ac_power_w": Resolution.P1D
    }


def test_rule_9_each_class_of_data_expires_by_the_owners_period() -> None:
    compiled = compile_owner(settings_of(keeping=Keeping(retention_days={DataClass.GRID: 30})), NOW).classes[
        LATER, BATTERY
    ]
    days = dict(zip(DATA_CLASSES, compiled.retention_days, strict=True))
    assert days[DataClass.GRID] == 30
    assert {days[each] for each in DataClass if each is not DataClass.GRID} == {DEFAULT_RETENTION_DAYS}


def test_the_next_change_is_the_next_instant_at_which_a_grant_begins_or_ends() -> None:
    hour = timedelta(hours=1)
    begins = grant(1, fields={"ac_power_w"}, start=NOW + 2 * hour)
    ends = grant(2, fields={"ac_power_w"}, until=NOW + 3 * hour)
    over = grant(3, fields={"ac_power_w"}, until=NOW)
    withdrawn = grant(4, fields={"ac_power_w"}, until=NOW + hour, state=GrantState.WITHDRAWN)
    assert compile_owner(settings_of(begins, ends, over, withdrawn), NOW).next_change == NOW + 2 * hour
    expiring = settings_of(ends, policies={POLICIES[0]: NOW + hour})
    assert compile_owner(expiring, NOW).next_change == NOW + hour


class TestExplanation:
    def test_it_says_why_how_fine_and_until_when(self) -> None:
        settings = settings_of(
            grant(7, fields={"ac_power_w"}, resolution="PT1H", until=NOW + timedelta(days=1), kinds={INVERTER}),
            grant(8, fields={"rssi_dbm"}, state=GrantState.WITHDRAWN),
            keeping=Keeping(
                classes=frozenset(), fields=frozenset({"temperature_c"}), never=frozenset({"load_power_w"})
            ),
        )
        told = explain_plan(settings, compile_owner(settings, NOW), NOW)
        assert f"At site {SITES[0]}, for devices of inverter:" in told
        assert (
            "ac_power_w is kept in windows of one hour, each for 1098 days, for grant 7 (maintenance) at PT1H until"
            " 2026-11-26 12:00 UTC."
        ) in told
        assert ("temperature_c is kept in windows of 15 minutes, each for 1098 days, for the owner's own use.") in told
        assert "load_power_w is not kept because it must never be kept." in told
        assert "grant 8 (maintenance) admits nothing: it was withdrawn." in told
        assert "This changes by time at 2026-11-26 12:00 UTC." in told

    def test_kinds_with_the_same_class_for_other_reasons_are_told_apart(self) -> None:
        settings = settings_of(
            grant(1, fields={"ac_power_w"}, kinds={INVERTER}),
            grant(2, fields={"ac_power_w"}, kinds={BATTERY}),
            keeping=NOTHING,
            sites=SITES[:1],
        )
        told = explain_plan(settings, compile_owner(settings, NOW), NOW)
        reasons = [sentence for sentence in told if sentence.startswith("ac_power_w is kept")]
        assert ["grant 1" in reason for reason in reasons] == [True, False]
        assert ["grant 2" in reason for reason in reasons] == [False, True]


Sabotage = Callable[[pytest.MonkeyPatch], None]


def patched(name: str, replacement: Any) -> Sabotage:
    return lambda patch: patch.setattr(compiling, name, replacement)


def _always_active(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Grant, "active", lambda *_: True)


def _own_forgotten(*_: object) -> frozenset[int]:
    return frozenset()


def _finer(settings: OwnerSettings, admitted: Any) -> PlanClass:
    made = _CLASS_OF(settings, admitted)
    return replace(made, kept_resolution=bytes(rank if rank == NOT_KEPT else 1 for rank in made.kept_resolution))


def _coarser(settings: OwnerSettings, admitted: Any) -> PlanClass:
    made = _CLASS_OF(settings, admitted)
    return replace(made, kept_resolution=bytes(rank if rank == NOT_KEPT else 6 for rank in made.kept_resolution))


def _longer(keeping: Keeping) -> tuple[int, ...]:
    return (DEFAULT_RETENTION_DAYS,) * len(DATA_CLASSES)


_CLASS_OF = compiling._class_of
SCOPED = settings_of(
    grant(1, fields={"ac_power_w"}, sites={SITES[1]}, kinds={BATTERY}, resolution="PT1H"),
    grant(2, fields={"rssi_dbm"}, purpose=SharingPurpose.BILLING),
    grant(3, fields={"link_quality_pct"}, start=NOW + timedelta(days=1)),
    keeping=Keeping(
        classes=frozenset({DataClass.ALERT}),
        never=frozenset({"alert_code"}),
        retention_days={DataClass.ALERT: 7},
    ),
    objections=frozenset({(SharingPurpose.BILLING, None)}),
)
SABOTAGES: dict[str, Sabotage] = {
    "scope is not looked at": patched("_reaches", lambda *_: True),
    "scope is never met": patched("_reaches", lambda *_: False),
    "obstacles are not looked at": patched("_hindered", lambda *_: False),
    "time is not looked at": _always_active,
    "the own use is everything": patched("_own", lambda *_: frozenset(range(len(CATALOGUE)))),
    "the own use is forgotten": patched("_own", _own_forgotten),
    "never is forgotten": patched(
        "_named",
        lambda classes, fields: frozenset(
            index for index, field in enumerate(CATALOGUE) if field.data_class in classes
        ),
    ),
    "finer than allowed": patched("_class_of", _finer),
    "coarser than granted": patched("_class_of", _coarser),
    "kept for longer": patched("_retention", _longer),
}


@pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)
def test_a_sabotaged_compiler_breaks_its_promise(sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_owner(SCOPED, NOW)
    sabotage(monkeypatch)
    with pytest.raises(PlanError, match="breaks its promise"):
        compile_owner(SCOPED, NOW)


def _changed(plan: OwnerPlan, **changes: Any) -> OwnerPlan:
    where = (SITES[0], INVERTER)
    return replace(plan, classes=dict(plan.classes) | {where: replace(plan.classes[where], **changes)})


def test_the_promise_covers_every_part_of_a_class() -> None:
    plan = compile_owner(SCOPED, NOW)
    compiled = plan.classes[SITES[0], INVERTER]
    index = FIELD_INDEX["alert_bits"]
    broken = [
        replace(plan, classes={key: each for key, each in plan.classes.items() if key != (LATER, BATTERY)}),
        replace(plan, classes=dict(plan.classes) | {(99, BATTERY): compiled}),
        _changed(plan, withhold=Withheld.ERASED),
        _changed(plan, keep=compiled.keep[:-1]),
        _changed(plan, keep=_with(compiled.keep, index, 0)),
        _changed(plan, kept_resolution=_with(compiled.kept_resolution, index, NOT_KEPT)),
        _changed(plan, keep=_with(compiled.keep, FIELD_INDEX["ac_power_w"], 1)),
        _changed(plan, kept_resolution=_with(compiled.kept_resolution, FIELD_INDEX["ac_power_w"], 2)),
        _changed(plan, retention_days=tuple(days + 1 for days in compiled.retention_days)),
    ]
    for each in broken:
        with pytest.raises(PlanError):
            check_plan(SCOPED, each, NOW)
    check_plan(SCOPED, plan, NOW)


def _with(content: bytes, index: int, value: int) -> bytes:
    changed = bytearray(content)
    changed[index] = value
    return bytes(changed)


class TestPlanOfClasses:
    def test_a_number_without_a_class_keeps_nothing(self) -> None:
        plan = Plan.of(3, {0: DEFAULT_CLASS, 2: DEFAULT_CLASS})
        assert plan.keep.any(axis=1).tolist() == [True, False, True]

    def test_extending_leaves_the_classes_before(self) -> None:
        erased = compile_owner(settings_of(erased=True), NOW).classes[LATER, BATTERY]
        first = Plan.default(3)
        plan = first.extended(4, {1: erased})
        assert (plan.version, plan.withhold) == (4, (None, Withheld.ERASED))
        assert plan.keep.any(axis=1).tolist() == [True, False]
        assert (first.version, first.classes) == (3, 1)

    def test_another_catalogues_class_is_refused(self) -> None:
        with pytest.raises(ValueError, match="another catalogue"):
            Plan.of(1, {1: replace(DEFAULT_CLASS, keep=b"\x01")})
