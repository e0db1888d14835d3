"""`telemetry owner | site | gateway | device | import` against a real PostgreSQL and a real mosquitto."""

import asyncio
import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from telemetry.__main__ import build
from telemetry.embedded.broker import EmbeddedBroker, find_mosquitto
from telemetry.embedded.broker_probe import mqtt_accepts
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import DatabasePlace, Exclusion, FilePlace
from telemetry.privacy.keys import BlindIndex, Sealer
from telemetry.store.connection import connector
from telemetry.store.keystore import BLIND_INDEX, INGEST_SECRETS, FileKeystore, role_password
from telemetry.store.migrate import ROLES, migrate
from telemetry.store.registry import PostgresRegistryStore
from tests.support.postgres import FAST
from tests.support.registry import Home, new_device

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


@dataclass
class Installation:
    data_dir: Path
    config: Path
    postgres: EmbeddedPostgres

    async def telemetry(self, *arguments: str, as_json: bool = True) -> Ended:
        """Run a command in this process, in a thread of its own as it starts a loop of its own."""
        return await asyncio.to_thread(self._run, [*arguments, *(["--json"] if as_json else [])])

    def _run(self, arguments: list[str]) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                build()(args=[*arguments, "--config", str(self.config)], prog_name="telemetry")
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
        return Ended(code, out.getvalue(), err.getvalue())

    async def sql(self, statement: str, *arguments: object, database: str = "telemetry") -> list[Any]:
        connection = await asyncpg.connect(self.postgres.dsn(database))
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()

    async def enrol_device(self, home: dict[str, Any], serial: str) -> None:
        """Enrol a device as the ingest process does, holding no more secrets than that one."""
        keystore = FileKeystore(self.data_dir / "keys", allowed=INGEST_SECRETS)
        password = role_password(keystore, "telemetry_ingest")
        store = PostgresRegistryStore(connector(self.postgres.dsn("telemetry", "telemetry_ingest", password)))
        try:
            public = await store.owner_public_keys([home["owner_key"]])
            at = Home(home["owner_key"], home["site_key"], home["gateway_key"], home["name"])
            blind = BlindIndex(keystore.secret(BLIND_INDEX))
            await store.enrol([new_device(blind, Sealer(public[home["owner_key"]]), at, serial)])
        finally:
            await store.close()

    async def home(self, **gateway: str) -> dict[str, Any]:
        owner = (await self.telemetry("owner", "add", "--name", "Example Owner")).json
        site = (await self.telemetry("site", "add", owner["owner"], "--name", "Home")).json
        options = [part for name, value in gateway.items() for part in (f"--{name.replace('_', '-')}", value)]
        enrolled = (await self.telemetry("gateway", "enrol", site["site"], *options)).json
        return owner | site | enrolled


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed() -> AsyncIterator[Installation]:
    data_dir = Path(tempfile.mkdtemp(prefix="tcl-"))
    home = data_dir / "postgres"
    try:
        for directory in (data_dir, home):  # root's PostgreSQL runs as another user and must get there
            directory.mkdir(exist_ok=True)
            directory.chmod(0o711)
        config = data_dir / "telemetry.toml"
        config.write_text(f'data_dir = "{data_dir}"\n')
        keystore = FileKeystore(data_dir / "keys")
        keystore.create()
        async with EmbeddedPostgres(home, settings=FAST) as postgres:
            passwords = {role: role_password(keystore, role) for role in ROLES}
            await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), passwords)
            yield Installation(data_dir, config, postgres)
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


