"""The registry in memory that readings are bound against: (gateway, serial) → device key and plan class.

A device is a serial at a site (rule 1). The store knows a serial by blind index only, which takes microseconds;
readings come by the million. So the first sight of a serial in this process computes its blind index and finds
the device; from then on a 128-bit keyed hash of (site, serial) finds it, a whole column at a time. No table here
holds a serial.

Two serials of one site share both words with a probability of 2^-128 a pair (10^12 pairs: 3 x 10^-27), under seeds
drawn when the process starts. Across sites not even a collision binds: the site of the device that was found is
compared with the gateway's own.

What a flood of made-up serials costs: where all devices of the site are known by hash and the gateway may enrol
no more, nothing but the lookup. Else one blind index for each distinct serial, at most ``FIRST_SIGHTS`` a gateway
and batch, and refused ones are remembered (``_REFUSED``, 0.8 MB, emptied when full).

Memory: 57 bytes a slot and 24 to 48 bytes of cells a device: 92 MB of arrays for a million devices. More figures
and what else was tried: docs/decisions/0004-binding-by-keyed-hash.md.
"""

import secrets
import threading
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.errors import RegistryError
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import MAX_SERIAL_LENGTH, Gateway
from telemetry.privacy.bound import Bound, Unknown
from telemetry.privacy.devices import DeviceTable
from telemetry.privacy.gateways import GatewayTable, SiteMix
from telemetry.privacy.hashindex import HashIndex, Slots, Words
from telemetry.privacy.plan import Plan

FIRST_SIGHTS: Final = 1024  # serials of one gateway and batch that are looked up by blind index, at least
_REFUSED: Final = 32_768
_BLOCK: Final = 16_384  # rows: temporaries of 128 KB stay in the cache and in the allocator
_KINDS: Final = {int(kind): kind for kind in DeviceKind}

Rows = npt.NDArray[np.int64]


class Blind(Protocol):
    """Keyed digests of 16 bytes (privacy.keys.BlindIndex)."""

    def gateway(self, name: str) -> bytes: ...

    def serial(self, serial: str) -> bytes: ...


