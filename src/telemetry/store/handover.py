"""Handing over: a device is replaced and its series goes on, or a home is sold and everything begins anew.

A serial is in memory only while it is sealed again; it stands in no statement, event or error.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from telemetry.errors import RegistryError
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import BLIND_BYTES, MAX_SERIAL_LENGTH, ChangeKind, new_key
from telemetry.privacy.keys import Opener, Purpose, Sealer
from telemetry.store.administration import Administration
from telemetry.store.registration import NewSite, OwnerRef, Registration
from telemetry.store.settling import mark_changed
from telemetry.store.sql import queries

_SQL: Final = queries("handover")


@dataclass(frozen=True, slots=True)
class Replaced:
    """``retired_key``: the device as which the new serial had enrolled by itself, if it had."""

    device_key: int
    retired_key: int | None


@dataclass(frozen=True, slots=True)
class Sold:
    """``devices``: old key → new key. The old ones are retired, and their series stays the old owner's."""

    site_key: int
    new_site_key: int
    tenure_from: datetime
    gateways: int
    devices: dict[int, int]


@dataclass(frozen=True, slots=True)
class _Passing:
    """What passes from whom to whom, within one transaction."""

    registration: Registration
    owner_key: int
    opener: Opener
    buyer: OwnerRef
    site_key: int
    new_site_key: int


