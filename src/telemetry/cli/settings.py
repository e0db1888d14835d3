"""`telemetry settings`: many owners' settings as a file."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, parse_key, print_result, run_command
from telemetry.cli.sharing import open_sharing
from telemetry.errors import InputError

settings = typer.Typer(help="Many owners' settings as a file.", no_args_is_help=True)


@settings.command("apply")
def apply_file(
    file: Annotated[Path, typer.Argument(help="YAML, as `telemetry settings export` writes it.", dir_okay=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would change, and stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Check a settings file as a whole, print what it changes, and after a yes apply all of it or nothing.

    What stands in the file for an owner is all that stands: a grant that it leaves out is withdrawn.

    Example: telemetry settings apply settings.yaml --dry-run
    """

    async def main() -> None:
        from dataclasses import asdict

        from telemetry.store.settings_apply import apply, rehearse
        from telemetry.store.settings_file import read_settings

        content = read_settings(file)
        async with open_sharing(config_of(config)) as sharing:
            changes = await rehearse(sharing, content)
            lines = [line for change in changes for line in change.lines()] or ["nothing changes"]
            if not json:
                typer.echo("\n".join(lines))
            done = bool(changes) and not dry_run and _agreed(yes=yes)
            if done:
                await apply(sharing, content, changes)
        if json:
            print_result({"applied": done, "changes": [asdict(one) for one in changes]}, "", as_json=True)
        elif changes:
            typer.echo(f"{len(changes)} changes {'applied' if done else 'not applied'}")

    run_command(main())


@settings.command("export")
def export_file(
    owner: Annotated[list[str], typer.Argument(help="Owners' keys (o_…).")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Print owners' settings as a file, which applied again changes nothing.

    Example: telemetry settings export o_00c0ffee00c0ffee > settings.yaml
    """

    async def main() -> None:
        from telemetry.store.settings_apply import export

        async with open_sharing(config_of(config)) as sharing:
            text = await export(sharing, [parse_key("owner", one) for one in owner])
        print_result({"settings": text}, text.rstrip("\n"), as_json=json)

    run_command(main())


def _agreed(*, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        raise InputError(
            "nobody can be asked here, and nothing was changed", remedy="look at --dry-run, then say --yes"
        )
    return typer.confirm("Apply?", err=True)
