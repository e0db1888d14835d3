"""Value templates: a place and a factor, and nothing that could be more."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.codecs.value_template import Template, parse_template


@pytest.mark.parametrize(
    ("text", "path", "times", "by"),
    [
        ("{{ value }}", None, 1, 1),
        ("{{value}}", None, 1, 1),
        ("{{- value | float -}}", None, 1, 1),
        ("{{ value_json }}", (), 1, 1),
        ("{{ value_json.power }}", ("power",), 1, 1),
        ("{{ value_json.a.b_2.C }}", ("a", "b_2", "C"), 1, 1),
        ('{{ value_json["a"]["b c"] }}', ("a", "b c"), 1, 1),
        ("{{ value_json['ENERGY'].Power }}", ("ENERGY", "Power"), 1, 1),
        ("{{ value_json.x[0].y }}", ("x", 0, "y"), 1, 1),
        ("{{ value_json.x | float / 10 }}", ("x",), 1, 10),
        ("{{ value_json.x / 10 | float }}", ("x",), 1, 10),
        ("{{ value_json.x * 1000 }}", ("x",), 1000, 1),
        ("{{ value_json.x * -1 }}", ("x",), -1, 1),
        ("{{ (value_json.x | float(0) * 3.5) / 2 | round(2) }}", ("x",), 3.5, 2),
        ("{{ ((value_json.x) * 1e3)|round(1) }}", ("x",), 1000, 1),
        ("{{ value | int(default=0) }}", None, 1, 1),
        ("{{ value_json.x | is_defined }}", ("x",), 1, 1),
        ("{{ value_json.x|default(-1)|float }}", ("x",), 1, 1),
        ("  {{ value / 100 }}\n", None, 1, 100),
    ],
)
def test_what_is_understood(text: str, path: tuple | None, times: float, by: float):
    if "default=0" in text:
        assert parse_template(text) is None  # keyword arguments are not
        return
    assert parse_template(text) == Template(path, times, by)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "value",
        "{{ }}",
        "{{ values }}",
        "{{ value_json. }}",
        "{{ value_json[x] }}",
        "{{ value_json[1.5] }}",
        "{{ value_json.x + 1 }}",
        "{{ value_json.x - 1 }}",
        "{{ 10 / value_json.x }}",
        "{{ value_json.x / 0 }}",
        "{{ value_json.x * 0 }}",
        "{{ value_json.x * value_json.y }}",
        "{{ value_json.x | timestamp_local }}",
        "{{ value_json.x | float | abs }}",
        "{{ value_json.x if value_json.y else 0 }}",
        "{% if value_json.x %}1{% endif %}",
        "{{ value_json.x }} W",
        "{{ value }}{{ value }}",
        "{{ states('sensor.home') }}",
        "{{ value_json['a\\'b'] }}",
        "{{ value_json.__class__() }}",
        "{{ (value }}",
        "{{ value) }}",
        "{{ " + "(" * 20 + "value" + ")" * 20 + " }}",
        "{{ value_json" + ".a" * 400 + " }}",
    ],
)
def test_what_is_not(text: str):
    assert parse_template(text) is None


@given(st.text(alphabet="{}()[]|*/.-'\" value_json10floatround", max_size=60))
@settings(max_examples=1000)
def test_whatever_is_written_it_is_a_template_or_none(text: str):
    found = parse_template("{{" + text + "}}")
    assert found is None or (found.times and found.by)