class Registry:
    """Gateways, devices and the plan of one moment, changed in place. Safe from any thread: one lock."""

    def __init__(self, blind: Blind, gateways: Iterable[Gateway], devices: pl.DataFrame, plan: Plan) -> None:
        self._lock = threading.Lock()
        self._blind = blind
        self._hash_seeds = (secrets.randbits(64), secrets.randbits(64))
        self._mix = SiteMix((secrets.randbits(64), secrets.randbits(64)))
        self._gateways = GatewayTable(blind.gateway)
        self._devices = DeviceTable(self._mix, devices.height)
        self._refused = HashIndex(_REFUSED)
        self._refused_count = 0
        self._plan = plan
        self.update(gateways=list(gateways), devices=devices)

    @property
    def plan(self) -> Plan:
        """The current plan."""
        return self._plan

    @property
    def nbytes(self) -> int:
        """Bytes of the devices' arrays."""
        return self._devices.nbytes + self._refused.nbytes

    def __len__(self) -> int:
        return len(self._devices)

    @property
    def gateways(self) -> int:
        """How many gateways are known."""
        return len(self._gateways)

    def gateway_slots(self, names: Sequence[str]) -> Slots:
        """The slot of each message's gateway, by name; 0 where nobody has enrolled it. int32[m]."""
        with self._lock:
            return self._gateways.slots(names)

    def gateway_keys(self, slots: Slots, now_us: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Gateway key and owner key of each slot, 0 for slot 0. Two int64[m].

        The owner key is 0 too while a message may hold readings from before the site was this owner's.
        """
        with self._lock:
            table = self._gateways
            young = table.tenure_from_us[slots] > now_us - table.backfill_us[slots]
            return table.gateway_key[slots], np.where(young, np.int64(0), table.owner_key[slots])

    def speaking(self, slots: Slots) -> npt.NDArray[np.int64]:
        """The key of each slot's gateway, 0 where it is unknown, revoked, or its owner erased. int64[m]."""
        with self._lock:
            return np.where(self._gateways.silent[slots], np.int64(0), self._gateways.gateway_key[slots])

    def departed(self, gateway_keys: Sequence[int]) -> list[int]:
        """Those of these keys whose gateways are unknown, revoked, their owners erased, or that have come to another
        site since this was asked last: what is remembered of them is of somebody who has left.
        """
        keys = np.array(gateway_keys, np.int64)
        with self._lock:
            slots = self._gateways.slots_of_keys(keys)
            moved = np.isin(keys, list(self._gateways.moved))
            self._gateways.moved.clear()
            return keys[(slots == 0) | self._gateways.silent[slots] | moved].tolist()  # type: ignore[no-any-return]

    def speaks(self, name: str) -> bool:
        """Whether the gateway of this name is enrolled, not revoked, and its owner not erased."""
        return bool(self.speaking(self.gateway_slots([name]))[0])

    def update(
        self,
        *,
        plan: Plan | None = None,
        gateways: Sequence[Gateway] = (),
        devices: pl.DataFrame | None = None,
        forget_gateways: Iterable[int] = (),
        forget_devices: Sequence[int] = (),
        whole_sites: Sequence[int] = (),
        whole: bool = False,
        only_at: int | None = None,
    ) -> bool:
        """Apply one change of the registry, all of it or nothing of it to every batch.

        ``gateways`` and ``devices`` (DEVICE_SCHEMA) are added, or replace those with the same gateway key or the
        same (site, blind index): a new plan class, a new device key for a new tenure. Well under a millisecond
        for a few devices, except where a table doubles (0.1 s at a million). ``whole_sites``: ``devices`` has all
        devices of these sites, any other known there is forgotten; ``whole``: all gateways and devices there are.
        ``only_at``: only while the plan has this version; False, and nothing done, if it has not.

        Raises:
            RegistryError: a device's plan class is not in the plan; nothing was changed.

        """
        with self._lock:
            if only_at is not None and only_at != self._plan.version:
                return False
            plan = plan or self._plan
            if self._highest_class(devices, plan) >= plan.classes:
                raise RegistryError("a device's plan class is not in the plan", remedy="load the registry again")
            self._plan = plan
            self._devices.forget(forget_devices, self._gateways.devices)
            if devices is not None and (whole or whole_sites):
                sites = None if whole else np.array(whole_sites, np.int64)
                self._devices.forget_slots(self._devices.absent(devices, sites), self._gateways.devices)
            self._gateways.forget((*forget_gateways, *(self._gateways.absent(gateways) if whole else ())))
            self._gateways.put(gateways)
            if devices is not None and devices.height:
                self._devices.put(devices, self._gateways)
            self._refused.clear()
            self._refused_count = 0
            return True

    def _highest_class(self, devices: pl.DataFrame | None, plan: Plan) -> int:
        """Of devices that could be without a class; all that are here have one, unless the plan loses some."""
        if plan.classes < self._plan.classes or not len(self._devices):
            return self._devices.highest_class(devices)
        highest = None if devices is None else devices["plan_class"].max()
        return highest if isinstance(highest, int) else -1

    def bind(self, rows: pl.DataFrame, gateway_slots: Slots, *, enrol: bool = True) -> Bound:
        """Find each row's device.

        ``rows``: DECODED_SCHEMA, n rows; ``gateway_slots``: int32[m], of the messages that ``message`` counts.
        Devices that may be enrolled come back in ``unknown``: enrol them, ``update(devices=…)``, and bind again
        with ``enrol=False``, which refuses (and remembers) whatever the store did not enrol.
        """
        with self._lock:
            gateways = self._gateways
            site = gateways.site_key[gateway_slots]
            message = rows["message"].to_numpy()
            hashes = self._hashes(rows)
            slots, device_key, plan_class = self._find(hashes, site, message)
            unknown: tuple[Unknown, ...] = ()
            if not slots.all():
                missing = np.flatnonzero((slots == 0) & (site != 0)[message])
                at = message.take(missing)
                mixes = self._mix(site[at])
                words = (hashes[0][missing] ^ mixes[0], hashes[1][missing] ^ mixes[1])
                unknown = self._first_sight(rows[missing], gateway_slots[at], words, enrol=enrol)
                found, device_key[missing] = self._devices.find(*words, site[at])
                plan_class[missing] = self._devices.plan_class[found]
            return Bound(
                rows=rows,
                plan=self._plan,
                device_key=device_key,
                plan_class=plan_class,
                unknown_gateway=gateway_slots == 0,
                revoked=gateways.revoked[gateway_slots],
                announced_only=gateways.announced_only[gateway_slots],
                backfill_us=gateways.backfill_us[gateway_slots],
                tenure_from_us=gateways.tenure_from_us[gateway_slots],
                unknown=unknown,
            )

    def _hashes(self, rows: pl.DataFrame) -> tuple[Words, Words]:
        """Two keyed hashes of every serial, in one call: each call is a hand-over to polars' own threads."""
        seeds = self._hash_seeds
        hashed = rows.select(first=pl.col("serial").hash(seeds[0]), second=pl.col("serial").hash(seeds[1]))
        return hashed["first"].to_numpy(), hashed["second"].to_numpy()

    def _find(
        self, hashes: tuple[Words, Words], site: npt.NDArray[np.int64], message: npt.NDArray[np.uint32]
    ) -> tuple[Slots, npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Slot, device key and plan class of every row, 0 where its hash is not known; in blocks for the cache.

        A row's words are two keyed hashes of its serial, each with the site's mix.
        """
        devices, mixes = self._devices, self._mix(site)
        slots = np.empty(message.size, np.int32)
        device_key, plan_class = np.empty(message.size, np.int64), np.zeros(message.size, np.int32)
        one_class = self._plan.classes == 1
        walks: list[tuple[npt.NDArray[Any], ...]] = []
        for start in range(0, message.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            of = message[block].astype(np.int64)
            first, second = (hashed[block] ^ mix.take(of) for hashed, mix in zip(hashes, mixes, strict=True))
            at = site.take(of)
            found, keys, walk = devices.probe(first, second, at)
            if walk.size:
                walks.append((walk + start, first[walk], second[walk], at[walk]))
            slots[block], device_key[block] = found, keys
            if not one_class:
                plan_class[block] = devices.plan_class.take(found)
        if walks:
            rows, first, second, at = (np.concatenate(parts) for parts in zip(*walks, strict=True))
            found, keys = devices.resume(first, second, at)
            slots[rows], device_key[rows] = found, keys
            plan_class[rows] = devices.plan_class.take(found)
        return slots, device_key, plan_class

    def _first_sight(
        self, rows: pl.DataFrame, gateway: Slots, words: tuple[Words, Words], *, enrol: bool
    ) -> tuple[Unknown, ...]:
        """Look serials up by blind index: register the hashes of known ones, return those that may be enrolled."""
        worth = self._worth_a_look(gateway)
        worth[worth] = self._refused.lookup(words[0][worth], words[1][worth]) == 0
        candidates = self._distinct(rows, gateway, np.flatnonzero(worth))
        if candidates.is_empty():
            return ()
        row = candidates["row"].to_numpy()
        first, second = words[0][row], words[1][row]
        blinds = [self._blind.serial(serial) for serial in candidates["serial"]]
        site = candidates["site"].to_numpy()
        slots = self._devices.find_blind(np.frombuffer(b"".join(blinds), np.uint8).reshape(-1, 16), site)
        found = slots > 0
        self._devices.see(slots[found], first[found], second[found])
        new = np.flatnonzero(~found)
        unknown, refused = self._proposals(candidates[new], [blinds[i] for i in new], enrol=enrol)
        self._refuse(first[new[refused]], second[new[refused]])
        return unknown

    def _worth_a_look(self, gateway: Slots) -> npt.NDArray[np.bool_]:
        """Per row: can an unknown serial of this gateway be a device not yet seen, or one to enrol?"""
        table = self._gateways
        distinct, inverse = np.unique(gateway, return_inverse=True)
        room = ~table.announced_only[distinct] & (table.devices[distinct] < table.device_limit[distinct])
        unseen = [self._devices.unseen(site) > 0 for site in table.site_key[distinct].tolist()]
        result: npt.NDArray[np.bool_] = (room | np.array(unseen, np.bool_))[inverse]
        return result

    def _distinct(self, rows: pl.DataFrame, gateway: Slots, worth: Rows) -> pl.DataFrame:
        """Distinct (site, serial) in order of appearance, with their first row, gateway and kind; bounded."""
        table, gateway = self._gateways, gateway[worth]
        return (
            rows.select("serial", "kind")[worth]
            .with_columns(
                pl.Series("row", worth),
                pl.Series("gateway", gateway),
                pl.Series("site", table.site_key[gateway]),
                pl.Series("cap", np.maximum(table.device_limit[gateway], FIRST_SIGHTS)),
            )
            .filter(pl.col("serial").str.len_chars().is_between(1, MAX_SERIAL_LENGTH))
            .group_by("site", "serial", maintain_order=True)
            .agg(pl.col("row", "gateway", "cap").first(), pl.col("kind").drop_nulls().first())
            .filter(pl.int_range(pl.len()).over("gateway") < pl.col("cap"))
        )

    def _proposals(
        self, new: pl.DataFrame, blinds: Sequence[bytes], *, enrol: bool
    ) -> tuple[tuple[Unknown, ...], list[int]]:
        """Which of the new devices may be enrolled, and the indices of those that may not."""
        table = self._gateways
        proposed: dict[int, int] = {}
        unknown: list[Unknown] = []
        refused: list[int] = []
        for index, (blind, row) in enumerate(zip(blinds, new.iter_rows(named=True), strict=True)):
            slot = row["gateway"]
            room = table.device_limit[slot] - table.devices[slot] - proposed.get(slot, 0)
            if not enrol or table.announced_only[slot] or room <= 0:
                refused.append(index)
                continue
            proposed[slot] = proposed.get(slot, 0) + 1
            unknown.append(
                Unknown(
                    gateway_key=int(table.gateway_key[slot]),
                    site_key=int(table.site_key[slot]),
                    owner_key=int(table.owner_key[slot]),
                    serial=row["serial"],
                    serial_blind=blind,
                    kind=_KINDS.get(row["kind"]),
                )
            )
        return tuple(unknown), refused

    def _refuse(self, first: Words, second: Words) -> None:
        first, second = first[:_REFUSED], second[:_REFUSED]
        if self._refused_count + first.size > _REFUSED:
            self._refused.clear()
            self._refused_count = 0
        slots = np.arange(first.size, dtype=np.int32) + np.int32(self._refused_count + 1)
        self._refused.insert(slots, first, second)
        self._refused_count += first.size
