"""Canaries in every position of the input: none is in a table, a file, a log line, a metric, a response or a dump."""

import asyncio
import json
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from device_sim.formats import single
from device_sim.message import Message, Reading
from telemetry.embedded.postgres_files import find_binaries
from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import BytesPlace, DatabasePlace, FilePlace
from telemetry.store.keystore import role_password
from telemetry.store.registration import NewGateway, NewOwner, NewSite
from tests.support.system import Credential, System, system

SERIAL = "CANARYINV0042"
MAC = "DE:AD:BE:EF:42:17"
NAME, EMAIL, HOME, STREET = "Canary Mustermann", "canary@example.net", "Canaryhome", "Canarystreet 5"
LATITUDE, LONGITUDE = "47.371234", "8.549876"
GATEWAY, STREAM, FREE = "gw-canary-roof", "stream-canary-7", "canary free text of a neighbour"
CANARIES = [SERIAL, MAC, NAME, EMAIL, HOME, STREET, LATITUDE, LONGITUDE, GATEWAY, STREAM, FREE]


def payloads(now_us: int) -> list[tuple[str, bytes]]:
    """(topic, payload): canaries as topic, key, value, of a wrong type, cut short, or not decodable at all."""
    at = "2026-11-25T12:00:00Z"
    good = {"serial": SERIAL, "kind": "inverter", "ts": now_us, "ac_power_w": 1.0}
    objects = [
        good | {"owner_name": NAME, "mac": MAC, "address": STREET, "note": FREE, "wifi_ssid": HOME},
        good | {"latitude": float(LATITUDE), "longitude": float(LONGITUDE)},
        good | {SERIAL: 1, MAC: 2.0, FREE: "x", f"{SERIAL}_power_w": 1.0, quote(MAC, safe=""): 1},
        good | {"serial": MAC},
        good | {"serial": SERIAL.lower()},
        good | {"serial": f"{SERIAL[:6]}-{SERIAL[6:]}"},
        good | {"kind": SERIAL},
        good | {"ts": f"{SERIAL} {at}"},
        good | {"ac_power_w": MAC},
        good | {"ac_power_w": {SERIAL: [MAC, NAME]}},
        good | {"serial": {"name": SERIAL}},
        good | {"serial": FREE * 9},
        {"serial": SERIAL},
        {MAC: SERIAL},
        [SERIAL, MAC, {EMAIL: STREET}],
        SERIAL,
    ]
    found = [("readings", json.dumps(one).encode()) for one in objects]
    whole = json.dumps(objects[0]).encode()
    found += [("readings", whole[:-cut]) for cut in (1, 9, 40)]
    found += [
        ("readings", b"\xff\xfe" + whole),
        ("readings", f"{SERIAL} {MAC}\0{NAME}".encode()),
        ("readings", whole * 2),
    ]
    for topic in ("senml", "arrow", SERIAL, f"readings/{SERIAL}", quote(MAC), f"{NAME}/state".replace(" ", "_")):
        found.append((topic, whole))
    return found


async def canary_home(found: System) -> Credential:
    """Not made known to the broker: rumqttd admits everybody, and mosquitto keeps names by nature."""
    async with found.administration() as admin, admin.registering() as registration:
        owner = registration.owner(NewOwner(NAME, EMAIL))
        site = registration.site(owner, NewSite(HOME, STREET, float(LATITUDE), float(LONGITUDE)))
        issued = registration.gateway(owner, site, NewGateway(GATEWAY, device_limit=3))
    return Credential(issued.name, issued.credential)


async def dumped(found: System, database: str, into: Path) -> Path:
    """A plain-text dump, as the administrator makes it."""
    binaries = await asyncio.to_thread(find_binaries, None)
    target = into / f"{database}.dump.sql"
    process = await asyncio.create_subprocess_exec(
        *(str(binaries / "pg_dump"), "--file", str(target), found.postgres.dsn(database))
    )
    assert await process.wait() == 0
    return target


@pytest.mark.long
async def test_canaries_in_every_input_position_end_nowhere(seed: int, tmp_path: Path) -> None:
    async with system(kind="rumqttd", seed=seed) as found:
        gateway = await canary_home(found)
        now_us = time.time_ns() // 1_000_000_000 * 1_000_000
        good = [
            Message(n, *single([reading]), expected=[reading])
            for n in range(1, 4)
            for reading in [Reading(SERIAL, "inverter", now_us - n * 1_000_000, {"ac_power_w": float(n)})]
        ]
        bad = [
            Message(n, topic, payload, None, expected=[], poison="canary")
            for n, (topic, payload) in enumerate(payloads(now_us), 4)
        ]
        stranger = Credential("gw-canary-stranger", "secret-of-a-stranger")
        feeds = [
            found.messages(gateway, [*good, *bad], stream=STREAM),
            found.messages(stranger, [Message(1, "readings", bad[0].payload, None, expected=[], poison="canary")]),
        ]
        await found.worker.until_subscribed()
        for feed in feeds:
            await feed.finish(stop=False)
        page = await found.worker.page()
        await found.settle()
        admin = await found.admin()
        assert await admin.fetchval("SELECT count(*) FROM readings.hot") >= 3
        assert await admin.fetchval("SELECT count(*) FROM readings.quarantine") > 10
        canaries = [*CANARIES, stranger.username]

        async def search(*, control: bool) -> int:
            await admin.execute("CHECKPOINT")
            dumps = [await dumped(found, database, tmp_path) for database in ("telemetry", "keys")]
            places = [
                FilePlace("data directory", found.directory / "data"),
                FilePlace("worker's log", found.worker.log),
                *(FilePlace(path.name, path) for path in dumps),
                DatabasePlace("databases", found.postgres.dsn("postgres")),
                BytesPlace("metrics", lambda: page),
            ]
            home = found.postgres.place.home.resolve()
            if not home.is_relative_to((found.directory / "data").resolve()):
                places.append(FilePlace("database files", home))
            report = await scan(places, canaries)
            assert control or report.clean, report.to_json()
            return report.identifiers_found

        assert await search(control=False) == 0
        # The control: one canary in one row is found in the tables, the files and the dump.
        await admin.execute(f"CREATE TABLE public.planted AS SELECT '{SERIAL.lower()}'::text AS note")
        assert await search(control=True) > 0
        planted = await asyncio.to_thread((tmp_path / "telemetry.dump.sql").read_text)
        assert SERIAL.lower() in planted
        await admin.close()
        assert role_password(found.keystore, "telemetry_keys") not in planted