async def test_from_an_owner_to_a_gateway_that_the_list_names_only_when_asked_to(installed: Installation):
    home = await installed.home(device_limit="7", backfill_days="3650")
    assert home["name"].startswith("gw-")
    assert len(home["credential"]) >= 43

    (listed,) = (await installed.telemetry("gateway", "list", "--site", home["site"])).json
    assert (listed["gateway"], listed["name"]) == (home["gateway"], None)
    assert (listed["device_limit"], listed["backfill_days"], listed["enrolment"]) == (7, 3650, "auto")
    assert not await installed.sql("SELECT FROM audit.event WHERE action = 'gateway.reveal'")

    (revealed,) = (await installed.telemetry("gateway", "list", "--site", home["site"], "--reveal")).json
    assert revealed["name"] == home["name"]
    (event,) = await installed.sql("SELECT * FROM audit.event WHERE action = 'gateway.reveal'")
    assert (event["actor"], event["owner_key"], event["affected"]) == ("telemetry_operator", home["owner_key"], 1)


async def test_tables_for_people_show_what_is_sealed_as_sealed(installed: Installation):
    home = await installed.home()
    for group in ("owner", "site", "gateway"):
        shown = await installed.telemetry(group, "list", as_json=False)
        assert home[group] in shown.out
        assert "(sealed)" in shown.out
        assert home["name"] not in shown.out
        assert "Example Owner" not in shown.out
    assert "nothing yet" in (await installed.telemetry("device", "list", "--site", home["site"], as_json=False)).out


async def test_serials_are_listed_only_when_revealed_and_then_the_owner_can_see_it(installed: Installation):
    home, other = await installed.home(), await installed.home()
    for place in (home, other):
        await installed.enrol_device(place, "INV00000042")
    listing = ["device", "list", "--gateway", home["gateway"]]
    (listed,) = (await installed.telemetry(*listing)).json
    assert (listed["serial"], listed["kind"], listed["elsewhere"]) == (None, "inverter", True)
    assert "INV00000042" not in (await installed.telemetry(*listing, as_json=False)).out
    (revealed,) = (await installed.telemetry(*listing, "--reveal")).json
    assert revealed["serial"] == "INV00000042"
    (event,) = await installed.sql("SELECT * FROM audit.event WHERE action = 'device.reveal'")
    assert (event["owner_key"], event["affected"]) == (home["owner_key"], 1)


