"""`telemetry preview`: the very rows a recipient would get, as an operator runs it."""

from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
import pytest_asyncio

from telemetry.model.fields import DeviceKind
from telemetry.privacy.keys import BlindIndex, Sealer
from telemetry.store.connection import connector
from telemetry.store.keystore import BLIND_INDEX, role_password
from telemetry.store.registry import PostgresRegistryStore
from telemetry.store.series import write_series
from tests.support.installation import installation
from tests.support.registry import Home, new_device
from tests.support.view_world import mean_amount, series_frame

pytestmark = pytest.mark.asyncio(loop_scope="module")
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=6)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def installed():
    async with installation() as here:
        yield here


async def done(installed, *arguments):
    ended = await installed.telemetry(*arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.json


async def shared_home(installed, *terms):
    """An owner with one inverter that has one window, and a grant; the owner's key."""
    owner = await done(installed, "owner", "add", "--name", "Example Owner")
    place = ("--latitude", "52.5", "--longitude", "13.4")
    site = await done(installed, "site", "add", owner["owner"], "--name", "Example Home", *place)
    gateway = await done(installed, "gateway", "enrol", site["site"])
    home = Home(owner["owner_key"], site["site_key"], gateway["gateway_key"], gateway["name"])
    dsn = installed.postgres.dsn("telemetry")
    password = role_password(installed.keystore, "telemetry_ingest")
    store = PostgresRegistryStore(connector(installed.postgres.dsn("telemetry", "telemetry_ingest", password)))
    try:
        public = await store.owner_public_keys([home.owner_key])
        sealer = Sealer(public[home.owner_key])
        device = new_device(
            BlindIndex(installed.keystore.secret(BLIND_INDEX)), sealer, home, "MADEUP-7", DeviceKind.INVERTER
        )
        enrolled = await store.enrol([device])
    finally:
        await store.close()
    admin = await asyncpg.connect(dsn)
    try:
        row = {"device_key": enrolled.devices[0].device_key, "start": START, "amount": mean_amount(123)}
        await write_series(admin, series_frame([row]))
    finally:
        await admin.close()
    grant = ("grant", "set", owner["owner"], "example-installer", "--purpose", "maintenance", "--field", "ac_power_w")
    data_from = (START - timedelta(days=1)).isoformat()
    await done(installed, *grant, "--data-from", data_from, "--confirm-solar", "5", *terms)
    return owner["owner"]


async def test_the_very_rows_and_a_record_for_the_owner(installed):
    await done(installed, "recipient", "add", "example-installer", "--kind", "installer")
    owner = await shared_home(installed, "--serial", "real", "--place", "exact")
    await shared_home(installed)  # another owner's: not part of this preview
    seen = await done(installed, "preview", owner, "example-installer", "--purpose", "maintenance")
    (row,) = seen["rows"]
    assert (row["field"], row["value"], row["resolution"], row["coverage"]) == ("ac_power_w", 123.0, "PT15M", "full")
    (device,) = seen["devices"]
    assert (device["serial"], device["latitude"], device["longitude"]) == ("MADEUP-7", 52.5, 13.4)
    assert device["device"].startswith("dev_")
    assert "temperature_c" in {row["field"] for row in seen["not_shared"]}
    admin = await asyncpg.connect(installed.postgres.dsn("telemetry"))
    try:
        assert await admin.fetchval("SELECT array_agg(way) FROM audit.read") == ["preview"]
        looks = await admin.fetchval("SELECT count(*) FROM audit.event WHERE action = 'device.reveal'")
    finally:
        await admin.close()
    assert looks == 1
    other_purpose = await done(installed, "preview", owner, "example-installer", "--purpose", "billing")
    assert other_purpose == {"rows": [], "devices": [], "shared": [], "not_shared": []}


async def test_for_people(installed):
    await done(installed, "recipient", "add", "example-partner", "--kind", "energy_partner")
    owner = await done(installed, "owner", "add", "--name", "Example Owner")
    ended = await installed.telemetry("preview", owner["owner"], "example-partner", "--purpose", "billing")
    assert ended.code == 0
    assert "rows: 0" in ended.out


@pytest.mark.parametrize(
    "wrong",
    [
        ["--field", "no_such_field"],
        ["--from", "2026-01-02T00:00:00Z", "--to", "2026-01-01T00:00:00Z"],
    ],
)
async def test_what_makes_no_sense_is_one_line(installed, wrong):
    owner = await done(installed, "owner", "add", "--name", "Example Owner")
    ended = await installed.telemetry("preview", owner["owner"], "nobody-there", "--purpose", "billing", *wrong)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
