"""Devices by slot: their key, site, gateway and plan class, found by blind index and by keyed hash.

Slot 0 is no device. Freed slots are used again; a batch under way has copied what it needs.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from telemetry.privacy.gateways import GatewayTable, SiteMix
from telemetry.privacy.hashindex import HashIndex, Slots, Words

Keys = npt.NDArray[np.int64]


class DeviceTable:
    """Columns by slot and two indices into them. One thread at a time."""

    def __init__(self, mix: SiteMix, capacity: int) -> None:
        self._mix = mix
        self._by_blind = HashIndex(capacity)
        self._by_hash = HashIndex(capacity)
        self._unseen: dict[int, int] = {}  # site key → its devices whose hash is not known yet
        self._free: list[int] = []
        self._size = 1
        self._who: Keys = np.zeros((capacity + 1, 2), np.int64)  # site key, device key: one cache line for both
        self.plan_class = np.zeros(capacity + 1, np.int32)
        self._gateway = np.zeros(capacity + 1, np.int32)
        self._seen = np.zeros(capacity + 1, np.bool_)

    def __len__(self) -> int:
        return self._size - 1 - len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        columns = (self._who, self.plan_class, self._gateway, self._seen)
        return sum(column.nbytes for column in columns) + self._by_blind.nbytes + self._by_hash.nbytes

    def highest_class(self, changes: pl.DataFrame | None) -> int:
        """The highest plan class of any device once ``changes`` (DEVICE_SCHEMA) are put; -1 without devices."""
        classes = self.plan_class[1 : self._size]
        if changes is None or changes.is_empty():
            return int(classes.max(initial=-1))
        new = changes["plan_class"].to_numpy()
        if classes.max(initial=-1) > new.max():  # the highest one may be about to change
            slots = self.find_blind(changes["serial_blind"].to_numpy(), changes["site_key"].to_numpy())
            classes = np.delete(classes, slots[slots > 0] - 1)
        return int(max(classes.max(initial=-1), new.max()))

    def unseen(self, site_key: int) -> int:
        """How many of a site's devices are known by blind index only."""
        return self._unseen.get(site_key, 0)

    def find(self, first: Words, second: Words, site_key: Keys) -> tuple[Slots, Keys]:
        """Slots and device keys by keyed hash, of the site's own devices only. int32[n], int64[n]; 0 for none."""
        return self._at_site(self._by_hash.lookup(first, second), site_key)

    def probe(self, first: Words, second: Words, site_key: Keys) -> tuple[Slots, Keys, npt.NDArray[np.int64]]:
        """The first round of `find`: slots, device keys (0 for none), and the indices left for `resume`."""
        found, pending = self._by_hash.probe(first, second)
        return *self._at_site(found, site_key), pending

    def resume(self, first: Words, second: Words, site_key: Keys) -> tuple[Slots, Keys]:
        """The further rounds of `find`: slots and device keys."""
        return self._at_site(self._by_hash.resume(first, second), site_key)

    def find_blind(self, blind: npt.NDArray[np.uint8], site_key: Keys) -> Slots:
        """Slots by blind index (uint8[n, 16]), of the site's own devices only. int32[n], 0 for none."""
        return self._at_site(self._by_blind.lookup(*self._blind_words(blind, site_key)), site_key)[0]

    def see(self, slots: Slots, first: Words, second: Words) -> None:
        """Register the hashes of devices that were found by blind index. No slot twice."""
        for slot in slots[self._seen[slots]].tolist():
            self._by_hash.remove(slot)  # another spelling of the same serial: the last one seen is kept
        for site in self._who[slots[~self._seen[slots]], 0].tolist():
            self._count_unseen(site, -1)
        self._by_hash.insert(slots, first, second)
        self._seen[slots] = True

    def put(self, devices: pl.DataFrame, gateways: GatewayTable) -> None:
        """Add devices (DEVICE_SCHEMA), or change those with the same (site, blind index)."""
        site = devices["site_key"].to_numpy()
        blind = devices["serial_blind"].to_numpy()
        slots = self.find_blind(blind, site)
        new = np.flatnonzero(slots == 0)
        slots[new] = self._take_slots(new.size)
        fresh = slots[new]
        self._by_blind.insert(fresh, *self._blind_words(blind[new], site[new]))
        self._who[fresh, 0] = site[new]
        counted, count = np.unique(site[new], return_counts=True)
        for key, number in zip(counted.tolist(), count.tolist(), strict=True):
            self._count_unseen(key, number)
        np.subtract.at(gateways.devices, self._gateway[slots], 1)
        self._gateway[slots] = gateways.slots_of_keys(devices["gateway_key"].to_numpy())
        np.add.at(gateways.devices, self._gateway[slots], 1)
        gateways.devices[0] = 0
        self._who[slots, 1] = devices["device_key"].to_numpy()
        self.plan_class[slots] = devices["plan_class"].to_numpy()

    def absent(self, devices: pl.DataFrame, sites: Keys | None) -> list[int]:
        """Slots of devices at ``sites`` (None: anywhere) that are not among ``devices`` (DEVICE_SCHEMA)."""
        who = self._who[1 : self._size]
        if sites is None:
            here = np.flatnonzero(who[:, 1])
        elif sites.size == 1:  # a scan of a million takes a millisecond, and np.isin six
            here = np.flatnonzero(who[:, 0] == sites[0])
        else:
            here = np.flatnonzero(np.isin(who[:, 0], sites))
        found = self.find_blind(devices["serial_blind"].to_numpy(), devices["site_key"].to_numpy())
        slots: list[int] = np.setdiff1d(here + 1, found).tolist()
        return slots

    def forget(self, device_keys: Sequence[int], devices_of_gateway: Keys) -> None:
        """Take devices out."""
        self.forget_slots(self._slots_of_keys(device_keys), devices_of_gateway)

    def forget_slots(self, slots: Sequence[int], devices_of_gateway: Keys) -> None:
        """Take devices out, by slot."""
        for slot in slots:
            self._by_blind.remove(slot)
            self._by_hash.remove(slot)
            if not self._seen[slot]:
                self._count_unseen(int(self._who[slot, 0]), -1)
            devices_of_gateway[self._gateway[slot]] -= 1
            self._who[slot] = self._gateway[slot] = self.plan_class[slot] = 0
            self._seen[slot] = False
            self._free.append(slot)
        devices_of_gateway[0] = 0

    def _slots_of_keys(self, device_keys: Sequence[int]) -> list[int]:
        """Slots by device key: a scan (0.5 ms a key at a million), because nothing on a fast path asks."""
        used = self._who[1 : self._size, 1]
        return [int(slot) + 1 for key in device_keys if key for slot in np.flatnonzero(used == key)]

    def _at_site(self, slots: Slots, site_key: Keys) -> tuple[Slots, Keys]:
        who = self._who.take(slots, axis=0)
        strange = who[:, 0] != site_key
        if strange.any():
            slots[strange] = 0
            who[strange] = 0
        return slots, who[:, 1]

    def _blind_words(self, blind: npt.NDArray[np.uint8], site_key: Keys) -> tuple[Words, Words]:
        halves = np.ascontiguousarray(blind).view(np.uint64)
        first, second = self._mix(site_key)
        return halves[:, 0] ^ first, halves[:, 1] ^ second

    def _count_unseen(self, site: int, change: int) -> None:
        count = self._unseen.get(site, 0) + change
        if count:
            self._unseen[site] = count
        else:
            self._unseen.pop(site, None)

    def _take_slots(self, count: int) -> Slots:
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        fresh = range(self._size, self._size + count - len(reused))
        self._size = fresh.stop
        if self._size > len(self._who):
            self._reserve(max(self._size, 2 * len(self._who)))
        return np.array([*reused, *fresh], np.int32)

    def _reserve(self, size: int) -> None:
        for name in ("_who", "plan_class", "_gateway", "_seen"):
            column = getattr(self, name)
            larger = np.zeros((size, *column.shape[1:]), column.dtype)
            larger[: len(column)] = column
            setattr(self, name, larger)
