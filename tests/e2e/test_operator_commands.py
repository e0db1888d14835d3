"""`telemetry config | doctor | scan | quarantine` against a real installation."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from telemetry.config import Config
from telemetry.embedded.broker import EmbeddedBroker
from tests.support.installation import Installation, installation

pytestmark = pytest.mark.asyncio(loop_scope="module")
SERIAL = "INV00000042"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed() -> AsyncIterator[Installation]:
    async with installation() as found:
        yield found


@pytest.fixture
def canaries(tmp_path):
    path = tmp_path / "canaries.txt"
    path.write_text(f"gw-nowhere-at-all\n{SERIAL}\n")
    return path


async def test_config_prints_the_file_or_what_a_file_comes_to(installed: Installation, tmp_path):
    told = await installed.telemetry("config")
    assert f'data_dir = "{installed.data_dir}"' in told.out
    assert "[broker]" in told.out
    config = tmp_path / "other.toml"
    config.write_text('embedded = false\n[database]\ndsn = "postgresql://user:made-up-password@host/telemetry"\n')
    other = Installation(installed.data_dir, config, installed.postgres, installed.keystore)
    for options in ([], ["--json"]):
        told = await other.telemetry("config", *options)
        assert "postgresql://user@host/telemetry" in told.out
        assert "made-up-password" not in told.out
    assert json.loads(told.out).keys() == Config.model_fields.keys()


async def test_config_refuses_an_unknown_key_in_one_line(installed: Installation, tmp_path):
    config = tmp_path / "other.toml"
    config.write_text("[broker]\nprot = 1\n")
    told = await Installation(installed.data_dir, config, installed.postgres, installed.keystore).telemetry("config")
    assert told.code == 2
    assert "did you mean broker.port?" in told.err
    assert len(told.err.splitlines()) == 1


async def test_doctor_finds_nothing_to_mend_and_then_what_is_broken(installed: Installation):
    async with EmbeddedBroker(installed.data_dir):
        told = await installed.telemetry("doctor", "--json")
        assert told.json["healthy"], told.out
        assert told.code == 0
        checks = {finding["check"] for finding in told.json["findings"] if finding["status"] == "ok"}
        assert {"keys", "broker", "database roles", "durability", "migrations", "partitions"} - checks <= {"partitions"}
        key = installed.keystore._directory / "kek"
        key.chmod(0o644)
        try:
            told = await installed.telemetry("doctor")
        finally:
            key.chmod(0o600)
    assert told.code == 1
    assert "1 to mend" in told.out
    assert "chmod 600" in told.out


async def test_doctor_without_a_broker_still_looks_at_the_rest(installed: Installation):
    told = await installed.telemetry("doctor", "--json")
    status = {finding["check"]: finding["status"] for finding in told.json["findings"]}
    assert (told.code, status["broker"], status["database"]) == (1, "fail", "ok")


async def test_rollup_and_retention_run_once_by_hand(installed: Installation):
    told = await installed.telemetry("rollup", "--once", "--json")
    assert told.code == 0, told.err
    assert told.json["as_of_us"] % 900_000_000 == 0
    told = await installed.telemetry("rollup", "--once")
    assert (told.code, told.out.strip()) == (0, "nothing is due, or another process is at it")
    told = await installed.telemetry("retention", "--once", "--json")
    assert (told.code, told.json["ran"], told.json["devices"]) == (0, True, 0)


async def test_scan_is_clean_and_passes_its_own_control(installed: Installation, canaries):
    told = await installed.telemetry("scan", "--canaries", str(canaries), "--json")
    assert told.code == 0, told.out
    assert told.json["clean"]
    assert told.json["control"]
    assert {place["place"] for place in told.json["searched"]} >= {"database", str(installed.data_dir)}


async def test_scan_names_the_place_and_the_number_and_never_the_string(installed: Installation, canaries):
    connection = await asyncpg.connect(installed.postgres.dsn("telemetry"))
    log = installed.data_dir / "some.log"
    try:
        await connection.execute("CREATE TABLE public.leak (note text)")
        await connection.execute(f"INSERT INTO public.leak VALUES ('{SERIAL.lower()}')")
        log.write_bytes(SERIAL.encode("utf-16"))
        plain = await installed.telemetry("scan", "--canaries", str(canaries))
        told = await installed.telemetry("scan", "--canaries", str(canaries), "--json")
    finally:
        await connection.execute("DROP TABLE public.leak; CHECKPOINT")
        await connection.close()
        log.unlink()
    assert (plain.code, told.code) == (1, 1)
    assert SERIAL.lower() not in (plain.out + plain.err + told.out).lower()
    found = {(entry["place"].split(": ", 1)[1], entry["canary"]) for entry in told.json["findings"]}
    assert {("telemetry: public.leak.note", 2), ("some.log", 2)} <= found
    assert told.json["identifiers_found"] == 1


async def test_scan_without_the_database_is_not_clean(installed: Installation, canaries, tmp_path):
    config = tmp_path / "elsewhere.toml"
    config.write_text(f'data_dir = "{tmp_path / "var"}"\n')
    other = Installation(tmp_path, config, installed.postgres, installed.keystore)
    told = await other.telemetry("scan", "--canaries", str(canaries), "--path", str(tmp_path))
    assert told.code == 2
    assert "NOT SEARCHED  database" in told.out
    assert "not everything could be searched" in told.out


async def test_scan_refuses_what_would_prove_nothing(installed: Installation, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("INV\n")
    for path in (short, tmp_path / "none.txt"):
        told = await installed.telemetry("scan", "--canaries", str(path))
        assert told.code == 2
        assert told.err.startswith("error: ")


async def test_progress_and_help_of_every_command(installed: Installation):
    for command in (
        ["config"],
        ["doctor"],
        ["scan"],
        *(["quarantine", x] for x in ("list", "show", "retry", "discard")),
    ):
        told = installed._run([*command, "--help"])
        assert told.code == 0
        assert "Example: telemetry" in told.out, command
        assert "--json" in told.out
