"""`telemetry ble`: Bluetooth devices, their keys, the owner's permission, and publishing as a gateway."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from telemetry.cli.common import (
    ConfigOption,
    JsonOption,
    config_of,
    database_dsn,
    format_key,
    parse_key,
    print_result,
    print_rows,
    reported,
    run_command,
)
from telemetry.errors import InputError
from telemetry.model.bluetooth import BleDevice, BleFormat, parsed_address
from telemetry.model.fields import KIND_BY_LABEL

ble = typer.Typer(help="Listen to Bluetooth devices that an owner permits.")
key = typer.Typer(help="Devices that may be listened to, and their keys.", no_args_is_help=True)
ble.add_typer(key, name="key")

SiteArgument = Annotated[
    str | None, typer.Argument(help="The site's key (s_…); without, this machine, as a gateway.", show_default=False)
]


@ble.callback(invoke_without_command=True)
def listen(
    context: typer.Context,
    publish: Annotated[bool, typer.Option("--publish", help="Listen, and publish as broker.username.")] = False,
    config: ConfigOption = None,
) -> None:
    """Listen to Bluetooth as a gateway, until SIGINT or SIGTERM; what the broker has not taken stays in the spool.

    Example: telemetry ble --publish --config gateway.toml
    """
    if context.invoked_subcommand is not None:
        return
    if not publish:
        typer.echo(context.get_help())
        raise typer.Exit
    with reported():
        settings = config_of(config)
        asyncio.run(_publish(settings))


async def _publish(settings: Any) -> None:
    import signal

    from telemetry.app import SystemClock
    from telemetry.bluetooth import publish
    from telemetry.observe import Observer, configure_logging

    configure_logging(settings.observe)
    work = asyncio.ensure_future(publish(settings, SystemClock(), Observer()))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        return


@key.command("add")
def add_key(
    format_: Annotated[BleFormat, typer.Option("--format", help="How the device tells its values.")],
    kind: Annotated[str | None, typer.Option(help="battery, meter, inverter …; as the format says without.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="File that holds the key, hex; asked for without.")] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="It has none: taken only with ble.untrusted.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Add a device, or replace its key. Address and key are asked for, so that they stay in no shell history.

    A device that is added again may begin its counter anew, as after a change of its battery.

    Example: telemetry ble key add --format victron-ble
    """
    with reported():
        settings = config_of(config)
        if kind is not None and kind not in KIND_BY_LABEL:
            raise InputError("there is no such kind of device", remedy=f"one of {', '.join(KIND_BY_LABEL)}")
        address = parsed_address(typer.prompt("Address (AA:BB:CC:DD:EE:FF)"))
        if address is None:
            raise InputError("this is no Bluetooth address", remedy="six pairs of hexadecimal digits")
        found = None if no_key or format_ is BleFormat.GATT else _asked_key(key_file)
        devices = _devices(settings, create=True)
        devices.put(BleDevice(address, format_, found, None if kind is None else KIND_BY_LABEL[kind]))
        count = len(devices.load())
        print_result({"devices": count}, f"added; {count} in all. A running service takes it when it starts anew.",
                     as_json=json)  # fmt: skip


@key.command("list")
def list_keys(
    reveal: Annotated[bool, typer.Option("--reveal", help="Show addresses.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List devices, in the order in which they were added. Keys are never shown.

    Example: telemetry ble key list --reveal
    """
    with reported():
        rows = [
            {
                "number": number,
                "format": device.format.value,
                "kind": "" if device.kind is None else device.kind.label,
                "key": device.key is not None,
                "address": device.serial if reveal else None,
            }
            for number, device in enumerate(_devices(config_of(config)).load(), 1)
        ]
        print_rows(rows, {name: name for name in ("number", "format", "kind", "key", "address")}, as_json=json)


@key.command("remove")
def remove_key(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Forget a device and its key. Its address is asked for.

    Example: telemetry ble key remove
    """
    with reported():
        devices = _devices(config_of(config))
        address = parsed_address(typer.prompt("Address (AA:BB:CC:DD:EE:FF)"))
        if address is None or not devices.remove(address):
            raise InputError("no device of this address was added", remedy="`telemetry ble key list --reveal`")
        count = len(devices.load())
        print_result({"devices": count}, f"removed; {count} left", as_json=json)


@ble.command("permit")
def permit(site: SiteArgument = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """The owner permits listening to Bluetooth at a site; without a site, on this machine as a gateway.

    Example: telemetry ble permit s_00c0ffee00c0ffee
    """
    _set(site, config, permitted=True, as_json=json)


@ble.command("forbid")
def forbid(site: SiteArgument = None, config: ConfigOption = None, json: JsonOption = False) -> None:
    """The owner forbids it: listening stops at once, and what was heard and is not committed is thrown away.

    Example: telemetry ble forbid s_00c0ffee00c0ffee
    """
    _set(site, config, permitted=False, as_json=json)


def _set(site: str | None, config: Path | None, *, permitted: bool, as_json: bool) -> None:
    word = "permitted" if permitted else "forbidden"
    if site is None:
        with reported():
            _set_here(config_of(config), permitted=permitted)
        print_result({"permitted": permitted}, f"Bluetooth is {word} on this machine", as_json=as_json)
        return

    async def main() -> None:
        from telemetry.store.bluetooth import set_permission
        from telemetry.store.connection import connector
        from telemetry.store.keystore import open_keystore, role_password

        settings, role = config_of(config), "telemetry_operator"
        password = role_password(open_keystore(settings.data_dir), role)
        connection = await connector(database_dsn(settings), user=role, password=password)()
        try:
            site_key = parse_key("site", site)
            await set_permission(connection, site_key, permitted=permitted)
        finally:
            await connection.close()
        shown = format_key("site", site_key)
        print_result({"site": shown, "permitted": permitted}, f"Bluetooth is {word} at {shown}", as_json=as_json)

    run_command(main())


def _set_here(settings: Any, *, permitted: bool) -> None:
    from telemetry.sources.ble_permission import FILE_NAME
    from telemetry.store.ble_devices import ble_folder

    folder = ble_folder(settings.data_dir)
    if permitted:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / FILE_NAME).touch(mode=0o600)
    else:
        (folder / FILE_NAME).unlink(missing_ok=True)


def _asked_key(file: Path | None) -> bytes:
    from telemetry.cli.decode_frame import given_key

    found = given_key(typer.prompt("Key (32 hexadecimal digits)", hide_input=True) if file is None else None, file)
    if found is None:
        raise InputError("no key was given", remedy="--no-key for a device that has none")
    return found


def _devices(settings: Any, *, create: bool = False) -> Any:
    from telemetry.store.ble_devices import BleDevices, open_ble_secret

    return BleDevices(settings.data_dir, open_ble_secret(settings.data_dir, create=create))
