"""Gateways by slot: what the core must know of whoever published a message.

A slot is a small number that stays a gateway's own for the life of the process (a forgotten gateway's is never
given to another, so a batch under way cannot be attributed to a stranger). Slot 0 is "no gateway that we know".

Names: a message names its gateway; the registry knows it by blind index only. The first sight of a name computes
the blind index; then a dict keeps name → slot, in memory alone. Names that resolve to nothing are kept in a
second dict that is emptied when it is full, so that made-up names take neither memory nor much time.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from telemetry.model.identity import Enrolment, Gateway
from telemetry.privacy.hashindex import Slots, Words

_UNKNOWN_NAMES: Final = 4096
_SMALLEST: Final = 64


class SiteMix:
    """Two random functions from a site's key to 64 bits, drawn anew in every process.

    Combined with a serial's hash they make the words of (site, serial), so that a serial at one site says nothing
    about where the same serial at another lies. splitmix64's finaliser (Steele, Lea, Flood, OOPSLA 2014).
    """

    __slots__ = ("_seeds",)

    def __init__(self, seeds: tuple[int, int]) -> None:
        self._seeds = seeds

    def __call__(self, site_key: npt.NDArray[np.int64]) -> tuple[Words, Words]:
        """Two words for each of n site keys."""
        first, second = (self._mixed(site_key, seed) for seed in self._seeds)
        return first, second

    @staticmethod
    def _mixed(site_key: npt.NDArray[np.int64], seed: int) -> Words:
        x = site_key.view(np.uint64) ^ np.uint64(seed)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


class GatewayTable:
    """Columns by slot; slot 0 is unknown and belongs to no site. One thread at a time.

    ``site_key`` is 0 for a revoked gateway too: it speaks for no device. ``home_site_key`` keeps the real one.
    ``silent``: revoked, or its owner erased: nothing is remembered of it and nothing said to it.
    """

    def __init__(self, blind: Callable[[str], bytes]) -> None:
        self._blind = blind
        self._size = 1
        self._by_blind: dict[bytes, int] = {}
        self._by_key: dict[int, int] = {}
        self._by_name: dict[str, int] = {}
        self._blind_of: dict[int, bytes] = {}
        self._name_of: dict[int, str] = {}
        self._unknown_names: set[str] = set()
        self.moved: set[int] = set()  # keys of gateways that came to another site, until somebody has asked
        self.gateway_key = np.zeros(_SMALLEST, np.int64)
        self.site_key = np.zeros(_SMALLEST, np.int64)
        self.home_site_key = np.zeros(_SMALLEST, np.int64)
        self.owner_key = np.zeros(_SMALLEST, np.int64)
        self.backfill_us = np.zeros(_SMALLEST, np.int64)
        self.tenure_from_us = np.zeros(_SMALLEST, np.int64)
        self.revoked = np.zeros(_SMALLEST, np.bool_)
        self.silent = np.zeros(_SMALLEST, np.bool_)
        self.announced_only = np.zeros(_SMALLEST, np.bool_)
        self.device_limit = np.zeros(_SMALLEST, np.int64)
        self.devices = np.zeros(_SMALLEST, np.int64)

    def __len__(self) -> int:
        return len(self._by_key)

    def slots(self, names: Sequence[str]) -> Slots:
        """The slot of each message's gateway; 0 where nobody has enrolled it. int32[n]."""
        known = list(map(self._by_name.get, names))
        if None in known:
            known = [self._resolve(name) if slot is None else slot for name, slot in zip(names, known, strict=True)]
        return np.array(known, np.int32)

    def slots_of_keys(self, gateway_keys: npt.NDArray[np.int64]) -> Slots:
        """The slot of each gateway key; 0 where it is unknown. int32[n]."""
        get = self._by_key.get
        return np.fromiter((get(key, 0) for key in gateway_keys.tolist()), np.int32, gateway_keys.size)

    def put(self, gateways: Iterable[Gateway]) -> None:
        """Add gateways, or change those with the same key."""
        for gateway in gateways:
            slot = self._by_key.get(gateway.gateway_key)
            if slot is None:
                slot = self._size
                self._size += 1
                self._by_key[gateway.gateway_key] = slot
                self._reserve(slot)
            elif self.home_site_key[slot] not in {0, gateway.site_key}:
                self.moved.add(gateway.gateway_key)
            if self._blind_of.get(slot) != gateway.name_blind:
                self._unname(slot)
                self._blind_of[slot] = gateway.name_blind
                self._by_blind[gateway.name_blind] = slot
            self._write(slot, gateway)
        self._unknown_names.clear()

    def absent(self, gateways: Iterable[Gateway]) -> set[int]:
        """The keys of known gateways that are not among ``gateways``."""
        return self._by_key.keys() - {gateway.gateway_key for gateway in gateways}

    def forget(self, gateway_keys: Iterable[int]) -> None:
        """Take gateways out; their slots stay behind, revoked."""
        for key in gateway_keys:
            if slot := self._by_key.pop(key, 0):
                self._unname(slot)
                self.revoked[slot] = self.silent[slot] = True
                self.site_key[slot] = self.home_site_key[slot] = 0

    def _resolve(self, name: str) -> int:
        if (slot := self._by_name.get(name)) is not None:
            return slot
        if name in self._unknown_names:
            return 0
        slot = self._by_blind.get(self._blind(name), 0)
        if slot:
            self._by_name[name] = slot
            self._name_of[slot] = name
        else:
            if len(self._unknown_names) >= _UNKNOWN_NAMES:
                self._unknown_names.clear()
            self._unknown_names.add(name)
        return slot

    def _unname(self, slot: int) -> None:
        self._by_blind.pop(self._blind_of.pop(slot, b""), None)
        self._by_name.pop(self._name_of.pop(slot, ""), None)

    def _write(self, slot: int, gateway: Gateway) -> None:
        self.gateway_key[slot] = gateway.gateway_key
        self.home_site_key[slot] = gateway.site_key
        self.site_key[slot] = 0 if gateway.revoked else gateway.site_key
        self.owner_key[slot] = gateway.owner_key
        self.backfill_us[slot] = gateway.backfill_us
        self.tenure_from_us[slot] = gateway.tenure_from_us
        self.revoked[slot] = gateway.revoked
        self.silent[slot] = gateway.revoked or gateway.erased
        self.announced_only[slot] = gateway.enrolment is Enrolment.KNOWN
        self.device_limit[slot] = gateway.device_limit

    def _reserve(self, slot: int) -> None:
        if slot < self.gateway_key.size:
            return
        for name, column in vars(self).items():
            if isinstance(column, np.ndarray):
                larger = np.zeros(2 * column.size, column.dtype)
                larger[: column.size] = column
                setattr(self, name, larger)
