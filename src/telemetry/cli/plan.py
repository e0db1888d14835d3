"""`telemetry plan`: what is kept of whom and why, whether that is what was settled, and compiling it again."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telemetry.cli.common import (
    ConfigOption,
    JsonOption,
    config_of,
    database_dsn,
    format_key,
    parse_key,
    print_result,
    run_command,
)
from telemetry.errors import InputError

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.store.plans import StoredPlan

plan = typer.Typer(help="What is kept of whom, and why.", no_args_is_help=True)

_RIGHTS = "telemetry_rights"


@plan.command("show")
def show(
    owner: Annotated[str, typer.Argument(help="The owner's key (o_…).")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Why each field of an owner's devices is kept, at what resolution and until when.

    Example: telemetry plan show o_00c0ffee00c0ffee
    """

    async def main() -> None:
        from telemetry.privacy.compile import compile_owner
        from telemetry.privacy.promise import explain_plan
        from telemetry.store.plans import stored_of

        key = parse_key("owner", owner)
        async with _rights(config_of(config)) as connection:
            found = (await stored_of(connection, [key])).get(key)
        if found is None:
            raise InputError("there is no such owner", remedy="`telemetry owner list`")
        compiled = compile_owner(found.settings, found.at)
        sentences = explain_plan(found.settings, compiled, found.at, named=format_key)
        if found.pending:
            sentences.append("Something was settled that is not compiled yet: `telemetry plan recompile`.")
        result = {
            "owner": format_key("owner", key),
            "pending": found.pending,
            "next_change": compiled.next_change,
            "classes": _classes(found),
            "sentences": sentences,
        }
        print_result(result, "\n".join(sentences), as_json=json)

    run_command(main())


@plan.command("check")
def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Compile every owner anew, check that against what was settled, and compare it with what workers go by.

    Ends with 1 if anything is wrong. Owners that wait to be compiled are counted, not judged.

    Example: telemetry plan check --json
    """

    async def main() -> int:
        from telemetry.maintenance.replan import check_plans

        async with _rights(config_of(config)) as connection:
            checked = await check_plans(connection)
        failures = [{"owner": format_key("owner", key), "problem": problem} for key, problem in checked.failures]
        lines = [f"{failure['owner']}: {failure['problem']}" for failure in failures]
        lines.append(f"{checked.owners} owners, {checked.pending} waiting to be compiled, {len(failures)} wrong")
        result = {"owners": checked.owners, "pending": checked.pending, "failures": failures}
        print_result(result, "\n".join(lines), as_json=json)
        return 1 if failures else 0

    if code := run_command(main()):
        raise typer.Exit(code)


@plan.command("recompile")
def recompile(
    owner: Annotated[str | None, typer.Argument(help="Only this owner (o_…).", show_default=False)] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Every owner.")] = False,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Compile what is pending, or one owner, or with --all everybody. Safe to repeat; the service does it by itself.

    Example: telemetry plan recompile --all
    """
    if owner and everyone:
        raise typer.BadParameter("name an owner or say --all, not both")

    async def main() -> int:
        from telemetry.maintenance.replan import compile_pending
        from telemetry.store import plans

        failed = 0
        async with _rights(config_of(config)) as connection:
            if owner:
                await plans.recompile(connection, [parse_key("owner", owner)])
                done = 1
            elif everyone:
                done = 0
                async for keys in plans.owner_pages(connection):
                    await plans.recompile(connection, keys)
                    done += len(keys)
            else:
                drained = await compile_pending(connection)
                done, failed = drained.owners, len(drained.broken)
        text = f"{done} owners compiled" + (f", {failed} broke their promise: `telemetry plan check`" if failed else "")
        print_result({"owners": done, "failed": failed}, text, as_json=json)
        return 1 if failed else 0

    if code := run_command(main()):
        raise typer.Exit(code)


def _classes(found: "StoredPlan") -> list[Mapping[str, Any]]:
    """What workers go by, for programs."""
    from telemetry.model.fields import FIELD_NAMES
    from telemetry.model.sharing import RESOLUTIONS
    from telemetry.privacy.plan import DATA_CLASSES
    from telemetry.privacy.settled import LATER

    return [
        {
            "site": format_key("site", site),
            "kind": kind.label,
            "plan_class": found.numbers[site, kind],
            "withhold": compiled.withhold,
            "kept": {
                name: RESOLUTIONS[rank]
                for name, kept, rank in zip(FIELD_NAMES, compiled.keep, compiled.kept_resolution, strict=True)
                if kept
            },
            "retention_days": dict(zip(DATA_CLASSES, compiled.retention_days, strict=True)),
        }
        for (site, kind), compiled in found.classes.items()
        if site != LATER
    ]


@asynccontextmanager
async def _rights(config: "Config") -> AsyncIterator[Any]:
    """A connection of the role that acts for owners."""
    from telemetry.store.connection import connector
    from telemetry.store.keystore import open_keystore, role_password

    password = role_password(open_keystore(config.data_dir), _RIGHTS)
    connection = await connector(database_dsn(config), user=_RIGHTS, password=password)()
    try:
        yield connection
    finally:
        await connection.close()