async def test_changes_reach_workers_as_a_new_version(installed: Installation):
    home = await installed.home()
    (before,) = await installed.sql("SELECT version FROM consent.state")
    await installed.telemetry("gateway", "set", home["name"], "--enrolment", "known", "--device-limit", "3")
    await installed.telemetry("gateway", "revoke", home["gateway"])
    (after,) = await installed.sql("SELECT version FROM consent.state")
    assert after["version"] == before["version"] + 2
    (listed,) = (await installed.telemetry("gateway", "list", "--site", home["site"])).json
    assert (listed["enrolment"], listed["device_limit"], listed["revoked"]) == ("known", 3, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["site", "add", "o_0000000000000001", "--name", "canary"], "the owner is unknown"),
        (["site", "add", "canary", "--name", "canary"], "not the key of one owner"),
        (["gateway", "enrol", "s_0000000000000001"], "the site is unknown"),
        (["gateway", "enrol", "s_0000000000000001", "--name", "CANARY"], "a gateway's name has"),
        (["gateway", "revoke", "gw-canary-unknown"], "no gateway has this name"),
        (["gateway", "renew", "g_0000000000000001"], "the gateway is unknown"),
        (["gateway", "set", "gw-canary-unknown"], "no gateway has this name"),
        (["owner", "add", "--name", "canary", "--email", "canary"], "has no @"),
        (["site", "add", "o_0000000000000001", "--name", "canary", "--latitude", "1.25"], "go together"),
        (["import", "/canary.csv"], "cannot read the file"),
    ],
)
async def test_what_cannot_be_done_ends_in_one_line_that_quotes_nothing(
    installed: Installation, arguments: list[str], said: str
):
    ended = await installed.telemetry(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert "canary" not in ended.err.lower()


async def test_a_name_is_never_given_twice_not_even_after_revocation(installed: Installation):
    home = await installed.home(name="gw-only-once")
    await installed.telemetry("gateway", "revoke", "gw-only-once")
    ended = await installed.telemetry("gateway", "enrol", home["site"], "--name", "gw-only-once")
    assert ended.code == 2
    assert "exists or existed" in ended.err


async def test_without_the_key_encryption_key_nothing_is_revealed_and_the_rest_goes_on(installed: Installation):
    home = await installed.home()
    kek = installed.data_dir / "keys" / "kek"
    kek.rename(kek.with_name("elsewhere"))
    try:
        assert "kek is missing" in (await installed.telemetry("owner", "list", "--reveal")).err
        assert (await installed.telemetry("gateway", "list", "--site", home["site"])).code == 0
    finally:
        kek.with_name("elsewhere").rename(kek)


async def test_import_writes_everything_and_gives_credentials_once(installed: Installation):
    file, credentials = installed.data_dir / "homes.csv", installed.data_dir / "credentials.csv"
    file.write_text(
        "owner,owner_name,site,site_name,gateway\n"
        "1,First,a,Home,gw-import-1\n1,First,a,Home,new\n1,First,b,Cabin,\n2,Second,a,Home,new\n"
    )
    done = (await installed.telemetry("import", str(file), "--credentials", str(credentials))).json
    assert done == {"owners": 2, "sites": 3, "gateways": 3}
    lines = credentials.read_text().splitlines()
    assert lines[0] == "gateway,credential"
    assert lines[1].startswith("gw-import-1,")
    assert len(lines) == 4
    assert credentials.stat().st_mode & 0o777 == 0o600
    assert "gw-import-1:$7$" in (installed.data_dir / "broker" / "passwords").read_text()

    names = [row["name"] for row in (await installed.telemetry("site", "list", "--reveal")).json]
    assert "Cabin" in names


async def test_import_is_all_or_nothing(installed: Installation):
    await installed.home(name="gw-taken")
    counts = (
        "SELECT (SELECT count(*) FROM consent.owner), (SELECT count(*) FROM vault.entry),"
        " (SELECT count(*) FROM audit.event), version FROM consent.state"
    )
    before = await installed.sql(counts)
    passwords = (installed.data_dir / "broker" / "passwords").read_text()
    file, credentials = installed.data_dir / "taken.csv", installed.data_dir / "none.csv"
    file.write_text(
        "owner,owner_name,site,site_name,gateway\n1,O,a,H,new\n2,O,a,H,gw-taken\n3,O,a,H,gw-free\n",
    )
    ended = await installed.telemetry("import", str(file), "--credentials", str(credentials))
    assert ended.code == 2
    assert "line 3: the gateway exists already" in ended.err
    assert "gw-taken" not in ended.err
    assert await installed.sql(counts) == before
    assert (installed.data_dir / "broker" / "passwords").read_text() == passwords
    assert not credentials.exists()
    existing = installed.data_dir / "existing.csv"
    existing.write_text("precious")
    assert "File exists" in (await installed.telemetry("import", str(file), "--credentials", str(existing))).err
    assert existing.read_text() == "precious"


@pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")
async def test_the_broker_admits_a_gateway_from_enrolment_to_revocation(installed: Installation):
    async with EmbeddedBroker(installed.data_dir, "mosquitto") as broker:

        async def accepts(name: str, credential: str) -> bool:
            return await asyncio.to_thread(mqtt_accepts, broker.host, broker.port, name, credential)

        async def until(expected: bool, name: str, credential: str) -> None:
            async with asyncio.timeout(10):  # mosquitto reads its files some time after the signal
                while await accepts(name, credential) is not expected:
                    await asyncio.sleep(0.05)

        home = await installed.home()
        assert home["broker_told"]
        await until(True, home["name"], home["credential"])
        assert not await accepts(home["name"], "another password")

        renewed = (await installed.telemetry("gateway", "renew", home["name"])).json
        await until(True, home["name"], renewed["credential"])
        assert not await accepts(home["name"], home["credential"])

        assert (await installed.telemetry("gateway", "revoke", home["gateway"])).json["broker_told"]
        await until(False, home["name"], renewed["credential"])


async def test_nothing_that_names_somebody_is_in_any_file_but_the_brokers(installed: Installation):
    canaries = ["CANARYOWNER", "canary@example.net", "CANARYHOME", "CANARYSTREET 5", "47.371234"]
    canaries += ["gw-canary-7", "INVCANARY0000042"]
    name, email, home, street, latitude, gateway, serial = canaries
    owner = (await installed.telemetry("owner", "add", "--name", name, "--email", email)).json
    place = ["--address", street, "--latitude", latitude, "--longitude", "8.5"]
    at = (await installed.telemetry("site", "add", owner["owner"], "--name", home, *place)).json
    site = at["site"]
    enrolled = (await installed.telemetry("gateway", "enrol", site, "--name", gateway)).json
    await installed.enrol_device(owner | at | enrolled, serial)
    await installed.telemetry("gateway", "list", "--reveal")
    await installed.telemetry("gateway", "enrol", site, "--name", gateway)  # refused: an error must not leak it
    await installed.sql("CHECKPOINT")

    passwords = installed.data_dir / "broker" / "passwords"
    reason = Exclusion(passwords, "mosquitto compares what clients say with it")
    places = [
        FilePlace("data directory", installed.data_dir, [reason]),
        DatabasePlace("databases", installed.postgres.dsn()),
    ]
    if not installed.postgres.place.cluster.is_relative_to(installed.data_dir):
        places.append(FilePlace("cluster", installed.postgres.place.cluster))
    report = await scan(places, canaries, self_test=True)
    assert report.clean, report.to_json()
    assert report.control is True
    # The control: with the file of names included, the name is found.
    found = await scan([FilePlace("broker", passwords)], canaries)
    assert found.identifiers_found > 0


async def test_migrate_makes_keys_and_schema_from_nothing_and_again_changes_nothing():
    data_dir = Path(tempfile.mkdtemp(prefix="tcl-"))
    try:
        for directory in (data_dir, data_dir / "postgres"):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o711)
        config = data_dir / "telemetry.toml"
        config.write_text(f'data_dir = "{data_dir}"\n')
        here = Installation(data_dir, config, EmbeddedPostgres(data_dir / "postgres"))
        first = (await here.telemetry("migrate")).json
        keys = {path.name: path.read_bytes() for path in (data_dir / "keys").iterdir()}
        second = (await here.telemetry("migrate")).json
        assert first["keys_made"]
        assert "keys/0001_keys" in first["applied"]
        assert (second["keys_made"], second["applied"], second["present"]) == (False, [], first["applied"])
        assert {path.name: path.read_bytes() for path in (data_dir / "keys").iterdir()} == keys
        # Nothing runs any more, and that is what a command says that needs the database.
        assert "does not run" in (await here.telemetry("owner", "list")).err
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


async def test_a_postgresql_of_ones_own_is_migrated_by_its_administrator(installed: Installation, tmp_path: Path):
    config = tmp_path / "telemetry.toml"
    dsn = installed.postgres.dsn("telemetry", "", None)
    config.write_text(f'data_dir = "{installed.data_dir}"\nembedded = false\n[database]\ndsn = "{dsn}"\n')
    outside = Installation(installed.data_dir, config, installed.postgres)
    assert "--admin-dsn" in (await outside.telemetry("migrate")).err
    done = (await outside.telemetry("migrate", "--admin-dsn", installed.postgres.dsn())).json
    assert (done["keys_made"], done["applied"]) == (False, [])
    assert isinstance((await outside.telemetry("owner", "list", "--reveal")).json, list)


async def test_the_installed_program_runs_and_answers_in_json(installed: Installation):
    program = [sys.executable, "-m", "telemetry", "owner", "list", "--json"]
    environment = os.environ | {"TELEMETRY_CONFIG": str(installed.config)}
    done = await asyncio.to_thread(subprocess.run, program, env=environment, capture_output=True, check=True)
    assert isinstance(json.loads(done.stdout), list)
    assert done.stderr == b""
