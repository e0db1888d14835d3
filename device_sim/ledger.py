"""The ledger: what a run published, in a file that is valid up to wherever the run was killed.

JSON lines. A message's line is written, by one write() to the file, before the message is handed to the network;
so whatever a broker ever got is in the ledger, even after SIGKILL (not after a power cut: nothing is fsynced).
Acknowledgements follow in lines of their own, gathered for up to ``ack_delay_s``: a kill loses the last of them,
so *acknowledged* is a lower bound and *published* an upper bound of what the broker has.

    {"t":"run", …}                                          first line: what wrote it
    {"t":"m","g":gateway,"s":stream,"q":sequence,"n":readings,"x":poison,"d":duplicate_of,"r":[reading …]}
    {"t":"a","g":gateway,"q":[sequence …]}                  the broker acknowledged
    {"t":"c","g":gateway,"q":[sequence …]}                  the service committed

A reading is ``{"serial","kind","ts" (µs since 1970 UTC),"f":{field: value}}``.
"""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson
import polars as pl

from device_sim.message import Message


class Ledger:
    """Writes one ledger. One thread. Close it, or use it as a context manager."""

    def __init__(self, path: Path, run: Mapping[str, Any] | None = None, *, ack_delay_s: float = 0.05) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        self._delay_s = ack_delay_s
        self._pending: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._since: float | None = None
        self._write([{"t": "run", "version": 1, **(run or {})}])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publishing(self, gateway: str, stream: str, message: Message) -> None:
        """Note ``message``, which is about to be published for the first time."""
        line: dict[str, Any] = {"t": "m", "g": gateway, "s": stream, "q": message.sequence, "n": message.readings}
        if message.poison:
            line["x"] = message.poison
        if message.duplicate_of:
            line["d"] = message.duplicate_of
        line["r"] = [
            {"serial": each.serial, "kind": each.kind, "ts": each.ts_us, "f": each.fields} for each in message.expected
        ]
        self._write([line])

    def acknowledged(self, gateway: str, sequence: int) -> None:
        """The broker acknowledged that message."""
        self._note("a", gateway, sequence)

    def committed(self, gateway: str, sequence: int) -> None:
        """The service's watermark covers that message."""
        self._note("c", gateway, sequence)

    def flush(self) -> None:
        """Write the acknowledgements gathered so far."""
        if self._pending:
            lines = [{"t": what, "g": gateway, "q": numbers} for (what, gateway), numbers in self._pending.items()]
            self._pending.clear()
            self._write(lines)
        self._since = None

    def close(self) -> None:
        """Flush and close; more than once is fine."""
        if self._fd >= 0:
            self.flush()
            os.close(self._fd)
            self._fd = -1

    def _note(self, what: str, gateway: str, sequence: int) -> None:
        now = time.monotonic()
        self._pending[what, gateway].append(sequence)
        if self._since is None:
            self._since = now
        elif now - self._since >= self._delay_s:
            self.flush()

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        data = memoryview(b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines))
        while data:
            data = data[os.write(self._fd, data) :]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A ledger read back.

    ``messages``: gateway, stream, sequence, readings, poison ("" for good ones), duplicate_of, acknowledged,
    committed. ``readings``: gateway, serial, kind, ts (µs since 1970 UTC), sequence, acknowledged, and a column
    for each field that occurs (null: that reading does not have it); repetitions of a reading are rows too.
    """

    run: Mapping[str, Any]
    messages: pl.DataFrame
    readings: pl.DataFrame

    @property
    def poison(self) -> pl.DataFrame:
        """The messages that must end in quarantine."""
        return self.messages.filter(pl.col("poison") != "")

    def distinct(self) -> pl.DataFrame:
        """One row for each (gateway, serial, ts): what must be stored if all of it arrived.

        ``acknowledged``: at least one message that carried the reading was.
        """
        key = ["gateway", "serial", "ts"]
        fields = [name for name in self.readings.columns if name not in {*key, "acknowledged", "sequence"}]
        return (
            self.readings.group_by(key, maintain_order=True)
            .agg(pl.col("acknowledged").any(), pl.col(fields).drop_nulls().first())
            .sort(key)
        )


@dataclass(slots=True)
class _Group:
    """Readings that have the same fields: columns under construction."""

    names: tuple[str, ...]
    keys: list[tuple[str, str, str, int, int, bool]] = field(default_factory=list)
    values: list[tuple[Any, ...]] = field(default_factory=list)

    def frame(self) -> pl.DataFrame:
        key = pl.DataFrame(self.keys, schema=_READING_KEY, orient="row")
        if not self.names:
            return key
        columns = zip(*self.values, strict=True)
        return key.with_columns(
            pl.Series(name, column, dtype=pl.Int64 if name.endswith(("_code", "_bits")) else pl.Float64)
            for name, column in zip(self.names, columns, strict=True)
        )


_READING_KEY = {
    "gateway": pl.String,
    "serial": pl.String,
    "kind": pl.String,
    "ts": pl.Int64,
    "sequence": pl.Int64,
    "acknowledged": pl.Boolean,
}
_MESSAGE = {
    "gateway": pl.String,
    "stream": pl.String,
    "sequence": pl.Int64,
    "readings": pl.Int64,
    "poison": pl.String,
    "duplicate_of": pl.Int64,
    "acknowledged": pl.Boolean,
    "committed": pl.Boolean,
}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a ledger. A torn last line (the writer was killed) is left out.

    Raises:
        ValueError: a line before the last is damaged, so this is no prefix of a ledger.

    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ValueError(f"line {number} of the ledger is not JSON: it was changed after the run") from error


def read(path: Path) -> Recorded:
    """Read a ledger, or the valid prefix that a killed run left."""
    run: dict[str, Any] = {}
    sent: list[dict[str, Any]] = []
    done: dict[str, set[tuple[str, int]]] = {"a": set(), "c": set()}
    for line in lines(path):
        what = line["t"]
        if what == "m":
            sent.append(line)
        elif what == "run":
            run = line
        else:
            done[what].update((line["g"], number) for number in line["q"])
    messages = [
        (
            m["g"],
            m["s"],
            m["q"],
            m["n"],
            m.get("x", ""),
            m.get("d", 0),
            *((m["g"], m["q"]) in done[x] for x in "ac"),
        )
        for m in sent
    ]
    return Recorded(
        run=run,
        messages=pl.DataFrame(messages, schema=_MESSAGE, orient="row"),
        readings=_frame(sent, done["a"]),
    )


def _frame(sent: list[dict[str, Any]], accepted: set[tuple[str, int]]) -> pl.DataFrame:
    groups: dict[tuple[str, ...], _Group] = {}
    for message in sent:
        acknowledged = (message["g"], message["q"]) in accepted
        for reading in message["r"]:
            names = tuple(reading["f"])
            group = groups.get(names) or groups.setdefault(names, _Group(names))
            group.keys.append(
                (message["g"], reading["serial"], reading["kind"], reading["ts"], message["q"], acknowledged)
            )
            group.values.append(tuple(reading["f"].values()))
    frames = [group.frame() for group in groups.values()] or [pl.DataFrame(schema=_READING_KEY)]
    return pl.concat(frames, how="diagonal").sort("gateway", "serial", "ts", "sequence")
