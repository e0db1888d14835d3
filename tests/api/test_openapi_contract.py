"""The document and what is answered are held against each other by schemathesis, over real HTTP, from a fixed seed."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from tests.api.homes import LOOKER, two_homes
from tests.support.api_world import ApiWorld, api_world

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


async def schemathesis(world: ApiWorld, bearer: str, directory: Path, *, tag: str, seed: int = 7) -> tuple[int, str]:
    """Its exit code, and what it says."""
    document = directory / "openapi.json"
    answer = await world.client.get("/api/openapi.json")
    await asyncio.to_thread(document.write_text, json.dumps(answer.json()))
    arguments = [
        "run", str(document), "--url", world.base,
        "--header", f"Authorization: Bearer {bearer}",
        "--include-tag", tag, "--exclude-operation-id", "read_live",
        "--phases", "examples,coverage,fuzzing", "--checks", ",".join(_CHECKS),
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
