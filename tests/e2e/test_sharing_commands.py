"""`telemetry recipient | grant | explain | receipt | settings | member | …` as people and programs run them."""

import asyncio
import json
import os
import subprocess
import sys
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
import yaml

from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import DatabasePlace, FilePlace
from telemetry.privacy.keys import BlindIndex, Sealer
from telemetry.store.connection import connector
from telemetry.store.keystore import BLIND_INDEX, role_password
from telemetry.store.registry import PostgresRegistryStore
from tests.support.installation import Installation, installation
from tests.support.registry import Home, new_device

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed():
    async with installation() as here:
        yield here


async def done(installed: Installation, *arguments: str) -> Any:
    """The JSON of a command that must succeed."""
    ended = await installed.telemetry(*arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.json


async def sql(installed: Installation, statement: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(installed.postgres.dsn("telemetry"))
    try:
        return await connection.fetch(statement, *arguments)
    finally:
        await connection.close()


async def refusal(installed: Installation, *arguments: str) -> str:
    """The one line of a command that must not."""
    ended = await installed.telemetry(*arguments)
    assert (ended.code, ended.out) == (2, ""), ended.out
    assert ended.err.count("\n") == 1
    return ended.err


async def program(installed: Installation, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """The same as a process of its own."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "telemetry", *arguments],
        env=os.environ | {"TELEMETRY_CONFIG": str(installed.config)},
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


async def parties(installed: Installation) -> tuple[dict[str, Any], str]:
    owner = await done(installed, "owner", "add", "--name", "Example Owner")
    site = await done(installed, "site", "add", owner["owner"], "--name", "Home")
    handle = f"example-{owner['owner'][2:]}"
    await done(installed, "recipient", "add", handle, "--kind", "installer")
    return owner | site, handle


async def device(installed: Installation, home: dict[str, Any], serial: str) -> int:
    """A device that enrolled by itself, as the ingest process does it."""
    gateway = await done(installed, "gateway", "enrol", home["site"]) if "gateway" not in home else home
    home.update(gateway)
    password = role_password(installed.keystore, "telemetry_ingest")
    store = PostgresRegistryStore(connector(installed.postgres.dsn("telemetry", "telemetry_ingest", password)))
    try:
        public = await store.owner_public_keys([home["owner_key"]])
        at = Home(home["owner_key"], home["site_key"], home["gateway_key"], home["name"])
        blind = BlindIndex(installed.keystore.secret(BLIND_INDEX))
        enrolled = await store.enrol([new_device(blind, Sealer(public[home["owner_key"]]), at, serial)])
    finally:
        await store.close()
    return enrolled.devices[0].device_key


def shown(kind: str, key: int) -> str:
    return f"{kind}_{key % 2**64:016x}"


GRID = ["grant", "set", "OWNER", "HANDLE", "--purpose", "billing", "--class", "grid"]


class TestGrants:
    async def test_from_a_grant_to_its_withdrawal(self, installed):
        home, handle = await parties(installed)
        owner = home["owner"]
        options = ["--purpose", "maintenance", "--class", "production", "--class", "alert", "--field", "temperature_c"]
        options += ["--site", home["site"], "--kind", "inverter", "--resolution", "PT15M", "--serial", "pseudonym"]
        options += ["--place", "cell5", "--history", "P30D", "--data-from", "2026-01-01T00:00:00Z", "--extremes"]
        options += ["--until", "2099-01-01T00:00:00+01:00"]
        told = await refusal(installed, "grant", "set", owner, handle, *options)
        assert "within about 5 km" in told
        assert "--confirm-solar 5" in told
        granted = await done(installed, "grant", "set", owner, handle, *options, "--confirm-solar", "5")
        assert granted["classes"] == ["alert", "production"]
        assert (granted["sites"], granted["kinds"]) == ([home["site"]], ["inverter"])
        assert (granted["place"], granted["serial"], granted["history"]) == ("cell5", "pseudonym", "P30D")
        assert granted["data_from"] == "2026-01-01T00:00:00Z"
        assert granted["until"] == "2098-12-31T23:00:00Z"
        (listed,) = await done(installed, "grant", "list", owner)
        assert listed == granted

        (known,) = [row for row in await done(installed, "recipient", "list") if row["handle"] == handle]
        assert (known["owners"], known["closed"]) == (1, False)
        narrower = ["--purpose", "maintenance", "--class", "alert", "--grant", granted["grant"]]
        narrowed = await done(installed, "grant", "set", owner, known["recipient"], *narrower)
        assert (narrowed["version"], narrowed["start"]) == (2, granted["start"])
        assert narrowed["data_from"] == narrowed["recorded_at"].replace("+00:00", "Z")  # all sites is more than one

        ended = await done(installed, "grant", "withdraw", owner, "--recipient", handle)
        assert ended == {"withdrawn": [granted["grant"]]}
        assert await done(installed, "grant", "list", owner, "--recipient", handle) == []
        history = await done(installed, "grant", "history", owner)
        assert [(row["version"], row["state"]) for row in history] == [(1, "active"), (2, "active"), (3, "withdrawn")]
        counted = await done(installed, "grant", "history", owner, "--at", narrowed["recorded_at"])
        assert [row["version"] for row in counted] == [2]

    async def test_what_workers_keep_follows_at_once(self, installed):
        home, handle = await parties(installed)
        await done(installed, "keeping", "set", home["owner"], "--finest", "PT1M")
        await done(
            installed, "grant", "set", home["owner"], handle,
            *("--purpose", "monitoring", "--class", "battery", "--resolution", "PT1M"),
        )  # fmt: skip
        rows = await sql(installed, "SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", home["owner_key"])
        assert rows[0]["count"] == 0
        (site,) = await sql(installed, "SELECT plan_classes FROM consent.site WHERE site_key = $1", home["site_key"])
        assert any(site["plan_classes"])

    async def test_it_is_explained_in_sentences(self, installed):
        home, handle = await parties(installed)
        before = (await installed.telemetry("explain", home["owner"], handle)).out
        assert f"{handle} sees nothing of this owner" in before
        await done(
            installed, "grant", "set", home["owner"], handle,
            *("--purpose", "billing", "--class", "grid", "--kind", "meter", "--resolution", "P1D"),
        )  # fmt: skip
        after = await installed.telemetry("explain", home["owner"], handle)
        assert after.code == 0
        assert "For billing, of all sites:\nMeters: grid by days.\n" in after.out
        sentences = (await done(installed, "explain", home["owner"], handle))["sentences"]
        assert "\n".join(sentences[1:]) in after.out

    async def test_people_get_lines(self, installed):
        home, handle = await parties(installed)
        assert (await installed.telemetry("grant", "list", home["owner"])).out == "nothing\n"
        made = await installed.telemetry(
            "grant", "set", home["owner"], handle, "--purpose", "billing", "--class", "grid"
        )
        assert made.out.startswith("Grant c_")
        assert made.out.strip() in (await installed.telemetry("grant", "list", home["owner"])).out
        closed = await installed.telemetry("recipient", "close", handle)
        assert "closed; 1 owners" in closed.out

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["grant", "set", "o_0000000000000001", "HANDLE", "--purpose", "billing", "--class", "grid"], "owner is"),
            (["grant", "set", "OWNER", "canary", "--purpose", "billing", "--class", "grid"], "recipient is unknown"),
            (["grant", "set", "OWNER", "HANDLE", "--purpose", "billing"], "at least one class or field"),
            (["grant", "set", "OWNER", "HANDLE", "--purpose", "billing", "--field", "CANARY"], "pattern"),
            (
                ["grant", "set", "OWNER", "HANDLE", "--purpose", "billing", "--class", "grid", "--kind", "canary"],
                "kinds",
            ),
            ([*GRID, "--history", "30"], "P30D"),
            ([*GRID, "--until", "canary"], "Z"),
            ([*GRID, "--site", "canary"], "s_"),
            (["grant", "withdraw", "OWNER"], "say which"),
            (["grant", "withdraw", "OWNER", "--grant", "c_0000000000000001"], "no such grant"),
            (["grant", "history", "OWNER", "--at", "2026-01-01"], "an instant is written like"),
            (["recipient", "add", "CANARY", "--kind", "installer"], "a handle has"),
            (["recipient", "add", "HANDLE", "--kind", "installer"], "exists or existed"),
            (["recipient", "close", "canary"], "recipient is unknown"),
            (["explain", "OWNER", "canary"], "recipient is unknown"),
            (["receipt", "show", "c_0000000000000001"], "no receipt"),
            (["receipt", "verify", "/canary"], "cannot read the file"),
            (["settings", "apply", "/canary"], "cannot read the file"),
            (["keeping", "set", "OWNER", "--retention", "canary=9"], "grid=30"),
            (["keeping", "set", "OWNER", "--wished", "raw"], "finer than the finest"),
            (["member", "add", "OWNER", "--name", " "], "a member's name"),
            (["member", "remove", "OWNER", "m_0000000000000001"], "member is unknown"),
            (["restriction", "lift", "OWNER"], "no restriction"),
            (["objection", "withdraw", "OWNER", "--purpose", "billing"], "no such objection"),
            (["site", "sell", "SITE", "--to", "o_0000000000000001"], "owner is unknown"),
            (["site", "sell", "SITE", "--to", "OWNER"], "this owner's already"),
            (["device", "replace", "d_0000000000000001", "--serial-file", "/canary"], "cannot read the file"),
        ],
    )
    async def test_what_cannot_be_done_ends_in_one_line_that_quotes_nothing(self, installed, arguments, said):
        home, handle = await parties(installed)
        names = {"OWNER": home["owner"], "HANDLE": handle, "SITE": home["site"]}
        told = await refusal(installed, *(names.get(argument, argument) for argument in arguments))
        assert told.startswith("error: ")
        assert said in told
        assert "canary" not in told.lower()


class TestReceipts:
    async def test_a_receipt_is_shown_and_verified_anywhere(self, installed):
        home, handle = await parties(installed)
        made = await done(installed, "grant", "set", home["owner"], handle, "--purpose", "billing", "--class", "grid")
        signed = (await installed.telemetry("receipt", "show", made["grant"])).out.strip()
        whole = await done(installed, "receipt", "show", made["grant"], "--version", "1")
        assert whole["receipt"] == signed
        assert whole["record"]["record_id"] == f"{made['grant']}/1"
        file, key = installed.data_dir / "receipt.jws", installed.data_dir / "receipts.jwk"
        file.write_text(signed)
        key.write_text((await installed.telemetry("receipt", "key")).out)
        assert "d" not in json.loads(key.read_text())
        assert await done(installed, "receipt", "verify", str(file)) == {"valid": True, "record": whole["record"]}
        assert (await done(installed, "receipt", "verify", str(file), "--key", str(key)))["valid"]
        piped = await program(installed, "receipt", "verify", "-", "--key", str(key), typed=signed)
        assert (piped.returncode, piped.stdout.splitlines()[0]) == (0, "valid")
        header, payload, signature = signed.split(".")
        file.write_text(f"{header}.{payload[:-4]}AAAA.{signature}")
        assert "does not verify" in await refusal(installed, "receipt", "verify", str(file))
        key.write_text("canary")
        assert "not a JWK" in await refusal(installed, "receipt", "verify", str(file), "--key", str(key))


class TestSettings:
    async def test_a_file_is_shown_asked_about_and_applied(self, installed):
        home, handle = await parties(installed)
        file = installed.data_dir / "settings.yaml"
        file.write_text(
            f"owners:\n  {home['owner']}:\n    keeping: {{wished: PT1H}}\n    grants:\n"
            f"      - {{recipient: {handle}, purpose: billing, classes: [grid], resolution: P1D, history: P30D}}\n"
        )
        terms = "classes grid, resolution P1D, serial withheld, place withheld, history P30D"
        dry = await installed.telemetry("settings", "apply", str(file), "--dry-run")
        assert dry.out.splitlines() == [
            f"~ {home['owner']} keeping: wished PT15M → PT1H",
            f"+ {home['owner']} → {handle} for billing: {terms}",
            "2 changes not applied",
        ]
        assert await done(installed, "grant", "list", home["owner"]) == []
        alone = await program(installed, "settings", "apply", str(file))
        assert alone.returncode == 2
        assert "nobody can be asked" in alone.stderr
        assert await done(installed, "grant", "list", home["owner"]) == []
        applied = await done(installed, "settings", "apply", str(file), "--yes")
        assert (applied["applied"], [change["what"] for change in applied["changes"]]) == (True, ["keeping", "make"])
        assert len(await done(installed, "grant", "list", home["owner"])) == 1
        assert await done(installed, "settings", "apply", str(file), "--yes") == {"applied": False, "changes": []}

        exported = (await installed.telemetry("settings", "export", home["owner"])).out
        assert yaml.safe_load(exported)["owners"][home["owner"]]["keeping"]["wished"] == "PT1H"
        file.write_text(exported)
        assert (await installed.telemetry("settings", "apply", str(file))).out == "nothing changes\n"

    async def test_one_bad_line_and_nothing_changes(self, installed):
        home, handle = await parties(installed)
        file = installed.data_dir / "bad.yaml"
        line = f"      - {{recipient: {handle}, purpose: billing, classes: [grid], resolution: P1D%s}}\n"
        file.write_text(f"owners:\n  {home['owner']}:\n    grants:\n" + line % "" + line % ", canary: 1")
        told = await refusal(installed, "settings", "apply", str(file), "--yes")
        assert "line 5: this key is not known here" in told
        assert "canary" not in told
        file.write_text(
            f"owners:\n  {home['owner']}:\n    grants:\n" + line % "" + line % ", sites: [s_00000000000000ff]"
        )
        assert "a site is not this owner's" in (await installed.telemetry("settings", "apply", str(file), "--yes")).err
        assert await done(installed, "grant", "list", home["owner"]) == []


class TestHousehold:
    async def test_keeping(self, installed):
        owner = (await parties(installed))[0]["owner"]
        assert await done(installed, "keeping", "show", owner) == {"wished": "PT15M", "finest": "PT15M"}
        changed = ["--wished", "PT1H", "--class", "grid", "--never", "load_power_w", "--retention", "grid=30"]
        await done(installed, "keeping", "set", owner, *changed)
        await done(installed, "keeping", "set", owner, "--finest", "PT30M")
        assert await done(installed, "keeping", "show", owner) == {
            "wished": "PT1H",
            "finest": "PT30M",
            "classes": ["grid"],
            "never": ["load_power_w"],
            "retention_days": {"grid": 30},
        }
        await done(installed, "keeping", "set", owner, "--default", "--nothing")
        assert (await done(installed, "keeping", "show", owner))["classes"] == []

    async def test_members(self, installed):
        owner = (await parties(installed))[0]["owner"]
        asked = await program(installed, "member", "add", owner, "--right", "see", typed="CANARY MEMBER\n")
        assert asked.returncode == 0
        (listed,) = await done(installed, "member", "list", owner)
        assert (listed["name"], listed["rights"], listed["removed"]) == (None, ["see"], False)
        assert listed["member"] in asked.stdout
        (revealed,) = await done(installed, "member", "list", owner, "--reveal")
        assert revealed["name"] == "CANARY MEMBER"
        await done(installed, "member", "set", owner, listed["member"], "--right", "share", "--right", "rights")
        (listed,) = await done(installed, "member", "list", owner)
        assert listed["rights"] == ["rights", "share"]
        await done(installed, "member", "remove", owner, listed["member"])
        (listed,) = await done(installed, "member", "list", owner, "--reveal")
        assert (listed["name"], listed["removed"]) == (None, True)

    async def test_restriction_and_objection_are_in_the_explanation(self, installed):
        home, handle = await parties(installed)
        owner = home["owner"]
        await done(installed, "grant", "set", owner, handle, "--purpose", "billing", "--class", "grid")

        async def explained() -> str:
            return (await installed.telemetry("explain", owner, handle)).out

        await done(installed, "restriction", "begin", owner)
        assert "Processing is restricted" in await explained()
        await done(installed, "restriction", "lift", owner)
        assert "What was measured during an earlier restriction stays unseen." in await explained()
        (listed,) = await done(installed, "restriction", "list", owner)
        assert listed["lifted_at"] > listed["from_at"]
        await done(installed, "objection", "make", owner, "--purpose", "billing", "--recipient", handle)
        assert "The owner objected to billing" in await explained()
        (listed,) = await done(installed, "objection", "list", owner)
        assert (listed["purpose"], listed["stands"]) == ("billing", True)
        await done(installed, "objection", "withdraw", owner, "--purpose", "billing", "--recipient", handle)
        assert "objected" not in await explained()
        assert "it is lifted" not in (await installed.telemetry("restriction", "list", owner)).out
        assert "billing" in (await installed.telemetry("objection", "list", owner)).out


class TestHandingOver:
    async def test_a_replaced_devices_serial_is_asked_for_and_nowhere_in_clear(self, installed):
        home, _ = await parties(installed)
        key = shown("d", await device(installed, home, "INVCANARYOLD0001"))
        asked = await program(installed, "device", "replace", key, typed="INVCANARYNEW0002\n")
        assert (asked.returncode, asked.stdout) == (0, f"{key} goes on\n")
        file = installed.data_dir / "serial"
        file.write_text("INVCANARYNEW0003\n")
        assert await done(installed, "device", "replace", key, "--serial-file", str(file)) == {
            "device": key,
            "retired": None,
        }
        file.unlink()
        stub = await device(installed, home, "INVCANARYNEW0004")
        piped = await program(
            installed, "device", "replace", key, "--serial-file", "-", "--json", typed="INVCANARYNEW0004"
        )
        assert json.loads(piped.stdout) == {"device": key, "retired": shown("d", stub)}
        listed = await done(installed, "device", "list", "--site", home["site"], "--reveal")
        assert {row["device"]: row["serial"] for row in listed}[key] == "INVCANARYNEW0004"
        assert (
            "has this serial already"
            in (
                await program(installed, "device", "replace", key, "--serial-file", "-", typed="INVCANARYNEW0004")
            ).stderr
        )

    async def test_a_home_is_sold(self, installed):
        home, handle = await parties(installed)
        key = shown("d", await device(installed, home, "INVCANARYSOLD0001"))
        await done(installed, "grant", "set", home["owner"], handle, "--purpose", "billing", "--class", "grid")
        buyer = await done(installed, "owner", "add", "--name", "Example Buyer")
        sold = await done(installed, "site", "sell", home["site"], "--to", buyer["owner"], "--name", "CANARY CABIN")
        assert (sold["gateways"], list(sold["devices"])) == (1, [key])
        (listed,) = await done(installed, "device", "list", "--site", sold["site"], "--reveal")
        assert (listed["device"], listed["owner"]) == (sold["devices"][key], buyer["owner"])
        assert (listed["serial"], listed["elsewhere"]) == ("INVCANARYSOLD0001", False)
        (gateway,) = await done(installed, "gateway", "list", "--site", sold["site"], "--reveal")
        assert (gateway["name"], gateway["owner"]) == (home["name"], buyer["owner"])
        assert await done(installed, "grant", "list", buyer["owner"]) == []
        assert "handed over already" in await refusal(installed, "site", "sell", home["site"], "--to", buyer["owner"])

    async def test_nothing_that_names_somebody_is_in_clear_anywhere(self, installed):
        """After all of the above: serials, a member, a home's name."""
        await sql(installed, "CHECKPOINT")
        canaries = ["INVCANARYOLD0001", "INVCANARYNEW0002", "INVCANARYNEW0003", "INVCANARYNEW0004"]
        canaries += ["INVCANARYSOLD0001", "CANARY MEMBER", "CANARY CABIN"]
        places = [
            FilePlace("data directory", installed.data_dir),
            DatabasePlace("databases", installed.postgres.dsn()),
        ]
        if not installed.postgres.place.cluster.is_relative_to(installed.data_dir):
            places.append(FilePlace("cluster", installed.postgres.place.cluster))
        report = await scan(places, canaries, self_test=True)
        assert report.clean, report.to_json()
        assert report.control is True
