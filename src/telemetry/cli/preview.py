"""`telemetry preview`: the very rows that a recipient would get of an owner, by the same code."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telemetry.cli.common import (
    ConfigOption,
    JsonOption,
    config_of,
    database_dsn,
    open_registry,
    parse_key,
    print_result,
    print_rows,
    run_command,
)
from telemetry.cli.sharing import OwnerArgument, RecipientArgument, instant, open_sharing, recipient_key
from telemetry.model.sharing import Resolution, SharingPurpose

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.views.query import Query
    from telemetry.views.view import View, Views


def preview(
    owner: OwnerArgument,
    recipient: RecipientArgument,
    purpose: Annotated[SharingPurpose, typer.Option(help="What for. Purposes never add up.")],
    field: Annotated[list[str] | None, typer.Option(help="Only these fields; may be repeated.")] = None,
    resolution: Annotated[
        Resolution, typer.Option(help="As asked; what is granted may be coarser.")
    ] = Resolution.PT15M,
    since: Annotated[str | None, typer.Option("--from", help="From this instant on; a day ago without.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Up to this instant; now without.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show the very rows that a recipient would get of an owner. The owner sees it recorded as a preview.

    Example: telemetry preview o_00c0ffee00c0ffee example-installer --purpose maintenance --field ac_power_w
    """

    async def main() -> None:
        from telemetry.views.query import Query

        settings, key = config_of(config), parse_key("owner", owner)
        now = datetime.now(UTC)
        query = Query(
            purpose,
            instant(since) or now - timedelta(days=1),
            instant(until) or now,
            resolution,
            frozenset(field) if field else None,
        )
        async with open_sharing(settings) as sharing:
            to = await recipient_key(sharing, recipient)
        assert to is not None  # noqa: S101 - a recipient was named
        _print(await _look(settings, key, to, query), as_json=json)

    run_command(main())


async def _look(config: "Config", owner_key: int, to: int, query: "Query") -> "View":
    from telemetry.views.query import Way
    from telemetry.views.sight import Viewer

    async with open_views(config) as views:
        viewer = Viewer(to, query.purpose, scope=(owner_key,))
        view, _ = await views.read(viewer, query, way=Way.PREVIEW)
    return view


@asynccontextmanager
async def open_views(config: "Config") -> AsyncIterator["Views"]:
    """Views as their own role, which opens what is granted real through the registry."""
    from telemetry.store.connection import connector
    from telemetry.store.keks import open_keks
    from telemetry.store.keyring import KeyRing
    from telemetry.store.keystore import open_keystore, role_password
    from telemetry.views.naming import Names
    from telemetry.views.opener import RegistryOpener
    from telemetry.views.pool import Pool
    from telemetry.views.view import Views

    role, keystore = "telemetry_views", open_keystore(config.data_dir)
    password = role_password(keystore, role)
    async with AsyncExitStack() as stack:
        administration = await stack.enter_async_context(open_registry(config, owners_keys=True))
        keys = await connector(database_dsn(config, "keys"), user=role, password=password)()
        stack.push_async_callback(keys.close)
        pool = Pool(connector(database_dsn(config), user=role, password=password), size=1)
        stack.push_async_callback(pool.close)
        names = Names(KeyRing(keys, open_keks(config)), RegistryOpener(administration))
        yield Views(pool, names, hot_hours=config.retention.hot_hours)


def _print(view: "View", *, as_json: bool) -> None:
    frames = ("rows", "devices", "shared", "not_shared")
    if as_json:
        result: dict[str, Any] = {name: getattr(view, name).to_dicts() for name in frames}
        print_result(result, "", as_json=True)
        return
    for name in frames[:3]:
        frame = getattr(view, name)
        print_result({}, f"{name}: {frame.height}", as_json=False)
        if frame.height:
            rows = [{key: "-" if value is None else value for key, value in row.items()} for row in frame.to_dicts()]
            print_rows(rows, {column: column for column in frame.columns}, as_json=False)
    withheld = sorted(set(view.not_shared["field"]))
    print_result({}, f"not shared: {', '.join(withheld) or 'nothing that these devices can report'}", as_json=False)
