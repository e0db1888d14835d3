"""Native JSON, readings and arrays of readings, whole batches at once.

Takes what is flat and in order; every message that is anything else, wrong or only unusual, is left to
``native_rows``, whose verdict is the one that counts. So there is no rejection here: only rows, what is unlisted
in them, and the messages left over. What every message of a sender may hold, explicit nulls and unlisted fields,
stays here.

::

    payloads ─scan─▶ keys, values ─name_ids─▶ which field ─decimals, texts_us, kinds─▶ columns ─▶ frame
        └──────────── left over: escapes, nesting, wrong types, anything doubtful ───────────▶ native_rows
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.codecs import scan
from telemetry.codecs.columns import Identity, Part, kind_codes, texts
from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.literals import BOOLEAN, NULL, NUMBER, WRONG, read_literals
from telemetry.codecs.names import KIND_ID, LISTED, SERIAL_ID, STATUS_IDS, TS_ID, UNLISTED_ID, name_ids
from telemetry.codecs.rfc3339 import texts_us
from telemetry.codecs.words import F64, I64, U8, Bools
from telemetry.model.identity import MAX_SERIAL_LENGTH

CHUNK_BYTES: Final = 384 * 1024  # the arrays of one chunk stay in a core's cache
_EXACT: Final = 2.0**53
_IDENTITY_IDS: Final = 3
_STATUS: Final = np.isin(np.arange(UNLISTED_ID + 1), sorted(STATUS_IDS))
_NOT_PLAIN: Final = "[^ -~]"


@dataclass(slots=True)
class Read:
    """``parts``: rows as columns. ``left``: positions in ``payloads`` of the messages not read."""

    parts: list[Part] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)
    left: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Chunk:
    positions: list[int] = field(default_factory=list)  # in payloads
    texts: list[bytes] = field(default_factory=list)  # without an array's brackets
    is_array: list[bool] = field(default_factory=list)

    def add(self, position: int, text: bytes, *, is_array: bool) -> int:
        self.positions.append(position)
        self.texts.append(text)
        self.is_array.append(is_array)
        return len(text)

    def without(self, bad: Bools) -> "_Chunk":
        keep = np.flatnonzero(~bad).tolist()
        return _Chunk(
            [self.positions[i] for i in keep], [self.texts[i] for i in keep], [self.is_array[i] for i in keep]
        )


def read_arrays(payloads: Sequence[bytes], messages: Sequence[int], limits: CodecLimits) -> Read:
    """Read those of ``payloads`` that are readings or arrays in the plain form.

    ``messages[i]`` is what the rows of ``payloads[i]`` get as message number.
    """
    read = Read()
    for chunk in _chunks(payloads, limits, read.left):
        _read_chunk(chunk, messages, limits, read)
    read.left.sort()
    return read


def _chunks(payloads: Sequence[bytes], limits: CodecLimits, left: list[int]) -> Iterator[_Chunk]:
    """Payloads that look like it from outside, in portions; the positions of the others go to ``left``."""
    chunk, size = _Chunk(), 0
    for position, payload in enumerate(payloads):
        if len(payload) > limits.max_message_bytes:
            left.append(position)
        elif payload[:3] == b'[{"' and payload[-2:] == b"}]":
            size += chunk.add(position, payload[1:-1], is_array=True)
        elif payload[:2] == b'{"' and payload[-1:] == b"}":
            size += chunk.add(position, payload, is_array=False)
        else:
            left.append(position)
        if size >= CHUNK_BYTES:
            yield chunk
            chunk, size = _Chunk(), 0
    if chunk.texts:
        yield chunk


def _read_chunk(chunk: _Chunk, messages: Sequence[int], limits: CodecLimits, read: Read) -> None:
    buffer = scan.join(chunk.texts)
    quotes = scan.quotes_of(buffer)
    bad = scan.unreadable(buffer, quotes)
    if bad.any():
        read.left.extend(chunk.positions[i] for i in np.flatnonzero(bad).tolist())
        rest = chunk.without(bad)
        if rest.texts:
            _read_chunk(rest, messages, limits, read)
        return
    tokens = scan.scan(buffer, quotes)
    readings = np.bincount(tokens.row_message, minlength=len(chunk.texts))
    tokens.bad[readings > np.where(chunk.is_array, limits.max_readings_per_message, 1)] = True
    readers = _Readers(buffer, tokens)
    read.parts.append(readers.part(np.array([messages[i] for i in chunk.positions], np.uint32)))
    read.unlisted.update(readers.unlisted())
    read.left.extend(chunk.positions[i] for i in np.flatnonzero(tokens.bad).tolist())


class _Readers:
    """The tokens of one chunk, read as what their keys say.

    Construction finds every message that must be left over (``tokens.bad``), so that ``frame`` and ``unlisted``
    speak of the others only.
    """

    def __init__(self, buffer: scan.Texts, tokens: scan.Tokens) -> None:
        self._buffer, self._tokens = buffer, tokens
        self._ids = name_ids(buffer.words, tokens.key_start, tokens.key_end)
        self._rows = tokens.row_message.size
        self._check_unique()
        self._serial, self._kind, self._ts = self._read_serials(), self._read_kinds(), self._read_times()
        self._field, self._value = self._read_fields()
        self._unlisted_names = self._read_unlisted()

    def _leave_rows(self, rows: I64) -> None:
        self._tokens.bad[self._tokens.row_message[rows]] = True

    def _leave_tokens(self, tokens: I64) -> None:
        self._leave_rows(self._tokens.row[tokens])

    def _check_unique(self) -> None:
        """No listed key stands twice in a reading."""
        cell = self._ids * self._rows + self._tokens.row
        seen = np.zeros((UNLISTED_ID + 1) * self._rows, np.bool_)
        seen[cell] = True
        listed = np.flatnonzero(self._ids != UNLISTED_ID)
        if np.count_nonzero(seen[: UNLISTED_ID * self._rows]) < listed.size:
            order = listed[np.argsort(cell[listed], kind="stable")]
            self._leave_tokens(order[1:][np.diff(cell[order]) == 0])

    def _one_per_row(self, identity: int) -> I64:
        """The token of each row whose key is ``identity``; readings without are left over."""
        tokens = np.flatnonzero(self._ids == identity)
        found = np.full(self._rows, -1, np.int64)
        found[self._tokens.row[tokens]] = tokens
        self._leave_rows(np.flatnonzero(found < 0))
        return found

    def _read_serials(self) -> pl.Series:
        tokens = self._one_per_row(SERIAL_ID)
        start, end = self._tokens.value_start[tokens], self._tokens.value_end[tokens]
        length = end - start
        self._leave_rows(
            np.flatnonzero(~self._tokens.is_text[tokens] | (length < 1) | (length > MAX_SERIAL_LENGTH))
        )
        serials = texts(self._buffer, start, end)
        if not self._buffer.ascii_only:
            self._leave_rows(np.flatnonzero(serials.str.contains(_NOT_PLAIN).to_numpy()))
        return serials

    def _read_kinds(self) -> U8:
        tokens = self._one_per_row(KIND_ID)
        codes = kind_codes(self._buffer.words, self._tokens.value_start[tokens], self._tokens.value_end[tokens])
        self._leave_rows(np.flatnonzero(~self._tokens.is_text[tokens] | (codes == 0)))
        return codes

    def _read_times(self) -> I64:
        tokens = self._one_per_row(TS_ID)
        start, end = self._tokens.value_start[tokens], self._tokens.value_end[tokens]
        at = np.zeros(self._rows, np.int64)
        ok = np.zeros(self._rows, np.bool_)
        is_text = self._tokens.is_text[tokens]
        rows = np.flatnonzero(is_text)
        if rows.size:
            at[rows], ok[rows] = texts_us(self._buffer.words, start[rows], end[rows])
        rows = np.flatnonzero(~is_text)
        if rows.size:
            first = self._tokens.first[tokens[rows]]
            value, types = read_literals(self._buffer, start[rows], end[rows], first)
            whole = (types == NUMBER) & (np.abs(value) < _EXACT) & (value == np.floor(value))
            at[rows] = np.where(whole, value, 0).astype(np.int64) * 1000
            ok[rows] = whole
        self._leave_rows(np.flatnonzero(~ok))
        return at

    def _read_fields(self) -> tuple[I64, F64]:
        """The tokens that hold a listed field's number, and the numbers; nulls are in neither."""
        tokens = np.flatnonzero((self._ids >= _IDENTITY_IDS) & ~self._tokens.is_text)
        start, end = self._tokens.value_start[tokens], self._tokens.value_end[tokens]
        value, types = read_literals(self._buffer, start, end, self._tokens.first[tokens])
        ids = self._ids[tokens]
        listed = ids != UNLISTED_ID
        wrong = (types == WRONG) | (listed & (types == BOOLEAN))
        whole = np.flatnonzero(_STATUS[ids] & (types == NUMBER))
        wrong[whole] |= (np.abs(value[whole]) >= _EXACT) | (value[whole] != np.floor(value[whole]))
        self._leave_tokens(tokens[wrong])
        is_text = np.flatnonzero(self._tokens.is_text & (self._ids >= _IDENTITY_IDS) & (self._ids != UNLISTED_ID))
        self._leave_tokens(is_text)
        self._null = tokens[types == NULL]
        good = np.flatnonzero(listed & (types == NUMBER))
        fields = tokens[good]
        has_value = np.zeros(self._rows, np.bool_)
        has_value[self._tokens.row[fields]] = True
        self._leave_rows(np.flatnonzero(~has_value))
        return fields, value[good]

    def _read_unlisted(self) -> pl.DataFrame | None:
        """Unlisted keys as (token, row, name); a name twice in a reading leaves its message over."""
        tokens = np.flatnonzero(self._ids == UNLISTED_ID)
        if not tokens.size:
            return None
        names = texts(self._buffer, self._tokens.key_start[tokens], self._tokens.key_end[tokens])
        found = pl.DataFrame({"token": tokens, "row": self._tokens.row[tokens], "name": names})
        twice = found.select("row", "name").is_duplicated()
        if twice.any():
            self._leave_rows(found.filter(twice)["row"].to_numpy())
        return found

    def part(self, messages: npt.NDArray[np.uint32]) -> Part:
        """The rows of all messages that are not left over; ``messages``: their numbers."""
        bad_row = self._tokens.bad[self._tokens.row_message]
        tokens, value = self._field, self._value
        identity = Identity(messages[self._tokens.row_message], self._serial, self._kind, self._ts)
        rows = None
        if bad_row.any():
            rows = np.flatnonzero(~bad_row)
            good = np.flatnonzero(~bad_row[self._tokens.row[tokens]])
            tokens, value = tokens[good], value[good]
        row, ids = self._tokens.row[tokens], self._ids[tokens]
        fields = np.flatnonzero(np.bincount(ids, minlength=UNLISTED_ID))
        slot = np.zeros(UNLISTED_ID, np.int64)
        slot[fields] = np.arange(fields.size)
        cells = np.full((fields.size, self._rows), np.nan)
        cells.reshape(-1)[slot[ids] * self._rows + row] = value
        part = Part(identity, {LISTED[i]: cells[slot[i]] for i in fields.tolist()})
        return part if rows is None else part.take(rows)

    def unlisted(self) -> Counter[str]:
        """How many values each unlisted name has in messages that are not left over."""
        if self._unlisted_names is None:
            return Counter()
        found = self._unlisted_names
        counted = ~self._tokens.bad[self._tokens.row_message[found["row"].to_numpy()]]
        counted &= ~np.isin(found["token"].to_numpy(), self._null)
        names = found.filter(pl.Series(counted))["name"].value_counts()
        return Counter(dict(names.iter_rows()))
