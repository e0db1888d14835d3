"""Whoever tells of alerts, as a process that a test may kill: DSN, password of the roles, key of the seals."""

import asyncio
import random
import sys
from datetime import timedelta

from telemetry.alerts.tell import Teller
from telemetry.config import load_config
from telemetry.deliver import outbox
from telemetry.deliver.outbox import Outbox
from telemetry.deliver.sealing import WebhookSealer
from telemetry.observe import Observer
from telemetry.store.connection import connector
from telemetry.views.naming import Names
from telemetry.views.pool import Pool
from telemetry.views.view import Views
from tests.support.view_world import MadeUpKeys, MadeUpVault


async def main(dsn: str, password: str, key: str) -> None:
    outbox._FIRST_S = random.uniform(0.2, 0.4)
    outbox._LONGEST_S = 0.5

    def role(name: str) -> Pool:
        return Pool(connector(dsn, user=f"telemetry_{name}", password=password))

    views = Views(role("views"), Names(MadeUpKeys(), MadeUpVault()))
    config = load_config(None, webhooks={"enabled": True, "loopback": True, "timeout_s": 2, "at_once": 3})
    teller = Teller(config, views, Outbox(role("access")), WebhookSealer(bytes.fromhex(key)), Observer())
    teller._lease = timedelta(seconds=3)
    await teller.run(look_s=0.2, send_s=0.05)


asyncio.run(main(*sys.argv[1:]))
