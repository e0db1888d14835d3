"""All golden cases, and that the kit would notice what it is there for."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from telemetry.cli.conformance import conformance
from telemetry.codecs.registry import CODEC_BY_NAME
from telemetry.errors import InputError
from telemetry.maintenance.conformance import run_cases

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(path.parent for path in GOLDEN.rglob("messages.jsonl"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.relative_to(GOLDEN).as_posix())
def test_a_case_comes_out_as_it_should(case: Path):
    (result,) = run_cases(case)
    assert result.differences == ()


def test_formats_have_cases():
    formats = {json.loads((case / "expected.json").read_text())["format"] for case in CASES}
    assert formats >= CODEC_BY_NAME.keys() - {"native-arrow", "senml-cbor"}  # binary: tested beside their codecs


@pytest.fixture
def case(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "victron" / "system", tmp_path / "case")
    return tmp_path / "case"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": []}, "0 rows expected, 11 found"),
        ({"withheld": {}}, "withheld: {'retained': 1, 'unlisted': 4} found"),
        ({"rejected": {"empty": 2}}, "rejected: {'empty': 1} found, {'empty': 2} expected"),
        ({"unlisted": {}}, "unlisted: "),
        ({"implausible": {}}, "implausible: "),
        ({"standing": []}, "standing: ['R/"),
        ({"requests": ["R/x/keepalive"]}, "requests: [] found"),
        ({"format": "senml-json"}, "no message was read as senml-json"),
        ({"canaries": ["936"]}, "canary '936' came through"),
        ({"canaries": ["not there"]}, "canary 'not there' is in no message"),
    ],
)
def test_every_difference_is_told(case: Path, change: dict, told: str):
    path = case / "expected.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    (result,) = run_cases(case)
    assert not result.passed
    assert any(line.startswith(told) for line in result.differences), result.differences


def test_a_changed_value_is_told(case: Path):
    path = case / "expected.json"
    given = json.loads(path.read_text())
    given["rows"][0]["grid_power_l1_w"] += 0.001
    path.write_text(json.dumps(given))
    (result,) = run_cases(case)
    assert result.differences[0] == "row 0: grid_power_l1_w is 936.0, expected 936.001"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("messages.jsonl", "{"),
        ("messages.jsonl", "[]"),
        ("messages.jsonl", '{"topic": 5}'),
        ("messages.jsonl", '{"topic": "a", "at": "yesterday"}'),
        ("messages.jsonl", '{"topic": "a", "base64": "?"}'),
        ("messages.jsonl", '{"topic": "a", "unheard": 1}'),
        ("expected.json", "{}"),
        ("expected.json", '{"format": "unheard-of"}'),
        ("expected.json", '{"format": "victron", "unheard": 1}'),
    ],
)
def test_files_that_are_none_are_refused(case: Path, name: str, text: str):
    (case / name).write_text(text)
    with pytest.raises(InputError):
        run_cases(case)


def test_the_command(case: Path, tmp_path: Path):
    app = typer.Typer()
    app.command()(conformance)
    told = CliRunner().invoke(app, [str(tmp_path), "--json"])
    assert (told.exit_code, json.loads(told.stdout)["cases"]) == (0, 1)
    path = case / "expected.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": []}))
    told = CliRunner().invoke(app, [str(tmp_path)])
    assert told.exit_code == 1
    assert "1 cases, 1 failed" in told.stdout
    (tmp_path / "empty").mkdir()
    told = CliRunner().invoke(app, [str(tmp_path / "empty")])
    assert told.exit_code != 0