class Handover(Administration):
    """The registry, with what changes hands in it.

    Locks are taken in the order in which compiling a plan takes them: owner's plan, enrolment, rows, version, marks.
    """

    async def replace_device(self, device_key: int, serial: str) -> Replaced:
        """Another machine takes a device's place: from now on its serial is this one, and the series goes on.

        If the new serial has enrolled by itself at the site, that device is retired; what it has sent stays its own.

        Raises:
            RegistryError: the device is unknown, retired or of an erased owner, has this serial already, or the
                serial enrolled as another kind of device.

        """
        if not 0 < len(serial) <= MAX_SERIAL_LENGTH or not serial.isprintable():
            raise RegistryError(f"a serial has 1 to {MAX_SERIAL_LENGTH} printable characters")
        async with self.registering() as registration:
            await self._connection.execute(_SQL["lock_enrolment_of_device"], device_key)
            row = await self._connection.fetchrow(_SQL["device"], device_key)
            if row is None:
                raise RegistryError("the device is unknown or retired", remedy="`telemetry device list`")
            retired_key = await self._retire_stub(registration, row, serial)
            await self._connection.execute(_SQL["set_serial"], device_key, self._blind.serial(serial))
            sealer = Sealer(row["public_key"])
            sealed = sealer.seal(serial.encode(), purpose=Purpose.DEVICE_SERIAL, subject_key=device_key)
            await self._connection.execute(_SQL["seal_serial"], row["owner_key"], device_key, sealed)
            registration.events.append(("device.replace", row["owner_key"], device_key, 1))
            registration.changes.append((ChangeKind.SITE, row["site_key"]))
        return Replaced(device_key, retired_key)

    async def sell_site(self, site_key: int, to_owner_key: int, new: NewSite, at: datetime | None = None) -> Sold:
        """End a tenure at ``at`` (now) and begin the next, with new keys for site and devices.

        Gateways go on under their names and credentials, for the new site. Neither owner sees the other's tenure:
        what was measured before ``at`` and arrives later is withheld, and what was stored since ``at`` is shown to
        nobody. Names and place of the old site are the old owner's and stay there; ``new`` has the new owner's.

        Raises:
            RegistryError: the site is unknown or handed over already, an owner is unknown or erased or the same, or
                ``at`` lies ahead or before the old tenure.

        """
        async with self.registering() as registration:
            buyer = await self._owner("owner_of_owner", to_owner_key, "owner")
            new_site_key = registration.site(buyer, new)
            await self.write(registration)
            await self._connection.execute(_SQL["lock_enrolment"], site_key)
            site = await self._connection.fetchrow(_SQL["site"], site_key)
            since = _checked(site, buyer, at)
            opener = await self._needed_ring().opener(site["owner_key"])
            await self._connection.execute(_SQL["end_tenure"], site_key, since)
            await self._connection.execute(_SQL["begin_tenure"], new_site_key, since)
            passing = _Passing(registration, site["owner_key"], opener, buyer, site_key, new_site_key)
            gateways = await self._move_gateways(passing)
            devices = await self._renew_devices(passing)
            registration.events.append(("site.sell", site["owner_key"], site_key, len(devices)))
            registration.events.append(("site.buy", to_owner_key, new_site_key, len(devices)))
            await self.write(registration)
            changes = [(ChangeKind.SITE, site_key), (ChangeKind.SITE, new_site_key), *registration.changes]
            await self._connection.fetchval(self._sql["bump_version"], *map(list, zip(*changes, strict=True)))
            registration.changes.clear()
            await mark_changed(self._connection, sorted((site["owner_key"], to_owner_key)))
        return Sold(site_key, new_site_key, since, len(gateways), devices)

    async def _retire_stub(self, registration: Registration, row: Any, serial: str) -> int | None:
        """Retire the device of the site that has the serial, if there is one: its key."""
        blind = self._blind.serial(serial)
        if bytes(row["serial_blind"]) == blind:
            raise RegistryError("the device has this serial already")
        stub = await self._connection.fetchrow(_SQL["device_with"], row["site_key"], blind)
        if stub is None:
            return None
        if stub["kind"] != row["kind"]:
            enrolled, replaced = (DeviceKind(one["kind"]).label for one in (stub, row))
            raise RegistryError(f"this serial enrolled as {enrolled} and cannot replace a device of kind {replaced}")
        key: int = stub["device_key"]
        await self._retire([key])
        registration.events.append(("device.retire", row["owner_key"], key, 1))
        return key

    async def _retire(self, device_keys: list[int]) -> None:
        """No serial leads to these devices any more."""
        blinds = [secrets.token_bytes(BLIND_BYTES) for _ in device_keys]
        await self._connection.execute(_SQL["retire"], device_keys, blinds)

    async def _move_gateways(self, passing: _Passing) -> list[int]:
        rows = await self._connection.fetch(_SQL["gateways"], passing.site_key)
        keys = [row["gateway_key"] for row in rows]
        await self._connection.execute(_SQL["move_gateways"], keys, passing.new_site_key)
        await self._reseal(passing, Purpose.GATEWAY_NAME, {key: key for key in keys})
        passing.registration.changes += [(ChangeKind.GATEWAY, key) for key in keys]
        return keys

    async def _renew_devices(self, passing: _Passing) -> dict[int, int]:
        rows = await self._connection.fetch(_SQL["devices"], passing.site_key)
        renewed = {row["device_key"]: new_key() for row in rows}
        await self._retire(list(renewed))
        columns = ([row[name] for row in rows] for name in ("gateway_key", "kind", "serial_blind"))
        await self._connection.execute(_SQL["add_devices"], passing.new_site_key, list(renewed.values()), *columns)
        await self._reseal(passing, Purpose.DEVICE_SERIAL, renewed)
        return renewed

    async def _reseal(self, passing: _Passing, purpose: Purpose, renewed: dict[int, int]) -> None:
        """Seal the old owner's values of ``purpose`` to the new owner: old subject → new subject."""
        kind, attribute = purpose.value.split(".")
        rows = await self._connection.fetch(_SQL["sealed"], passing.owner_key, kind, attribute, list(renewed))
        for row in rows:
            value = passing.opener.open(row["sealed"], purpose=purpose, subject_key=row["subject_key"])
            subject = renewed[row["subject_key"]]
            sealed = passing.buyer.sealer.seal(value, purpose=purpose, subject_key=subject)
            passing.registration.entries.append((passing.buyer.owner_key, kind, subject, attribute, sealed))
        if rows:
            passing.registration.events.append((f"{kind}.reseal", passing.owner_key, None, len(rows)))


def _checked(site: Any, buyer: OwnerRef, at: datetime | None) -> datetime:
    """When the new tenure begins. Raises RegistryError where there is nothing to hand over, or not then."""
    if site is None:
        raise RegistryError("the site is unknown or handed over already", remedy="`telemetry site list`")
    if buyer.owner_key == site["owner_key"]:
        raise RegistryError("the site is this owner's already", remedy="`telemetry site list`")
    since: datetime = at or site["now"]
    if since > site["now"] or (site["tenure_from"] is not None and since <= site["tenure_from"]):
        raise RegistryError("a site is handed over now or earlier, within the tenure that ends")
    return since
