"""`telemetry decode`: what the service would make of a message, with placeholders for whatever identifies."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from telemetry.cli.decode import decode
from tests.support.advertisements import bthome, victron

SERIAL = "INV00000042"


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(decode)
    return app


def run(app: typer.Typer, payload: bytes, *arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments, "-"], input=payload)


def test_rows_withheld_and_rejections(app: typer.Typer) -> None:
    readings = [
        {"serial": SERIAL, "kind": "inverter", "ts": 0, "ac_power_w": 1.5, SERIAL: 1, "wind_mps": 2},
        {"serial": SERIAL, "kind": "toaster", "ts": 0},
        {"serial": "BAT00000043", "kind": "battery", "ts": "9999-12-31T23:59:59Z", "battery_soc_pct": 50},
        {"serial": SERIAL, "kind": "inverter", "ts": 10**15, "temperature_c": "21", "ac_power_w": 2},
    ]
    result = run(app, json.dumps(readings).encode(), "--format", "native-json", "--json")
    assert result.exit_code == 1  # something was rejected
    assert SERIAL not in result.output
    assert "BAT00000043" not in result.output
    told = json.loads(result.output)
    assert [row["serial"] for row in told["rows"]] == ["<serial 1>", "<serial 2>", "<serial 1>"]
    assert told["rows"][0] | {"serial": ""} == {
        "serial": "",
        "kind": "inverter",
        "ts": "1970-01-01T00:00:00+00:00",
        "ac_power_w": 1.5,
    }
    assert told["unlisted"] == {"<name>": 1, "wind_mps": 1}
    assert told["implausible"] == {"temperature_c": 1}
    assert [(one["reason"], one["readings"]) for one in told["rejections"]] == [("bad_kind", 1)]


def test_a_format_of_many_topics_needs_one(app: typer.Typer) -> None:
    assert run(app, b'{"value": 5}', "--format", "victron").exit_code == 2
    told = run(app, b'{"value": 5}', "--format", "victron", "--topic", "N/c0619ab9929a/battery/1/Soc", "--json")
    assert told.exit_code == 0
    assert json.loads(told.output)["rows"][0]["battery_soc_pct"] == 5


def test_a_serial_that_looks_like_a_word_is_known_from_the_message(app: typer.Typer) -> None:
    reading = {"serial": "Roof-Miller", "kind": "inverter", "ts": 0, "ac_power_w": 1.5, "roof.miller_w": 1}
    payload = json.dumps(reading | {"roofmiller": 1, "rooftop_w": 2}).encode()
    told = json.loads(run(app, payload, "--format", "native-json", "--json").output)
    assert told["unlisted"] == {"<name>_w": 1, "<name>": 1, "rooftop_w": 1}
    bad = json.dumps([reading, reading | {"ts": "roof miller"}]).encode()
    for arguments in (("--json",), ()):
        assert "miller" not in run(app, bad, "--format", "native-json", *arguments).output.lower()


def test_for_people(app: typer.Typer) -> None:
    payload = json.dumps({"serial": SERIAL, "kind": "inverter", "ts": 0, "ac_power_w": 1.5, "wind_mps": 2}).encode()
    result = run(app, payload, "--format", "native-json")
    assert result.exit_code == 0
    assert "<serial 1>  inverter  1970-01-01T00:00:00+00:00  ac_power_w=1.5" in result.output
    assert "wind_mps (1)" in result.output
    assert SERIAL not in result.output


def test_a_message_that_cannot_be_read(app: typer.Typer) -> None:
    result = run(app, b'{"serial":"INV00000042"', "--format", "native-json", "--json")
    assert result.exit_code == 1
    assert [one["reason"] for one in json.loads(result.output)["rejections"]] == ["malformed"]
    assert SERIAL not in result.output


def test_a_pack_without_time_and_kind(app: typer.Typer) -> None:
    result = run(app, b'[{"n":"INV00000042/voltage","v":230}]', "--format", "senml-json")
    assert "<serial 1>  -  time of receipt  ac_voltage_v=230.0" in result.output


def test_what_cannot_be_done(app: typer.Typer, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["--format", "native-json", str(tmp_path / "absent")]).exit_code == 2
    assert run(app, b"[]", "--format", "nonsense").exit_code == 2
    assert run(app, b"[]", "--format", "native-json", "--topic", "senml").exit_code == 2


KEY = "00112233445566778899aabbccddeeff"
ADDRESS = "C0:FF:EE:00:00:01"


def test_a_victron_advertisement_in_hex(app: typer.Typer, tmp_path: Path) -> None:
    frame = victron(bytes.fromhex(KEY), 0x0D, (1252 << 16 | 3 << 64 | 1500 << 66).to_bytes(11, "little")).hex().encode()
    result = run(app, frame + b"\n", "--format", "victron-ble", "--key", KEY, "--json")
    assert result.exit_code == 0
    told = json.loads(result.output)
    assert told["rows"] == [
        {
            "serial": "<serial 1>",
            "kind": "meter",
            "ts": None,
            "dc_voltage_v": 12.52,
            "alert_code": 0,
            "dc_current_a": 1.5,
        }
    ]
    assert told["unlisted"] == {"meter_type": 1}
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    assert run(app, frame, "--format", "victron-ble", "--key-file", str(file), "--json").output == result.output


def test_a_bthome_advertisement_in_hex(app: typer.Typer) -> None:
    frame = bthome(bytes.fromhex("0b0200004afa082101"), key=bytes.fromhex(KEY), counter=9).hex().encode()
    result = run(app, frame, "--format", "bthome", "--key", KEY, "--mac", ADDRESS, "--json")
    told = json.loads(result.output)
    assert told["rows"][0]["ac_voltage_v"] == 229.8
    assert (told["counter"], told["trusted"], told["unlisted"]) == (9, True, {"motion": 1})
    assert ADDRESS not in result.output
    clear = run(app, bthome(bytes.fromhex("0b020000")).hex().encode(), "--format", "bthome", "--mac", ADDRESS)
    assert clear.exit_code == 0
    assert "not authenticated" in clear.output


def test_a_wrong_key_is_a_rejection(app: typer.Typer) -> None:
    frame = bthome(bytes.fromhex("0b020000"), key=bytes.fromhex(KEY)).hex().encode()
    result = run(app, frame, "--format", "bthome", "--key", KEY[::-1], "--mac", ADDRESS, "--json")
    assert result.exit_code == 1
    assert [one["reason"] for one in json.loads(result.output)["rejections"]] == ["wrong_key"]
    assert json.loads(result.output)["rows"] == []


@pytest.mark.parametrize(
    ("payload", "arguments"),
    [
        (b"not hex", ("--key", KEY)),
        (b"1002", ("--key", "00")),
        (b"1002", ("--key", "canary-not-hex")),
        (b"1002", ("--key", KEY, "--key-file", "absent")),
        (b"1002", ("--key-file", "absent")),
    ],
)
def test_frames_and_keys_that_cannot_be_read(app: typer.Typer, payload: bytes, arguments: tuple[str, ...]) -> None:
    result = run(app, payload, "--format", "victron-ble", *arguments)
    assert result.exit_code == 2
    assert "canary" not in result.output
    assert run(app, b"40", "--format", "bthome").exit_code == 2
