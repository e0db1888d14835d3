"""What is accepted never shows more than what was asked would: held against the combined view itself."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from telemetry.errors import RequestWidened, SharingError
from telemetry.model.fields import CATALOGUE, FIELD_NAMES, DataClass, DeviceKind
from telemetry.model.sharing import (
    Grant,
    GrantState,
    GrantTerms,
    PlaceSetting,
    Resolution,
    SerialSetting,
    SharingPurpose,
)
from telemetry.privacy.combine import Standing, combine, instant_us
from telemetry.privacy.granting import completed
from telemetry.privacy.requesting import _within, acceptable, check_narrower, code_read, new_code

AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SITES = (1, 2, 3)
FIELDS = ("ac_power_w", "energy_total_wh", "temperature_c")
PURPOSES = (SharingPurpose.MAINTENANCE, SharingPurpose.BILLING)
near = st.integers(-4, 4).map(lambda hours: AT + hours * HOUR)


def subsets(values):
    return st.frozensets(st.sampled_from(values))


def optional(strategy):
    return st.none() | strategy


def _less(name, value, than):
    """The narrower of both, where that can be told by comparing."""
    if name in {"classes", "fields"}:
        return value & than
    if name in {"sites", "kinds"}:
        return value if than is None else than if value is None else (value & than or than)
    if name in {"history", "until"}:
        return min((one for one in (value, than) if one is not None), default=None)
    if name in {"data_from", "start"}:
        return max((one for one in (value, than) if one is not None), default=None)
    if name in {"resolution", "serial", "place"}:
        return (max if name == "resolution" else min)(value, than, key=lambda one: one.rank)
    return than and value


@st.composite
def all_terms(draw, like: GrantTerms | None = None):
    """Terms; ``like`` others in about all but two settings, so that many are narrower in those."""
    values = {
        "purpose": draw(st.sampled_from(PURPOSES)),
        "classes": draw(subsets(tuple(DataClass)[:4])),
        "fields": draw(subsets(FIELDS)),
        "sites": draw(optional(subsets(SITES).filter(bool))),
        "kinds": draw(optional(subsets(tuple(DeviceKind)).filter(bool))),
        "resolution": draw(st.sampled_from(Resolution)),
        "serial": draw(st.sampled_from(SerialSetting)),
        "place": draw(st.sampled_from(PlaceSetting)),
        "extremes": draw(st.booleans()),
        "history": draw(optional(st.integers(0, 6).map(lambda hours: hours * HOUR))),
        "data_from": draw(optional(near)),
        "start": draw(optional(near.filter(lambda start: start >= AT))),
        "until": draw(optional(near.filter(lambda until: until > AT))),
    }
    if like is not None:
        changed = draw(st.sets(st.sampled_from(sorted(set(values) - {"purpose"})), max_size=3))
        if draw(st.booleans()):
            values = {name: _less(name, values[name], getattr(like, name)) for name in values}
        values = {name: values[name] if name in changed else getattr(like, name) for name in values}
    try:
        return GrantTerms(**values)
    except ValueError:
        assume(False)
        raise


def granted(terms: GrantTerms, at: datetime) -> Grant:
    terms = completed(terms, None, at)
    return Grant(
        grant_key=1,
        version=1,
        owner_key=1,
        recipient_key=1,
        state=GrantState.ACTIVE,
        terms=terms,
        epoch=1,
        policy="2026-11",
        recorded_at=at,
    )


def shows_no_more(one: Grant, other: Grant, now: datetime) -> bool:
    """Whether everything of ``one``'s view, at each site, is in ``other``'s."""
    for site in SITES:
        less, more = (combine([grant], site, Standing(), now) for grant in (one, other))
        if less.kinds and less.place.rank > more.place.rank:
            return False
        for kind, view in less.kinds.items():
            wide = more.kinds.get(kind)
            if wide is None or view.serial.rank > wide.serial.rank:
                return False
            if view.real_time_alerts and not wide.real_time_alerts:
                return False
            for field, spans in view.fields.items():
                for span in spans:
                    covering = wide.fields.get(field, ())
                    if not any(
                        c.rank <= span.rank
                        and c.from_us <= span.from_us
                        and c.to_us >= span.to_us
                        and (c.extremes or not span.extremes)
                        for c in covering
                    ):
                        return False
    return True


@settings(max_examples=600)
@given(st.data())
def test_what_passes_shows_no_more_at_any_time_than_what_was_asked_would(data):
    asked = data.draw(all_terms())
    wished = data.draw(all_terms(like=asked))
    try:
        whole = granted(acceptable(asked, AT), AT)
        check_narrower(wished, asked, AT)
        part = granted(wished, AT)
    except RequestWidened:
        event("refused as wider")
        return
    except SharingError:
        event("not to be granted at all")
        return
    event("equal" if wished == asked else "narrower")
    assert part.terms.purpose is whole.terms.purpose
    for hours in range(8):
        now = AT + hours * HOUR + timedelta(microseconds=1)
        assert shows_no_more(part, whole, now), (asked, wished, instant_us(now))


@given(all_terms())
def test_what_was_asked_is_not_beyond_itself(asked):
    check_narrower(acceptable(asked, AT), asked, AT)


@given(all_terms(), st.data())
def test_each_setting_on_its_own_is_held(asked, data):
    """Whatever else is as it was asked: one step more of anything is refused by its name."""
    asked = asked.model_copy(
        update={"resolution": Resolution.PT1H, "serial": SerialSetting.PSEUDONYM, "place": PlaceSetting.CELL4}
        | {"extremes": False, "history": HOUR, "sites": frozenset({1}), "kinds": frozenset({DeviceKind.INVERTER})}
        | {"data_from": AT + HOUR, "start": AT + 2 * HOUR, "until": AT + 5 * HOUR}
    )
    other = next(purpose for purpose in SharingPurpose if purpose is not asked.purpose)
    more_class = next(one for one in DataClass if one not in asked.classes)
    more_field = next((name for name in FIELD_NAMES if not asked.admits(name)), None)
    steps = {
        "purpose": other,
        "classes": asked.classes | {more_class},
        "fields": asked.fields | {more_field},
        "sites": data.draw(st.sampled_from([None, frozenset({1, 2}), frozenset({2})])),
        "kinds": data.draw(st.sampled_from([None, frozenset({DeviceKind.METER})])),
        "resolution": Resolution.PT30M,
        "serial": SerialSetting.REAL,
        "place": PlaceSetting.CELL5,
        "extremes": True,
        "history": data.draw(st.sampled_from([None, 2 * HOUR])),
        "data_from": AT,
        "start": AT + HOUR,
        "until": data.draw(st.sampled_from([None, AT + 6 * HOUR])),
    }
    if more_field is None:
        del steps["fields"]
    for name, value in steps.items():
        with pytest.raises(RequestWidened, match=name):
            check_narrower(asked.model_copy(update={name: value}), asked, AT)


def test_every_setting_of_terms_is_looked_at():
    terms = GrantTerms(purpose=SharingPurpose.BILLING, fields=frozenset({CATALOGUE[0].name}))
    assert set(_within(terms, terms, AT)) == set(GrantTerms.model_fields)


@given(st.data())
def test_a_code_is_read_back_however_it_is_written(data):
    code = new_code()
    written = data.draw(
        st.sampled_from([code, code.lower(), code.replace("-", ""), f" {code} ", code.replace("0", "O")])
    )
    assert code_read(written) == code.replace("-", "")
