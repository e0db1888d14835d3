"""`telemetry conformance`: golden cases of formats, which is also how a new format is added."""

import json
from pathlib import Path
from typing import Annotated

import typer

from telemetry.cli.common import JsonOption, reported


def conformance(
    directory: Annotated[Path, typer.Argument(help="Folder of cases, or one case: messages.jsonl, expected.json.")],
    as_json: JsonOption = False,
) -> None:
    """Decode every case twice, in one batch and with a restart after each message, and compare with what it expects.

    Example: telemetry conformance tests/golden
    """
    from telemetry.maintenance.conformance import run_cases

    with reported():
        results = run_cases(directory)
    failed = [one for one in results if not one.passed]
    if as_json:
        told = [{"case": one.case, "passed": one.passed, "differences": list(one.differences)} for one in results]
        typer.echo(json.dumps({"cases": len(results), "failed": len(failed), "results": told}))
    else:
        for one in failed:
            typer.echo(f"{one.case}:")
            for line in one.differences:
                typer.echo(f"  {line}")
        typer.echo(f"{len(results)} cases, {len(failed)} failed")
    if failed:
        raise typer.Exit(1)
