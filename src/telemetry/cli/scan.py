"""`telemetry scan`: prove that strings which must not be anywhere are nowhere."""

import json as json_module
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from telemetry.cli.common import ConfigOption, JsonOption, config_of, reported, run_command

if TYPE_CHECKING:
    from telemetry.config import Config
    from telemetry.maintenance.scan import Place, ScanReport

_FOUND, _INCOMPLETE = 1, 2


def scan(
    *,
    canaries: Annotated[Path, typer.Option(help="UTF-8 file with one string a line to search for.")],
    path: Annotated[list[Path] | None, typer.Option(help="Search this file or directory as well.")] = None,
    exclude: Annotated[list[Path] | None, typer.Option(help="Leave this file or directory out.")] = None,
    dsn: Annotated[
        str,
        typer.Option(envvar="TELEMETRY_SCAN_DSN", help="Server to search, as a role that may read everything."),
    ] = "",
    self_test: Annotated[bool, typer.Option(help="Plant a random token everywhere; it must be found.")] = True,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Search every table, raw file, log and metric for the given strings, in many encodings.

    Prints places and the numbers of lines in the file, never the strings. Ends with 1 when something was found,
    with 2 when something could not be searched.

    Example: telemetry scan --canaries serials.txt --json
    """
    with reported():
        found = config_of(config)
    report, notes = run_command(_scan(found, canaries, path or [], exclude or [], dsn=dsn, self_test=self_test))
    if json:
        typer.echo(json_module.dumps(dict(report.to_json()) | {"notes": notes}))
    else:
        _print(report, notes)
    if report.findings:
        raise typer.Exit(_FOUND)
    if not report.clean:
        raise typer.Exit(_INCOMPLETE)


async def _scan(
    config: "Config", canaries: Path, paths: list[Path], excluded: list[Path], *, dsn: str, self_test: bool
) -> tuple["ScanReport", list[str]]:
    from telemetry.cli.progress import CommandProgress
    from telemetry.maintenance.canaries import read_canaries
    from telemetry.maintenance.scan import scan as search
    from telemetry.maintenance.scan_places import Exclusion

    wanted = read_canaries(canaries)
    exclusions = [Exclusion(canaries, "the list of what is searched for")]
    exclusions += [Exclusion(path, "--exclude") for path in excluded]
    places, notes = _places(config, paths, exclusions, dsn)
    with CommandProgress("scanning", unit="bytes") as progress:
        report = await search(
            places, wanted, self_test=self_test, progress=lambda place, size: progress.advance(size, place)
        )
    return report, notes


def _places(config: "Config", paths: list[Path], exclusions: list[Any], dsn: str) -> tuple[list["Place"], list[str]]:
    """What this installation has written, and what is not searched for a reason."""
    from telemetry.embedded.attach import postgres_in
    from telemetry.maintenance.scan_places import BytesPlace, DatabasePlace, FilePlace, MissingPlace

    places: list[Place] = []
    notes: list[str] = []
    directories = [config.data_dir, *paths]
    running = postgres_in(config.data_dir) if config.embedded else None
    if running is not None and not running.place.home.is_relative_to(config.data_dir.resolve()):
        directories.append(running.place.home)
    if dsn or running is not None or not config.embedded:
        places.append(DatabasePlace("database", dsn or (running.dsn() if running else config.database.dsn)))
    else:
        places.append(MissingPlace("database", "the embedded PostgreSQL does not run; start the service"))
    places += [FilePlace(str(directory), directory, exclusions) for directory in directories if directory.exists()]
    log = config.observe.log_file
    if log is not None and not log.resolve().is_relative_to(config.data_dir.resolve()):
        places += [FilePlace(f"logs {part.name}", part) for part in sorted(log.parent.glob(f"{log.name}*"))]
    url = f"http://{config.observe.address}:{config.observe.port}/metrics"
    if _answers(url):
        places.append(BytesPlace("metrics", lambda: _fetch(url)))
    else:
        notes.append("no service answers on the metrics port, so there are no metrics to search")
    return places, notes


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http, and the address is configuration
        content: bytes = answer.read()
        return content


def _answers(url: str) -> bool:
    try:
        _fetch(url)
    except (OSError, urllib.error.URLError, ValueError):
        return False
    return True


def _print(report: "ScanReport", notes: list[str]) -> None:
    for finding in report.findings:
        line = f"FOUND  string {finding.canary}, as {finding.form}, {finding.count} times in {finding.place}"
        typer.secho(line, fg=typer.colors.RED)
    for skipped in report.skipped:
        typer.echo(f"{'left out' if skipped.intended else 'NOT SEARCHED'}  {skipped.place}: {skipped.reason}")
    for note in notes:
        typer.echo(f"note  {note}")
    for searched in report.searched:
        typer.echo(f"searched  {searched.place}: {searched.parts} parts, {searched.size_bytes / 2**20:.1f} MiB")
    if report.control is not None:
        typer.echo("control  " + ("the planted token was found" if report.control else "THE TOKEN WAS NOT FOUND"))
    told = f"{report.canaries} strings in {report.patterns} forms, {report.seconds:.1f} s: "
    told += f"{report.identifiers_found} found" if report.findings else "nothing found"
    typer.echo(told if report.complete else f"{told}, but not everything could be searched")
