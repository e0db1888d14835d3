"""The document and what is answered are held against each other by schemathesis, over real HTTP, from a fixed seed."""

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from telemetry.access.secret_text import csrf_token
from telemetry.store.keystore import API
from tests.api.homes import LOOKER, two_homes
from tests.support.access import FAST, PeopleWorld
from tests.support.api_world import ApiWorld, StoreKeystore, api_world
from tests.support.mail_server import MailServer

# What each does is ours to test: whoever asks too often is refused, and streams do not end.
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
_EXAMPLES = 12


async def schemathesis(
    world: ApiWorld, who: str | Mapping[str, str], directory: Path, *, tag: str, seed: int = 7
) -> tuple[int, str]:
    """Its exit code, and what it says. ``who``: a machine's token, or the headers of a session."""
    headers = {"Authorization": f"Bearer {who}"} if isinstance(who, str) else who
    # A session's cookie is not among what it leaves out to see whether that is noticed.
    checks = [check for check in _CHECKS if isinstance(who, str) or check != "ignored_auth"]
    document = directory / "openapi.json"
    answer = await world.client.get("/api/openapi.json")
    await asyncio.to_thread(document.write_text, json.dumps(answer.json()))
    arguments = [
        "run", str(document), "--url", world.base,
        *(text for name, value in headers.items() for text in ("--header", f"{name}: {value}")),
        "--include-tag", tag, "--exclude-operation-id", "read_live", "--exclude-operation-id", "logout",
        "--phases", "examples,coverage,fuzzing", "--checks", ",".join(checks),
        "--max-examples", str(_EXAMPLES), "--seed", str(seed), "--no-shrink",
        "--suppress-health-check", "all", "--request-timeout", "30", "--warnings", "off", "--workers", "1",
    ]  # fmt: skip
    program = "import sys; from schemathesis.cli import schemathesis; sys.argv[0] = 'schemathesis'; schemathesis()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, *arguments,
        cwd=directory, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    told, _ = await process.communicate()
    return process.returncode or 0, told.decode()


@pytest.mark.long
async def test_recipients_routes_answer_as_the_document_says(world: ApiWorld, store, tmp_path) -> None:
    free = {"requests_per_minute": 10**6, "concurrent": 100, "streams": 100, "rows_per_hour": 10**9}
    webhooks = {"webhooks": {"enabled": True}}
    async with api_world(store, tmp_path, sections=webhooks, **free) as open_handed:
        await two_homes(open_handed)
        code, told = await schemathesis(open_handed, await open_handed.token(LOOKER), tmp_path, tag="recipients")
        assert code == 0, told


@pytest.mark.long
@pytest.mark.parametrize("tag", ["auth", "tokens"])
async def test_routes_of_accounts_and_tokens_answer_as_the_document_says(store, tmp_path, tag, monkeypatch) -> None:
    monkeypatch.setattr("telemetry.access.passwords.PARAMETERS", FAST)
    free = {"requests_per_minute": 10**6, "concurrent": 100}
    async with (
        MailServer() as server,
        api_world(store, tmp_path, sections={"mail": server.config().model_dump()}, **free) as world,
    ):
        await two_homes(world)
        who: str | Mapping[str, str]
        if tag == "tokens":
            who = await world.token(LOOKER)
        else:
            people = PeopleWorld(store, world.admin, world.context.pools.access, server=server)
            people.access = world.context.access
            await people.signed_up()
            begun = await people.login()
            csrf = csrf_token(StoreKeystore().secret(API), begun.secret)
            who = {"Cookie": f"session={begun.secret}", "X-CSRF-Token": csrf}
        code, told = await schemathesis(world, who, tmp_path, tag=tag)
        assert code == 0, told
