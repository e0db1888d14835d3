"""An installation's home with one inverter, whose windows of the last hours are there."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from telemetry.model.fields import DeviceKind
from telemetry.privacy.keys import BlindIndex, Sealer
from telemetry.store.connection import connector
from telemetry.store.keystore import BLIND_INDEX, role_password
from telemetry.store.registry import PostgresRegistryStore
from telemetry.store.series import write_series
from tests.support.installation import Installation
from tests.support.registry import Home, new_device
from tests.support.view_world import mean_amount, series_frame

SERIAL, OWNER_NAME, SITE_NAME = "MADEUP-7", "Example Owner", "Example Home"


@dataclass(frozen=True)
class ReportingHome:
    """Keys as shown. ``watts``: of the windows, oldest first."""

    owner: str
    site: str
    watts: tuple[float, ...]


async def reporting_home(installed: Installation, *, quarters: int = 8) -> ReportingHome:
    """Registered with commands, as an operator does it."""
    owner = await _done(installed, "owner", "add", "--name", OWNER_NAME)
    place = ("--latitude", "52.5", "--longitude", "13.4")
    site = await _done(installed, "site", "add", owner["owner"], "--name", SITE_NAME, *place)
    gateway = await _done(installed, "gateway", "enrol", site["site"])
    home = Home(owner["owner_key"], site["site_key"], gateway["gateway_key"], gateway["name"])
    device_key = await _inverter(installed, home)
    # Shown five minutes after they are over.
    last = datetime.now(UTC) - timedelta(minutes=21)
    last = last.replace(minute=last.minute // 15 * 15, second=0, microsecond=0)
    watts = tuple(100.0 + number for number in range(quarters))
    rows = [
        {"device_key": device_key, "start": last - (quarters - 1 - n) * timedelta(minutes=15), "amount": mean_amount(w)}
        for n, w in enumerate(watts)
    ]
    admin = await asyncpg.connect(installed.postgres.dsn("telemetry"))
    try:
        await write_series(admin, series_frame(rows))
    finally:
        await admin.close()
    return ReportingHome(owner["owner"], site["site"], watts)


async def _inverter(installed: Installation, home: Home) -> int:
    password = role_password(installed.keystore, "telemetry_ingest")
    store = PostgresRegistryStore(connector(installed.postgres.dsn("telemetry", "telemetry_ingest", password)))
    try:
        sealer = Sealer((await store.owner_public_keys([home.owner_key]))[home.owner_key])
        blind = BlindIndex(installed.keystore.secret(BLIND_INDEX))
        enrolled = await store.enrol([new_device(blind, sealer, home, SERIAL, DeviceKind.INVERTER)])
    finally:
        await store.close()
    return int(enrolled.devices[0].device_key)


async def _done(installed: Installation, *arguments: str) -> Any:
    ended = await installed.telemetry(*arguments, "--json")
    assert ended.code == 0, ended.err
    return ended.json
