"""`telemetry keeping`: what may be stored of an owner."""

from typing import Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, parse_key, print_result, run_command
from telemetry.cli.sharing import OwnerArgument, checked, open_sharing
from telemetry.errors import InputError
from telemetry.model.fields import DataClass
from telemetry.model.sharing import Keeping, Resolution

keeping = typer.Typer(help="What may be stored of an owner.", no_args_is_help=True)


@keeping.command("show")
def show(owner: OwnerArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Print an owner's keeping settings.

    Example: telemetry keeping show o_00c0ffee00c0ffee
    """

    async def main() -> None:
        async with open_sharing(config_of(config)) as sharing:
            found = await sharing.keeping(parse_key("owner", owner))
        _print(found, as_json=json)

    run_command(main())


@keeping.command("set")
def set_keeping(
    owner: OwnerArgument,
    wished: Annotated[Resolution | None, typer.Option(help="Kept for the owner's own use at this resolution.")] = None,
    finest: Annotated[Resolution | None, typer.Option(help="Nothing finer is ever kept, whoever is granted.")] = None,
    data_class: Annotated[
        list[DataClass] | None, typer.Option("--class", help="Keep these classes for the own use only; repeat.")
    ] = None,
    field: Annotated[list[str] | None, typer.Option(help="And these fields; repeat.")] = None,
    never: Annotated[list[str] | None, typer.Option(help="Never keep this field, whoever is granted; repeat.")] = None,
    retention: Annotated[list[str] | None, typer.Option(help="CLASS=DAYS; repeat.")] = None,
    default: Annotated[bool, typer.Option("--default", help="Begin from the defaults, not from what stands.")] = False,
    nothing: Annotated[bool, typer.Option("--nothing", help="Keep nothing for the own use.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Change what may be stored of an owner. What is left out stays; a list that is given replaces the one before.

    Example: telemetry keeping set o_00c0ffee00c0ffee --wished PT1H --never load_power_w --retention grid=30
    """

    async def main() -> None:
        given: dict[str, Any] = {
            "wished": wished,
            "finest": finest,
            "classes": () if nothing else data_class,
            "fields": field,
            "never": never,
            "retention_days": _retention(retention) if retention else None,
        }
        key = parse_key("owner", owner)
        async with open_sharing(config_of(config)) as sharing:
            before = Keeping() if default else await sharing.keeping(key)
            after = checked(Keeping, dict(before) | {name: value for name, value in given.items() if value is not None})
            await sharing.set_keeping(key, after)
        _print(after, as_json=json)

    run_command(main())


def _print(found: Keeping, *, as_json: bool) -> None:
    from telemetry.store.settings_file import plain_keeping

    plain = plain_keeping(found)
    print_result(plain, "\n".join(f"{name}: {value}" for name, value in plain.items()), as_json=as_json)


def _retention(texts: list[str]) -> dict[str, str]:
    parts = [text.partition("=") for text in texts]
    if not all(name in set(DataClass) and days.isdecimal() for name, _, days in parts):
        raise InputError("retention is written like grid=30: a class and its days")
    return {name: days for name, _, days in parts}
