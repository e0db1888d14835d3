"""Everything that an asker receives over HTTP, as bytes that can be compared."""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx

from tests.support.api_world import ApiWorld

# Random, of the clock, or of what the asker itself has asked so far.
_OWN: Final = frozenset({"x-request-id", "date", "ratelimit"})
_NEXT: Final = re.compile(rb'"next":"[A-Za-z0-9_-]+"')
_TAG: Final = re.compile(rb"'etag', '[^']+'")
_REQUEST_ID: Final = re.compile(rb'"request_id":"[0-9a-f]{15,24}"')


Addresses = dict[str, tuple[str, dict[str, Any], dict[str, str]]]


def _lengths(found: re.Match[bytes]) -> bytes:
    return b'"next": %d' % len(found[0])


def whole(answer: httpx.Response) -> bytes:
    """Status, every header and the body, but for what is the request's own: its id, the date, the caller's counters."""
    return whole_head(answer) + _REQUEST_ID.sub(b"", answer.content)


def whole_head(answer: httpx.Response) -> bytes:
    """As ``whole``, without the body."""
    headers = sorted((name.lower(), value) for name, value in answer.headers.multi_items() if name.lower() not in _OWN)
    return repr((answer.status_code, headers)).encode()


@asynccontextmanager
async def opened(world: ApiWorld, bearer: str, **parameters: Any) -> AsyncIterator[httpx.Response]:
    """A live stream."""
    headers = {"Authorization": f"Bearer {bearer}"}
    async with world.client.stream("GET", "/api/v1/live", params=parameters, headers=headers) as answer:
        yield answer


async def batches(raw: AsyncIterator[bytes], count: int) -> bytes:
    """What comes up to the end of so many batches, or of the stream."""
    found = b""
    while sum(each.startswith(b"event: batch") for each in found.split(b"\n\n")[:-1]) < count:
        piece = await anext(raw, b"")
        if not piece:
            break
        found += piece
    return found


class Asking:
    """Asks, and keeps what came: label → bytes; and what can be asked ``later``: whether it changed."""

    def __init__(self, world: ApiWorld, bearer: str) -> None:
        self.world, self.bearer = world, bearer
        self.received: dict[str, bytes] = {}
        self.paths: set[str] = set()
        self.later: Addresses = {}

    async def get(
        self, label: str, path: str, *, headers: Mapping[str, str] | None = None, **parameters: Any
    ) -> httpx.Response:
        """One GET below /api/v1. ``from_`` stands for ``from``."""
        asked = {name.rstrip("_"): value for name, value in parameters.items() if value is not None}
        said = {"Authorization": f"Bearer {self.bearer}"} | dict(headers or {})
        self.paths.add(path)
        answer = await self.world.client.get(f"/api/v1{path}", params=asked, headers=said)
        # Where an answer of /changes goes on from is sealed, of fixed length, and another each time.
        self.keep(label, whole(answer) if path != "/changes" else _NEXT.sub(_lengths, _TAG.sub(b"", whole(answer))))
        if (tag := answer.headers.get("etag")) and headers is None:
            self.later[f"{label}, if changed"] = (path, parameters, {"If-None-Match": tag})
        if path == "/changes" and answer.status_code == 200:
            cursor = answer.json()["next"]
            self.later[f"{label}, from then on"] = (path, parameters | {"cursor": cursor}, {})
        return answer

    async def pages(self, label: str, path: str, **parameters: Any) -> list[httpx.Response]:
        """All pages of a list, by its cursors."""
        found = [await self.get(f"{label}, page 1", path, **parameters)]
        while found[-1].status_code == 200 and (cursor := found[-1].json()["next"]):
            found.append(await self.get(f"{label}, page {len(found) + 1}", path, cursor=cursor, **parameters))
        return found

    async def events(self, label: str, count: int = 1, **parameters: Any) -> None:
        """The bytes of an event stream up to the end of so many batches."""
        async with opened(self.world, self.bearer, **parameters) as answer:
            self.keep(label, whole_head(answer) + await batches(answer.aiter_raw(), count))

    def keep(self, label: str, what: bytes) -> None:
        """Something that came in another way."""
        assert label not in self.received, label
        self.received[label] = what
