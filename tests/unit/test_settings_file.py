"""The settings file: everything doubtful is refused, with its line and without quoting it."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from telemetry.errors import InputError
from telemetry.model.sharing import GrantTerms, Keeping, Resolution
from telemetry.store.settings_file import parse_settings, plain_keeping, plain_terms, read_settings

WHOLE = """
owners:
  o_0000000000000002:
    keeping:
      wished: PT1H
      never: [load_power_w]
      retention_days: {production: 30}
    grants:
      - recipient: example-installer
        purpose: maintenance
        classes: [production, alert]
        fields: [temperature_c]
        sites: [s_0000000000000007]
        kinds: [inverter]
        resolution: PT15M
        serial: pseudonym
        place: cell5
        extremes: true
        history: P30D
        data_from: 2026-10-01T00:00:00Z
        until: 2027-10-01T00:00:00+02:00
        confirm_solar_km: 5
  o_fffffffffffffffe:
    grants: []
"""


def test_a_whole_file():
    file = parse_settings(WHOLE)
    assert list(file.owners) == ["o_0000000000000002", "o_fffffffffffffffe"]
    owner = file.owners["o_0000000000000002"]
    assert owner.keeping == Keeping(wished="PT1H", never=["load_power_w"], retention_days={"production": 30})
    (grant,) = owner.grants
    assert (grant.recipient, grant.confirm_solar_km) == ("example-installer", 5.0)
    assert grant.terms == GrantTerms(
        purpose="maintenance",
        classes=["production", "alert"],
        fields=["temperature_c"],
        sites=[7],
        kinds=[1],
        resolution=Resolution.PT15M,
        serial="pseudonym",
        place="cell5",
        extremes=True,
        history=timedelta(days=30),
        data_from=datetime(2026, 10, 1, tzinfo=UTC),
        until=datetime(2027, 9, 30, 22, tzinfo=UTC),
    )
    assert file.owners["o_fffffffffffffffe"].grants == ()
    assert file.owners["o_fffffffffffffffe"].keeping is None


def test_what_is_written_is_read_as_the_same():
    owner = parse_settings(WHOLE).owners["o_0000000000000002"]
    (grant,) = owner.grants
    again = {"recipient": grant.recipient} | plain_terms(grant.terms)
    written = yaml.safe_dump(
        {"owners": {"o_0000000000000002": {"keeping": plain_keeping(owner.keeping), "grants": [again]}}}
    )
    back = parse_settings(written).owners["o_0000000000000002"]
    assert back.keeping == owner.keeping
    assert back.grants[0].terms == grant.terms
    nothing_kept = Keeping(classes=[])
    assert Keeping.model_validate(plain_keeping(nothing_kept)) == nothing_kept
    assert plain_keeping(Keeping()) == {"wished": "PT15M", "finest": "PT15M"}


def changed(old: str, new: str) -> str:
    assert old in WHOLE
    return WHOLE.replace(old, new)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: "),
        ("owners: {}", "line 1: "),
        ("canary: 1", "line 1: this key is not known here"),
        ("- canary", "line 1: "),
        (WHOLE + "  o_0000000000000002:\n    grants: []\n", "line 25: this key stands twice"),
        (changed("        place: cell5\n", "        place: cell5\n        place: exact\n"), "line 18: this key stands"),
        (changed("extremes: true", "canary: true"), "line 18: this key is not known here"),
        (changed("extremes: true", "extremes: canary"), "line 18: "),
        (changed("place: cell5", "place: canary"), "line 17: "),
        (changed("place: cell5", "place: 5"), "line 17: "),
        (changed("history: P30D", "history: 30"), "line 19: a duration is written like P30D"),
        (changed("history: P30D", "history: 1 day"), "line 19: a duration is written like P30D"),
        (changed("history: P30D", "history: -P1D"), "line 19: "),
        (changed("2026-10-01T00:00:00Z", "2026-10-01T00:00:00"), "line 20: "),  # no offset: which noon?
        (changed("2026-10-01T00:00:00Z", "2026-10-01"), "line 20: "),
        (changed("classes: [production, alert]", "classes: [production, canary]"), "line 11: "),
        (changed("fields: [temperature_c]", "fields: [no_such_field]"), "line 9: "),
        (changed("sites: [s_0000000000000007]", "sites: [canary]"), "line 13: this is not of the form expected"),
        (changed("kinds: [inverter]", "kinds: [canary]"), "line 14: this is not of the form expected"),
        (changed("kinds: [inverter]", "kinds: []"), "line 9: a grant for certain kinds"),
        (changed("recipient: example-installer", "recipient: Canary Ltd"), "line 9: this is not of the form expected"),
        (changed("purpose: maintenance", "purpose: canary"), "line 10: "),
        (changed("wished: PT1H", "wished: raw"), "line 4: "),
        (changed("o_fffffffffffffffe", "canary"), "line 23: this is not of the form expected"),
        (changed("[inverter]", "&a [inverter]") + "# *a\n    keeping: *a\n", "references (*name) are not allowed"),
        (changed("[inverter]", "!!python/object:canary {}"), "this tag is not allowed"),
        (changed("[inverter]", "!!binary canary"), "this tag is not allowed"),
        (changed("[inverter]", "[inverter"), "not YAML"),
        ("a: \x00", "characters that YAML does not allow"),
        ("? [canary]\n: 1", "no plain key"),
    ],
)
def test_what_is_refused_is_told_with_its_line_and_not_quoted(text, said):
    with pytest.raises(InputError) as refusal:
        parse_settings(text)
    assert said in str(refusal.value)
    assert "canary" not in str(refusal.value).lower()


def test_all_faults_are_told_at_once():
    text = changed("place: cell5", "place: nowhere").replace("serial: pseudonym", "serial: fake")
    with pytest.raises(InputError, match=r"line 16: .*; line 17: "):
        parse_settings(text)
    many = "owners:\n" + "".join(f"  o_{number:016x}: {{x: 1}}\n" for number in range(30))
    with pytest.raises(InputError, match="and 10 more"):
        parse_settings(many)


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="cannot read the file"):
        read_settings(tmp_path / "canary.yaml")
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"owners: \xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read_settings(file)
    file.write_text(WHOLE)
    assert read_settings(file) == parse_settings(WHOLE)


def test_the_example_that_operators_are_shown_is_one():
    text = (Path(__file__).parents[2] / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(owners:.*?)```", text, re.DOTALL)
    (owner,) = parse_settings(example).owners.values()
    assert owner.keeping is not None
    assert [grant.recipient for grant in owner.grants or ()] == ["example-installer", "example-utility"]
