"""`telemetry alerts`: looking for what is wrong with devices, and telling of it, by hand or as a process."""

import dataclasses
import json as json_module
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, database_dsn, print_result, run_command
from telemetry.cli.maintenance import OnceOption

if TYPE_CHECKING:
    from telemetry.alerts.find import Found
    from telemetry.config import Config

alerts = typer.Typer(help="What is wrong with devices: look for it, and tell who may know.", no_args_is_help=True)


@alerts.command()
def find(once: OnceOption = False, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Look for alarms of devices, devices that fell silent, and devices that make far too little.

    The service does this itself unless `jobs` or `alerts.enabled` is false. Safe beside it: one works at a time.

    Example: telemetry alerts find --once
    """

    async def main() -> None:
        from telemetry.alerts.job import ROLE, AlertJob, alert_connector, make_finder
        from telemetry.observe import Observer
        from telemetry.store.keystore import open_keystore, password_name

        settings = config_of(config)
        keystore = open_keystore(settings.data_dir, allowed=frozenset({password_name(ROLE)}))
        connect = alert_connector(settings, database_dsn(settings), keystore)

        def tell(found: "Found") -> None:
            text = f"{found.devices} devices: {found.begun} alerts began, {found.ended} ended"
            text = text if found.ran else "another process is at it"
            if json:
                typer.echo(json_module.dumps(dataclasses.asdict(found)))
            else:
                print_result({}, text, as_json=False)

        if once:
            tell(await make_finder(settings, connect, _now_us).run())
        else:
            await AlertJob(settings, connect, Observer(), _now_us).run(tell)

    run_command(main())


@alerts.command()
def deliver(once: OnceOption = False, config: ConfigOption = None) -> None:
    """Tell recipients' webhooks of alerts: needs `webhooks.enabled`, and the keys that names are made with.

    The API does this itself. Any number of processes may run beside each other.

    Example: telemetry alerts deliver
    """
    run_command(_deliver(config_of(config), once=once))


async def _deliver(config: "Config", *, once: bool) -> None:
    from telemetry.alerts.tell import Teller
    from telemetry.cli.preview import open_views
    from telemetry.deliver.outbox import Outbox
    from telemetry.deliver.sealing import WebhookSealer
    from telemetry.errors import NotConfigured
    from telemetry.observe import Observer
    from telemetry.store.connection import connector
    from telemetry.store.keystore import ACCESS, open_keystore, role_password
    from telemetry.views.pool import Pool

    if not config.webhooks.enabled:
        raise NotConfigured("webhooks are off", remedy="set webhooks.enabled")
    role, keystore = "telemetry_access", open_keystore(config.data_dir)
    async with AsyncExitStack() as stack:
        views = await stack.enter_async_context(open_views(config))
        pool = Pool(connector(database_dsn(config), user=role, password=role_password(keystore, role)))
        stack.push_async_callback(pool.close)
        sealer = WebhookSealer(keystore.secret(ACCESS))
        teller = Teller(config, views, Outbox(pool), sealer, Observer())
        if not once:
            await teller.run()
            return
        made = await teller.look()
        while await teller.send():
            pass
        print_result({}, f"{made} messages queued; what was due is sent or tried again later", as_json=False)


def _now_us() -> int:
    return time.time_ns() // 1000
