"""What was published against what is stored, by a way of its own.

Reads the simulator's ledger and the tables, as superuser. It knows nothing of the pipeline: devices are found by
recomputing the blind index with the standard library's HMAC, rows come out by COPY, and every field of every
reading is compared. Reports hold numbers, never an identifier.
"""

import hmac
import io
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import polars as pl

from device_sim import ledger as ledgers
from telemetry.pipeline.sealing import SealedContent, open_content
from telemetry.ports import Keystore
from telemetry.privacy.keys import Opener, Purpose

_KEY = ("ts", "device_key")
_NOT_FIELDS = {*_KEY, "plan_version", "received_hour"}

_STRANGERS = (
    "SELECT coalesce(sum(readings * seen), 0)::bigint FROM readings.quarantine WHERE reason = 'unknown_gateway'"
)

Openers = Callable[[int], Awaitable[Opener]]
Number = tuple[int, int]  # (gateway key, number of a message)


@dataclass(frozen=True)
class Report:
    """The outcome, in numbers. Units are readings, or messages where the name says so."""

    published: int = 0  # distinct (gateway, serial, instant) in the ledgers
    stored: int = 0  # rows of these gateways' homes
    missing: int = 0  # acknowledged by the broker and not stored
    unexpected: int = 0  # stored and never published
    duplicates: int = 0  # rows beyond the first of a device's instant
    different: int = 0  # stored with another value, or with one field more or less
    poison_messages: int = 0
    unquarantined_messages: int = 0  # poison messages that quarantine has not seen
    wrongly_quarantined_messages: int = 0  # good messages in quarantine
    lost_messages: int = 0  # acknowledged, and with a reading that is not stored
    gap_messages: int = 0  # numbers that the service counts as missing
    strangers: int = 0  # quarantined readings of gateways that nobody knew: where acknowledged ones may have gone
    uncounted_messages: int = 0  # lost and not counted as missing, or counted as missing and not lost

    @property
    def exact(self) -> bool:
        """Stored = published, once each, all poison and nothing else in quarantine, no gaps."""
        return self.published > 0 and not any(
            (
                self.missing,
                self.unexpected,
                self.duplicates,
                self.different,
                self.unquarantined_messages,
                self.wrongly_quarantined_messages,
                self.gap_messages,
            )
        )

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {getattr(self, each.name)}" for each in fields(self))


