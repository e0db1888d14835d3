"""README.md, "An installer's first series": its own code blocks, run in order against real servers."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from telemetry.maintenance.scan import scan
from telemetry.maintenance.scan_places import DatabasePlace, FilePlace
from tests.support.api_process import ApiProcess, api_process
from tests.support.installation import Installation, installation
from tests.support.mail_server import MailServer
from tests.support.reporting_home import OWNER_NAME, SERIAL, SITE_NAME, ReportingHome, reporting_home

README = Path(__file__).resolve().parents[2] / "README.md"
HEADING = "## An installer's first series"
FROM_THE_MAIL = 'export MAILED="the code in the mail"'
EMAIL = "walking.owner@example.test"
PASSWORD = "several words are easy to keep"
PATIENCE_S = 240.0
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks() -> list[str]:
    """The section's blocks in order, each as a piece of a shell's script."""
    section = README.read_text(encoding="utf-8").partition(HEADING)[2].partition("\n## ")[0]
    found = [(match[1], match[2]) for match in _BLOCK.finditer(section)]
    return [text if kind == "sh" else f"python - <<'PYTHON'\n{text}PYTHON\n" for kind, text in found]


async def run(script: str, environment: dict[str, str]) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    return process.returncode or 0, out.decode(), err.decode()


async def hand_over(server: MailServer, mailbox: Path) -> None:
    """The code in the mail, as a person reads and types it."""
    (code,) = re.findall(r"(?<![\w-])[\w-]{43}(?![\w-])", (await server.mail(EMAIL, PATIENCE_S)).get_content())
    mailbox.write_text(code)


async def walk(home: ReportingHome, api: ApiProcess, server: MailServer, mailbox: Path) -> list[str]:
    """Run all of it; what each block printed."""
    pieces = blocks()
    assert sum(FROM_THE_MAIL in piece for piece in pieces) == 1
    read = f'until test -s {mailbox}; do sleep 0.1; done; export MAILED="$(cat {mailbox})"'
    script = "".join(f"echo '=== block'\n{piece.replace(FROM_THE_MAIL, read)}" for piece in pieces)
    environment = dict(api.environment) | {"API": api.base, "OWNER": home.owner, "EMAIL": EMAIL}
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(hand_over(server, mailbox))
        status, out, err = await run(script, environment)
        reading.cancel()
    assert status == 0, err + out
    return out.split("=== block\n")[1:]


async def found_in_clear(installed: Installation, api: ApiProcess) -> int:
    """How often anything personal is in the database, in a file, or in the API's log."""
    places = [DatabasePlace("database", installed.postgres.dsn("postgres")), FilePlace("API's log", api.log)]
    canaries = [EMAIL, PASSWORD, SERIAL, OWNER_NAME, SITE_NAME, "127.0.0.1"]
    report = await scan(places, canaries)
    assert report.complete
    return report.identifiers_found


@pytest.mark.long
async def test_the_walk_through_works_as_it_is_written(tmp_path: Path) -> None:
    async with asyncio.timeout(PATIENCE_S), MailServer() as server, installation() as installed:
        home = await reporting_home(installed)
        mail = {"host": "127.0.0.1", "port": server.port, "encryption": "none", "sender": "service@example.invalid"}
        async with api_process(installed, mail=mail) as api:
            printed = await walk(home, api, server, tmp_path / "mailbox")
            assert await found_in_clear(installed, api) == 0
    operator, invited, signed_up, accepted, as_csv, as_frame, withdrawn, gone = printed
    assert operator.startswith("r_")
    assert (invited, "accepted" in signed_up) == ("", True)
    assert "For maintenance, of all sites:" in accepted, "the owner was not told in words"
    assert "Inverters: ac_power_w" in accepted
    values = [float(line.split(",")[7]) for line in as_csv.splitlines()[1:]]
    assert values == list(home.watts)
    assert f"shape: ({len(home.watts)}, 11)" in as_frame
    assert "recipient='example-installer'" in withdrawn
    assert gone == "404\n"
