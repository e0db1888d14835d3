"""Compiling equals the scalar reference and its own promise, on any settings."""

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.model.batch import Withheld
from telemetry.model.fields import FIELD_NAMES, DeviceKind
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS
from telemetry.privacy.compile import compile_owner
from telemetry.privacy.plan import DATA_CLASSES, NOT_KEPT
from telemetry.privacy.promise import check_plan, explain_plan
from telemetry.privacy.settled import LATER, OwnerSettings
from tests.support.scalar_compile import scalar_kept
from tests.support.settled import INSTANTS, NOW, owners


def reference(owner: OwnerSettings, site: int, kind: DeviceKind, now=NOW) -> dict[str, int]:
    return scalar_kept(
        keeping=owner.keeping,
        grants=owner.grants,
        policies=dict(owner.policies),
        closed=set(owner.closed),
        objections={(purpose.value, recipient) for purpose, recipient in owner.objections},
        erased=owner.erased,
        site=site,
        kind=kind,
        now=now,
    )


@given(owners())
@settings(max_examples=150, deadline=None)
def test_rules_5_7_and_8_as_the_scalar_reference_has_them(owner: OwnerSettings) -> None:
    plan = compile_owner(owner, NOW)
    assert set(plan.classes) == {(site, kind) for site in (*owner.sites, LATER) for kind in DeviceKind}
    for (site, kind), compiled in plan.classes.items():
        expected = reference(owner, site, kind)
        ranks = zip(FIELD_NAMES, compiled.kept_resolution, strict=True)
        assert {name: rank for name, rank in ranks if rank != NOT_KEPT} == expected
        assert compiled.fields == set(expected)
        assert compiled.withhold == (Withheld.ERASED if owner.erased else None)
        for data_class, days in zip(DATA_CLASSES, compiled.retention_days, strict=True):
            assert days == owner.keeping.retention_days.get(data_class, DEFAULT_RETENTION_DAYS)


@given(owners())
@settings(max_examples=60, deadline=None)
def test_until_the_next_change_time_alone_changes_nothing_and_then_it_may(owner: OwnerSettings) -> None:
    plan = compile_owner(owner, NOW)
    end = plan.next_change
    for instant in (*INSTANTS, NOW + timedelta(days=400)):
        if instant < NOW or (end is not None and instant >= end):
            continue
        assert compile_owner(owner, instant).classes == plan.classes
    if end is not None:
        assert end > NOW
        assert end in {
            each
            for grant in owner.grants
            for each in (grant.terms.start, grant.terms.until, owner.policies.get(grant.policy))
        }


@given(owners(), st.data())
@settings(max_examples=60, deadline=None)
def test_the_order_of_grants_means_nothing(owner: OwnerSettings, data: st.DataObject) -> None:
    shuffled = OwnerSettings(
        **{name: getattr(owner, name) for name in owner.__slots__}
        | {"grants": tuple(data.draw(st.permutations(owner.grants)))}
    )
    assert compile_owner(shuffled, NOW).classes == compile_owner(owner, NOW).classes


@given(owners())
@settings(max_examples=60, deadline=None)
def test_equal_content_is_one_class_and_other_content_another(owner: OwnerSettings) -> None:
    classes = set(compile_owner(owner, NOW).classes.values())
    assert len({compiled.digest for compiled in classes}) == len(classes)


@given(owners())
@settings(max_examples=60, deadline=None)
def test_every_kept_field_is_explained_and_every_other_named_as_not_kept(owner: OwnerSettings) -> None:
    plan = compile_owner(owner, NOW)
    check_plan(owner, plan, NOW)
    text = "\n".join(explain_plan(owner, plan, NOW))
    if owner.erased:
        assert "every reading is withheld" in text
        return
    for site in owner.sites:
        assert f"At site {site}" in text
    if owner.sites:
        for name in FIELD_NAMES:
            kept = any(name in plan.classes[site, kind].fields for site in owner.sites for kind in DeviceKind)
            assert name in text, kept
