"""Golden cases of formats: messages in; rows, counts and requests out; canaries that must not come through.

A case is a folder with two files (docs/ADDING-A-FORMAT.md): ``messages.jsonl`` and ``expected.json``. Every case is
decoded twice, in one batch and message by message with memories stored and loaded in between, and must come out the
same: so a format that remembers is held to surviving a restart at every moment.
"""

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.names import safe_name
from telemetry.codecs.registry import CODEC_BY_NAME, DEFAULT_CODEC, DecodedBatch, decode_remembering
from telemetry.codecs.rfc3339 import instant_us
from telemetry.codecs.state import EMPTY, Memory, pack, unpack
from telemetry.errors import InputError
from telemetry.model.batch import RawMessage
from telemetry.model.fields import DeviceKind

MESSAGES: Final = "messages.jsonl"
EXPECTED: Final = "expected.json"
_GATEWAY: Final = "gateway"
_MESSAGE_KEYS: Final = frozenset(
    {"topic", "json", "text", "base64", "retained", "at", "content_type", "gateway", "restart"}
)
_COUNTS: Final = ("withheld", "rejected", "unlisted", "place", "implausible")
_EXPECTED_KEYS: Final = frozenset({"about", "format", "rows", "requests", "standing", "canaries", *_COUNTS})
_LETTERS: Final = re.compile(r"[^0-9a-z]+")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How a case came out. ``differences``: a line each; they quote the case, whose identifiers are made up."""

    case: str
    differences: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether all was as expected."""
        return not self.differences


@dataclass(slots=True)
class _Seen:
    """What came out of all batches of a case."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in _COUNTS})
    requests: list[str] = field(default_factory=list)
    standing: list[str] = field(default_factory=list)
    formats: set[str] = field(default_factory=set)
    details: list[str] = field(default_factory=list)

    def count(self, which: str, name: str, amount: int) -> None:
        counts = self.counts[which]
        counts[name] = counts.get(name, 0) + amount


def run_cases(directory: Path, limits: CodecLimits | None = None) -> list[CaseResult]:
    """Every case at or below ``directory``, in order of path.

    Raises:
        InputError: there is none, or a file cannot be read as what it should be.

    """
    found = sorted(path.parent for path in directory.rglob(MESSAGES))
    if not found:
        raise InputError("there are no cases", remedy=f"a case is a folder with {MESSAGES} and {EXPECTED}")
    limits = limits or CodecLimits()
    return [_run_case(case, case.relative_to(directory).as_posix(), limits) for case in found]


def _run_case(case: Path, name: str, limits: CodecLimits) -> CaseResult:
    parts = _messages(case / MESSAGES)
    expected = _expected(case / EXPECTED)
    together = _decode(parts, limits)
    alone = _decode([[message] for part in parts for message in part], limits)
    differences = _compare(expected, together)
    differences += [f"message by message: {line}" for line in _compare(expected, alone)]
    differences += _canaries(expected.get("canaries", ()), parts, together)
    return CaseResult(name, tuple(differences))


def _decode(parts: Sequence[Sequence[RawMessage]], limits: CodecLimits) -> _Seen:
    """Decode each part as a batch; memories are stored and loaded between parts."""
    seen, stored = _Seen(), dict[tuple[str, str], bytes]()
    number = 0
    for part in parts:

        def recall(gateway: str, codec: str) -> Memory:
            packed = stored.get((gateway, codec))
            known = None if packed is None else unpack(packed, _revision(codec))
            return EMPTY if known is None else known[1]

        batch = decode_remembering(part, limits, recall)
        for (gateway, codec), memory in batch.memories.items():
            stored[gateway, codec] = pack(memory, gateway, _revision(codec))
        _note(batch, part, number, seen)
        number += len(part)
    seen.standing = sorted(_standing(stored))
    return seen


def _revision(codec: str) -> int:
    keeps = CODEC_BY_NAME[codec].keeps
    assert keeps is not None  # noqa: S101 - only a codec that keeps something has a memory
    return keeps.revision


def _standing(stored: Mapping[tuple[str, str], bytes]) -> Iterator[str]:
    for (_, codec), packed in stored.items():
        known, keeps = unpack(packed, _revision(codec)), CODEC_BY_NAME[codec].keeps
        if known is not None and keeps is not None:
            yield from (one.topic for one in keeps.standing(known[1]))


def _note(batch: DecodedBatch, part: Sequence[RawMessage], first: int, seen: _Seen) -> None:
    decoded = batch.decoded
    for row in decoded.rows.iter_rows(named=True):
        seen.rows.append(_row(row, first))
    for reason, amount in decoded.withheld_rows.items():
        seen.count("withheld", reason.value, amount)
    for one in decoded.rejections:
        seen.count("rejected", one.reason.value, one.readings)
        seen.details.append(one.detail)
    for name, amount in decoded.unlisted.items():
        seen.count("unlisted", safe_name(name), amount)
    for name, amount in decoded.place.items():
        seen.count("place", safe_name(name), amount)
    for name, amount in decoded.implausible.items():
        seen.count("implausible", name, amount)
    seen.requests += dict.fromkeys(one.topic for one in batch.requests if one.topic not in seen.requests)
    seen.formats |= {decoded.codec_of_message.get(index, DEFAULT_CODEC) for index in range(len(part))}


def _row(row: Mapping[str, Any], first: int) -> dict[str, Any]:
    """A row as cases write it: the number of its message, a kind by name, a time in RFC 3339, fields with values."""
    kind, ts = row["kind"], row["ts"]
    written = {name: value for name, value in row.items() if value is not None}
    return written | {
        "message": row["message"] + first,
        "kind": None if kind is None else DeviceKind(kind).label,
        "ts": None if ts is None else (_EPOCH + timedelta(microseconds=ts)).isoformat(),
    }


def _compare(expected: Mapping[str, Any], seen: _Seen) -> list[str]:
    found: list[str] = []
    rows = expected.get("rows", [])
    if len(rows) != len(seen.rows):
        found.append(f"{len(rows)} rows expected, {len(seen.rows)} found")
    for number, (row, have) in enumerate(zip(rows, seen.rows, strict=False)):
        want = {"kind": None, "ts": None} | row
        found += [
            f"row {number}: {name} is {have.get(name)!r}, expected {want.get(name)!r}"
            for name in sorted(want.keys() | have.keys())
            if not _same(want.get(name), have.get(name))
        ]
    found += [
        f"{which}: {seen.counts[which]} found, {expected.get(which, {})} expected"
        for which in _COUNTS
        if expected.get(which, {}) != seen.counts[which]
    ]
    for which, topics in (("requests", sorted(seen.requests)), ("standing", seen.standing)):
        if sorted(expected.get(which, [])) != topics:
            found.append(f"{which}: {topics} found, {sorted(expected.get(which, []))} expected")
    if expected["format"] not in seen.formats:
        found.append(f"no message was read as {expected['format']}")
    return found


def _same(want: object, have: object) -> bool:
    """Numbers agree to twelve digits: decimal conversions of units are not exact in binary."""
    if isinstance(want, int | float) and isinstance(have, int | float):
        return abs(want - have) <= 1e-12 * max(abs(want), abs(have))
    return want == have


def _canaries(canaries: Sequence[str], parts: Sequence[Sequence[RawMessage]], seen: _Seen) -> list[str]:
    """Canaries that came through anywhere but as a device's serial, and those that no message holds."""
    hidden = [{name: value for name, value in row.items() if name != "serial"} for row in seen.rows]
    shown = _letters(json.dumps([hidden, seen.counts, seen.details]))
    given = _letters(" ".join(f"{m.gateway} {m.topic} {m.payload!r}" for part in parts for m in part))
    found = [f"canary {canary!r} came through" for canary in canaries if _letters(canary) in shown]
    return found + [f"canary {canary!r} is in no message" for canary in canaries if _letters(canary) not in given]