@dataclass(frozen=True)
class Checker:
    """``connection``: asyncpg as superuser. ``openers`` gives an owner's Opener, for what lies in quarantine."""

    connection: Any
    keystore: Keystore
    openers: Openers

    async def compare(self, paths: Sequence[Path]) -> Report:
        """Compare the ledgers at ``paths`` with all that is stored for the homes of the gateways they name."""
        recorded = [ledgers.read(path) for path in paths]
        messages = pl.concat([each.messages for each in recorded])
        readings = pl.concat([each.distinct() for each in recorded], how="diagonal")
        carried = pl.concat([each.readings for each in recorded], how="diagonal")
        gateways = await self._gateways(messages["gateway"].unique().to_list())
        report, missing = await self._compare(readings, gateways)
        lost = _lost(messages, carried, missing, gateways)
        gaps = await self._gaps(gateways)
        return replace(
            report,
            lost_messages=len(lost),
            gap_messages=len(gaps),
            strangers=await self.connection.fetchval(_STRANGERS),
            uncounted_messages=len(lost ^ gaps),
            **await self._poison(messages, gateways),
        )

    async def compare_readings(self, readings: pl.DataFrame) -> Report:
        """Compare ``readings`` (gateway, serial, ts in µs, fields) with what is stored for their gateways' homes."""
        gateways = await self._gateways(readings["gateway"].unique().to_list())
        report, _ = await self._compare(readings.with_columns(acknowledged=True), gateways)
        return report

    async def quarantined(self, gateway: str) -> dict[int, list[str]]:
        """Why each of this gateway's messages lies in quarantine, by its number."""
        ((gateway_key, _, owner_key),) = (await self._gateways([gateway])).values()
        found: dict[int, list[str]] = {}
        for row, content in await self._quarantined(gateway_key, owner_key):
            found.setdefault(content.sequence, []).append(row["reason"])
        return found

    async def _compare(
        self, readings: pl.DataFrame, gateways: dict[str, tuple[int, int, int]]
    ) -> tuple[Report, pl.DataFrame]:
        """The part of the report about readings, and those that are missing."""
        devices = await self._devices(readings, gateways)
        expected = readings.join(devices, on=["gateway", "serial"], how="left")
        stored = await self._stored([site for _, site, _ in gateways.values()])
        kept = stored.unique(_KEY)
        missing = expected.filter("acknowledged").join(kept, on=_KEY, how="anti")
        report = Report(
            published=readings.height,
            stored=stored.height,
            missing=missing.height,
            unexpected=kept.join(expected, on=_KEY, how="anti").height,
            duplicates=stored.height - kept.height,
            different=_different(expected, kept),
        )
        return report, missing

    async def _gateways(self, names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """(gateway key, site key, owner key) by name."""
        rows = await self.connection.fetch(
            "SELECT g.name_blind, g.gateway_key, g.site_key, s.owner_key"
            " FROM consent.gateway AS g JOIN consent.site AS s USING (site_key)"
        )
        by_blind = {bytes(row["name_blind"]): tuple(row)[1:] for row in rows}
        return {name: by_blind[self._blind("gateway", name)] for name in names}

    async def _devices(self, readings: pl.DataFrame, gateways: dict[str, tuple[int, int, int]]) -> pl.DataFrame:
        """gateway, serial, device_key; null where no such device exists at the gateway's home."""
        rows = await self.connection.fetch("SELECT site_key, serial_blind, device_key FROM consent.device")
        known = {(row["site_key"], bytes(row["serial_blind"])): row["device_key"] for row in rows}
        pairs = readings.select("gateway", "serial").unique().rows()
        keys = [known.get((gateways[name][1], self._blind("serial", serial))) for name, serial in pairs]
        return pl.DataFrame(
            {
                "gateway": [name for name, _ in pairs],
                "serial": [serial for _, serial in pairs],
                "device_key": keys,
            },
            schema={"gateway": pl.String, "serial": pl.String, "device_key": pl.Int64},
        )

    def _blind(self, kind: str, value: str) -> bytes:
        parts = (b"telemetry/blind/1", kind.encode(), value.encode())
        text = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return hmac.digest(self.keystore.secret("blind_index"), text, "sha256")[:16]

    async def _stored(self, sites: Sequence[int]) -> pl.DataFrame:
        """Every hot and late row of these homes: ts (µs), device_key and a column for each field."""
        columns = await self.connection.fetch(
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'readings' AND table_name = 'hot'"
        )
        types = {row[0]: pl.Int64 if row[1] == "bigint" else pl.Float64 for row in columns}
        names = sorted(types.keys() - _NOT_FIELDS)
        listed = ", ".join(["(extract(epoch FROM ts) * 1000000)::bigint AS ts", "device_key", *names])
        mine = "device_key IN (SELECT device_key FROM consent.device WHERE site_key = ANY ($1))"
        query = " UNION ALL ".join(f"SELECT {listed} FROM readings.{t} WHERE {mine}" for t in ("hot", "late"))
        text = io.BytesIO()
        await self.connection.copy_from_query(query, sites, output=text, format="csv", header=True)
        schema = {"ts": pl.Int64, "device_key": pl.Int64, **{name: types[name] for name in names}}
        return pl.read_csv(text.getvalue(), schema=schema)

    async def _poison(self, messages: pl.DataFrame, gateways: dict[str, tuple[int, int, int]]) -> dict[str, int]:
        poison = messages.filter((pl.col("poison") != "") & pl.col("acknowledged"))
        bad = set(poison.select("gateway", "stream", "sequence").rows())
        counts = dict(poison.group_by("gateway").len().rows())
        unseen = wrong = 0
        for name, (gateway_key, _, owner_key) in gateways.items():
            seen = 0
            for row, content in await self._quarantined(gateway_key, owner_key):
                seen += row["seen"]
                wrong += (content.gateway, content.stream, content.sequence) not in bad
            unseen += max(0, counts.get(name, 0) - seen)
        return {
            "poison_messages": len(bad),
            "unquarantined_messages": unseen,
            "wrongly_quarantined_messages": wrong,
        }

    async def _quarantined(self, gateway_key: int, owner_key: int) -> list[tuple[Any, SealedContent]]:
        rows = await self.connection.fetch(
            "SELECT digest, sealed, seen, reason FROM readings.quarantine WHERE gateway_key = $1", gateway_key
        )
        if not rows:
            return []
        opener = await self.openers(owner_key)
        return [
            (
                row,
                open_content(
                    opener.open(row["sealed"], purpose=Purpose.QUARANTINE, subject_key=owner_key, bound=row["digest"])
                ),
            )
            for row in rows
        ]

    async def _gaps(self, gateways: dict[str, tuple[int, int, int]]) -> set[Number]:
        """The numbers from 1 to the highest that the service has not recorded."""
        rows = await self.connection.fetch(
            "SELECT gateway_key, generate_series(lower(gap), upper(gap) - 1) AS number"
            " FROM readings.sequence, unnest(int8multirange(int8range(1, highest + 1)) - received) AS gap"
            " WHERE gateway_key = ANY ($1)",
            [gateway_key for gateway_key, _, _ in gateways.values()],
        )
        return {(row["gateway_key"], row["number"]) for row in rows}


def _different(expected: pl.DataFrame, stored: pl.DataFrame) -> int:
    """Readings of both whose fields are not the same; a field that only one side knows is null on the other."""
    both = expected.join(stored, on=_KEY, how="inner", suffix="_stored")
    names = (set(expected.columns) | set(stored.columns)) - {*_KEY, "gateway", "serial", "kind", "acknowledged"}
    comparisons = []
    for name in names:
        if name in expected.columns and name in stored.columns:
            comparisons.append(pl.col(name).ne_missing(pl.col(f"{name}_stored")))
        else:
            comparisons.append(pl.col(name).is_not_null())
    return both.filter(pl.any_horizontal(comparisons)).height


def _lost(
    messages: pl.DataFrame,
    carried: pl.DataFrame,
    missing: pl.DataFrame,
    gateways: dict[str, tuple[int, int, int]],
) -> set[Number]:
    """Acknowledged messages that hold a reading which is not stored."""
    key = ["gateway", "serial", "ts"]
    without = carried.filter("acknowledged").join(missing.select(key), on=key, how="semi")
    return {(gateways[name][0], number) for name, number in without.select("gateway", "sequence").unique().rows()}
