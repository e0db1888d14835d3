"""Everything that an asker receives over HTTP, as bytes that can be compared."""

import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from tests.support.api_world import ApiWorld

# Random, of the clock, or of what the asker itself has asked so far.
_OWN: Final = frozenset({"x-request-id", "date", "ratelimit"})
_REQUEST_ID: Final = re.compile(rb'"request_id":"[0-9a-f]{24}"')


def whole(answer: httpx.Response) -> bytes:
    """Status, every header and the body, but for what is the request's own: its id, the date, the caller's counters."""
    headers = sorted((name.lower(), value) for name, value in answer.headers.multi_items() if name.lower() not in _OWN)
    return repr((answer.status_code, headers, _REQUEST_ID.sub(b"", answer.content))).encode()


class Asking:
    """Asks, and keeps what came: label → bytes; and address, parameters and ETag of what has one."""

    def __init__(self, world: ApiWorld, bearer: str) -> None:
        self.world, self.bearer = world, bearer
        self.received: dict[str, bytes] = {}
        self.tagged: dict[str, tuple[str, dict[str, Any], str]] = {}

    async def get(
        self, label: str, path: str, *, headers: Mapping[str, str] | None = None, **parameters: Any
    ) -> httpx.Response:
        """One GET below /api/v1. ``from_`` stands for ``from``."""
        asked = {name.rstrip("_"): value for name, value in parameters.items() if value is not None}
        said = {"Authorization": f"Bearer {self.bearer}"} | dict(headers or {})
        answer = await self.world.client.get(f"/api/v1{path}", params=asked, headers=said)
        self.keep(label, whole(answer))
        if (tag := answer.headers.get("etag")) and headers is None:
            self.tagged[label] = (path, parameters, tag)
        return answer

    async def pages(self, label: str, path: str, **parameters: Any) -> list[httpx.Response]:
        """All pages of a list, by its cursors."""
        found = [await self.get(f"{label}, page 1", path, **parameters)]
        while found[-1].status_code == 200 and (cursor := found[-1].json()["next"]):
            found.append(await self.get(f"{label}, page {len(found) + 1}", path, cursor=cursor, **parameters))
        return found

    def keep(self, label: str, what: bytes) -> None:
        """Something that came in another way."""
        assert label not in self.received, label
        self.received[label] = what