def _letters(text: str) -> str:
    return _LETTERS.sub("", text.lower())


def _messages(path: Path) -> list[list[RawMessage]]:
    """The messages of a case, in parts that restarts separate."""
    parts: list[list[RawMessage]] = [[]]
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        given = _json(line, f"{path.name}, line {number}")
        if not isinstance(given, dict) or not given.keys() <= _MESSAGE_KEYS:
            raise InputError(f"{path}, line {number} is no message", remedy=f"its keys are {sorted(_MESSAGE_KEYS)}")
        if given.get("restart"):
            parts.append([])
        else:
            parts[-1].append(_message(given, f"{path}, line {number}"))
    return parts


def _message(given: Mapping[str, Any], where: str) -> RawMessage:
    received = instant_us(given.get("at", "2026-05-01T12:00:00Z"))
    if received is None or not isinstance(given.get("topic"), str):
        raise InputError(f"{where}: a message has a topic, and its time of receipt in RFC 3339")
    return RawMessage(
        gateway=given.get("gateway", _GATEWAY),
        topic=given["topic"],
        payload=_payload(given, where),
        token=0,
        received_us=received,
        content_type=given.get("content_type"),
        retained=bool(given.get("retained")),
    )


def _payload(given: Mapping[str, Any], where: str) -> bytes:
    if "json" in given:
        return json.dumps(given["json"], separators=(",", ":")).encode()
    if "base64" in given:
        try:
            return base64.b64decode(given["base64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise InputError(f"{where}: not base64") from None
    return str(given.get("text", "")).encode()


def _expected(path: Path) -> Mapping[str, Any]:
    given = _json(_text(path), path.name)
    if not isinstance(given, dict) or not given.keys() <= _EXPECTED_KEYS or given.get("format") not in CODEC_BY_NAME:
        raise InputError(
            f"{path} does not say what is expected",
            remedy=f"its keys are {sorted(_EXPECTED_KEYS)}; format is one of {sorted(CODEC_BY_NAME)}",
        )
    return given


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None


def _json(text: str, where: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where} is not JSON: {error}") from None
