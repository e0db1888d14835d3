"""Quarantine: the worker holds messages there, the operator lists, recovers or discards them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from telemetry.model.batch import QuarantinedMessage
from telemetry.store.sql import queries

_QUERIES: Final = queries("quarantine")
_DETAIL_LENGTH: Final = 200
_PAGE: Final = 1000

State = Literal["held", "recovered", "discarded"]


async def hold(connection: Any, messages: Sequence[QuarantinedMessage]) -> int:
    """Add messages in the caller's transaction; how many of them were known already. For role telemetry_ingest."""
    if not messages:
        return 0
    first: dict[tuple[int | None, bytes], QuarantinedMessage] = {}
    sent: dict[tuple[int | None, bytes], int] = {}
    for message in messages:
        key = (message.gateway_key, message.digest)
        first.setdefault(key, message)
        sent[key] = sent.get(key, 0) + 1
    unique = list(first.values())
    rows = await connection.fetch(
        _QUERIES["hold"],
        [m.gateway_key for m in unique],
        [m.owner_key for m in unique],
        [m.reason.value for m in unique],
        [_text(m.codec) for m in unique],
        [_text(m.detail) for m in unique],
        [m.readings for m in unique],
        [m.size_bytes for m in unique],
        [m.digest for m in unique],
        [m.sealed for m in unique],
        list(sent.values()),
    )
    new = sum(1 for row in rows if row["seen"] == sent[row["gateway_key"], row["digest"]])
    return len(messages) - new


def _text(text: str) -> str:
    """What PostgreSQL takes as text, and no longer than the column: no NUL, no lone surrogates."""
    return text.replace("\0", "").encode("utf-8", "replace").decode()[:_DETAIL_LENGTH]


class QuarantineStore:
    """What an operator does with quarantined messages. For role telemetry_operator; one event loop."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def summary(self) -> list[Mapping[str, Any]]:
        """Messages, readings and times seen, by reason, codec and state; the most frequent first."""
        return [dict(row) for row in await self._connection.fetch(_QUERIES["summary"])]

    async def messages(
        self,
        *,
        reason: str | None = None,
        codec: str | None = None,
        gateway_key: int | None = None,
        state: State | None = "held",
        after: int = 0,
        limit: int = _PAGE,
    ) -> list[Mapping[str, Any]]:
        """One page of messages without their content, ascending by ``quarantine_key`` from ``after`` on."""
        rows = await self._connection.fetch(_QUERIES["list"], reason, codec, gateway_key, state, after, limit)
        return [dict(row) for row in rows]

    async def fetch(self, keys: Sequence[int]) -> list[Mapping[str, Any]]:
        """The sealed content of held messages; keys that are unknown or settled are left out."""
        return [dict(row) for row in await self._connection.fetch(_QUERIES["fetch"], list(keys))]

    async def settle(self, keys: Sequence[int], state: Literal["recovered", "discarded"]) -> int:
        """Mark held messages and delete their content; how many there were."""
        return int(await self._connection.fetchval(_QUERIES["settle"], list(keys), state))
