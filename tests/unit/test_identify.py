"""`telemetry identify`: formats, fields and reasons of a capture; nothing that identifies is told."""

import base64
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from telemetry.cli.identify import identify

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def capture(path: Path, *cases: str) -> list[str]:
    """The messages of golden cases as a capture; returns their canaries."""
    lines, canaries = [], []
    for case in cases:
        for line in (GOLDEN / case / "messages.jsonl").read_text().splitlines():
            given = json.loads(line)
            if "restart" in given:
                continue
            payload = json.dumps(given["json"]).encode() if "json" in given else given.get("text", "").encode()
            lines.append(
                {
                    "topic": f"gw/gw-CANARY-55/{given['topic']}",
                    "payload": base64.b64encode(payload).decode(),
                    "retained": given.get("retained", False),
                }
            )
        canaries += json.loads((GOLDEN / case / "expected.json").read_text()).get("canaries", [])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return [*canaries, "gw-CANARY-55"]


def run(*arguments: str) -> Result:
    app = typer.Typer()
    app.command()(identify)
    return CliRunner().invoke(app, list(arguments))


def test_formats_fields_and_reasons(tmp_path: Path):
    canaries = capture(
        tmp_path / "c",
        "home-assistant/plug-json",
        "home-assistant/not-energy",
        "victron/system",
        "victron/withheld",
        "native-json/forms",
    )
    told = run(str(tmp_path / "c"), "--json")
    assert told.exit_code == 0, told.output
    formats = {one["format"]: one for one in json.loads(told.stdout)["formats"]}
    assert formats.keys() == {"home-assistant", "victron", "native-json", "unknown"}
    victron = formats["victron"]
    assert victron["kinds"] == ["inverter"]
    assert victron["kept"]["grid_power_l1_w"] == 3
    assert victron["devices"] == 1
    assert victron["rows_with_time"] == 0
    assert victron["withheld"]["ev.vin"] == 1
    assert victron["readings_withheld"]["place"] == {"readings": 4, "why": "it tells a place"}
    assert formats["native-json"]["rows_with_time"] == 4
    assert formats["native-json"]["readings_withheld"] == {
        "retained": {"readings": 1, "why": "retained: the last state, and no reading"}
    }
    assert formats["home-assistant"]["kept"]["ac_power_w"] == 2
    assert formats["unknown"]["unknown_topics"] == {"zigbee2mqtt/<name>": 1}
    for canary in canaries:
        assert canary.lower() not in told.stdout.lower()


def test_for_people(tmp_path: Path):
    canaries = capture(tmp_path / "c", "victron/withheld", "home-assistant/plug-json")
    told = run(str(tmp_path / "c"))
    assert "  withheld        ev.vin (1): in no table of the format" in told.stdout
    assert "  would be kept   ac_power_w (2)" in told.stdout
    assert "  nobody reads    zigbee2mqtt/<name> (1)" in told.stdout
    for canary in canaries:
        assert canary.lower() not in told.stdout.lower()


def test_nothing_is_no_error(tmp_path: Path):
    (tmp_path / "c").write_text("\n")
    assert run(str(tmp_path / "c")).stdout == "no messages\n"


@pytest.mark.parametrize("line", ["{", "[]", '{"payload": ""}', '{"topic": 5}', '{"topic": "a", "payload": "?"}'])
def test_what_is_no_capture_is_refused_unquoted(tmp_path: Path, line: str):
    (tmp_path / "c").write_text(line)
    told = run(str(tmp_path / "c"))
    assert told.exit_code == 2


def test_one_of_both_must_be_named(tmp_path: Path):
    assert run().exit_code == 2
    assert run(str(tmp_path), "--gateway", "g").exit_code == 2


def config(path: Path) -> Path:
    lines = [f'data_dir = "{path.parent}"', "embedded = false", "[database]", 'dsn = "postgresql:///x"']
    path.write_text("\n".join([*lines, "[broker]", 'username = "worker"', ""]))
    return path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "broker's files are not on this machine"),
        (("--username", "somebody"), "needs --password-file"),
        (("--username", "worker", "--password-file", "x"), "the worker's own user"),
        (("--username", "somebody", "--password-file", "not-there"), "cannot be read"),
    ],
)
def test_whom_a_broker_elsewhere_lets_listen(tmp_path: Path, arguments: tuple[str, ...], told: str):
    result = run("--gateway", "g", "--config", str(config(tmp_path / "telemetry.toml")), *arguments)
    assert result.exit_code == 2
    assert told in result.output.replace("\n", " ")


def test_a_gateway_that_mixes_makers_formats(tmp_path: Path):
    cases = [
        "tasmota/place",
        "shelly/full-status",
        "opendtu/inverter",
        "opendtu/withheld",
        "ahoydtu/place",
        "evcc/personal",
    ]
    canaries = capture(tmp_path / "c", *cases)
    told = run(str(tmp_path / "c"), "--json")
    formats = {one["format"]: one for one in json.loads(told.stdout)["formats"]}
    assert formats.keys() == {"tasmota", "shelly", "opendtu", "ahoydtu", "evcc"}
    assert formats["tasmota"]["place"] == {"bssid": 2, "ssid": 1, "channel": 1}
    assert formats["shelly"]["place"] == {"ssid": 1, "bssid": 1}
    assert formats["shelly"]["rows_with_time"] == formats["shelly"]["rows"] == 3
    assert formats["opendtu"]["rows_with_time"] == 0
    assert formats["evcc"]["withheld"]["vehicleodometer"] == 1
    assert "  withheld        bssid (2): it tells a place" in run(str(tmp_path / "c")).stdout
    for canary in canaries:
        assert canary.lower() not in told.stdout.lower()
