"""Whatever terms there are: written into a settings file and read again, they are the same, and can be explained."""

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.model.fields import CATALOGUE, FIELD_NAMES, DataClass, DeviceKind
from telemetry.model.sharing import (
    Grant,
    GrantTerms,
    Keeping,
    PlaceSetting,
    Resolution,
    SerialSetting,
    SharingPurpose,
)
from telemetry.privacy.combine import Standing
from telemetry.privacy.explain import Situation, explain
from telemetry.privacy.granting import wider
from telemetry.store.settings_file import parse_settings, written

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
KEYS = st.integers(-(2**63), 2**63 - 1).filter(bool)
INSTANTS = st.timedeltas(timedelta(days=-300), timedelta(days=300)).map(lambda away: NOON + away)


@st.composite
def all_terms(draw: st.DrawFn) -> GrantTerms:
    classes = draw(st.frozensets(st.sampled_from(DataClass), max_size=4))
    fields = draw(st.frozensets(st.sampled_from(FIELD_NAMES), min_size=0 if classes else 1, max_size=6))
    start = draw(st.none() | INSTANTS)
    return GrantTerms(
        purpose=draw(st.sampled_from(SharingPurpose)),
        classes=classes,
        fields=fields,
        sites=draw(st.none() | st.frozensets(KEYS, min_size=1, max_size=3)),
        kinds=draw(st.none() | st.frozensets(st.sampled_from(DeviceKind), min_size=1)),
        resolution=draw(st.sampled_from(Resolution)),
        serial=draw(st.sampled_from(SerialSetting)),
        place=draw(st.sampled_from(PlaceSetting)),
        extremes=draw(st.booleans()),
        history=draw(st.none() | st.timedeltas(timedelta(0), timedelta(days=4000))),
        data_from=draw(st.none() | INSTANTS),
        start=start,
        until=draw(st.none() | st.just(datetime(2028, 1, 1, tzinfo=UTC))),
    )


@st.composite
def keepings(draw: st.DrawFn) -> Keeping:
    finest, wished = sorted(draw(st.tuples(*[st.sampled_from(list(Resolution)[1:])] * 2)), key=lambda r: r.rank)
    return Keeping(
        wished=wished,
        finest=finest,
        classes=draw(st.none() | st.frozensets(st.sampled_from(DataClass))),
        fields=draw(st.frozensets(st.sampled_from(FIELD_NAMES), max_size=3)),
        never=draw(st.frozensets(st.sampled_from(FIELD_NAMES), max_size=3)),
        retention_days=draw(st.dictionaries(st.sampled_from(DataClass), st.integers(1, 3660), max_size=3)),
    )


def grant_of(key: int, terms: GrantTerms) -> Grant:
    return Grant(
        grant_key=key,
        version=1,
        owner_key=2,
        recipient_key=3,
        state="active",
        terms=terms,
        epoch=1,
        policy="2026-11",
        recorded_at=NOON,
    )


@given(st.lists(all_terms(), max_size=3), keepings(), st.none() | st.floats(0, 100))
def test_a_file_says_what_was_written_into_it(every, keeping, confirmed_km):
    grants = [(grant_of(key, terms), "example-installer", confirmed_km) for key, terms in enumerate(every, 1)]
    (owner,) = parse_settings(written({2: (keeping, grants)})).owners.values()
    assert owner.keeping == keeping
    assert [one.terms for one in owner.grants] == every
    assert [one.confirm_solar_km for one in owner.grants] == [confirmed_km] * len(every)


@given(all_terms(), all_terms())
def test_what_is_wider_shows_something_more_and_nothing_is_wider_than_itself(terms, other):
    assert not wider(terms, terms)
    narrower_fields = all(other.admits(field.name) or not terms.admits(field.name) for field in CATALOGUE)
    within = (
        narrower_fields
        and terms.resolution.rank >= other.resolution.rank
        and (other.extremes or not terms.extremes)
        and (other.sites is None or (terms.sites is not None and terms.sites <= other.sites))
        and (other.kinds is None or (terms.kinds is not None and terms.kinds <= other.kinds))
    )
    assert wider(terms, other) is not within


@settings(max_examples=30)
@given(st.lists(all_terms(), max_size=3), keepings(), st.lists(KEYS, max_size=2, unique=True))
def test_every_situation_can_be_explained_and_names_every_grant(every, keeping, sites):
    grants = [grant_of(key, terms) for key, terms in enumerate(every, 1)]
    sites += [site for terms in every for site in terms.sites or ()]
    told = explain(Situation(2, "example-installer", NOON, grants, Standing(), keeping, sites))
    for key in range(1, len(every) + 1):
        assert any(f"c_{key:016x}" in line for line in told)
