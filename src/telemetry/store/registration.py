"""New owners, sites and gateways: checked, given keys, and sealed before anything is written.

No object here shows a name, an address or a place in its repr.
"""

import base64
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from telemetry.errors import InputError
from telemetry.model.identity import DEFAULT_BACKFILL_US, DEFAULT_DEVICE_LIMIT, ChangeKind, Enrolment, new_key
from telemetry.privacy.keys import TOKEN_SECRET_BYTES, BlindIndex, Purpose, Sealer, new_key_pair
from telemetry.privacy.location import cell_of
from telemetry.store.keyring import OwnerSecrets
from telemetry.store.places import checked_place

MAX_DEVICE_LIMIT: Final = 1_000_000
MAX_TEXT_LENGTH: Final = 500
DEFAULT_REGION: Final = "default"
# Names the broker's own users start with: a gateway of such a name would be given the worker's rights.
RESERVED_PREFIX: Final = "telemetry-"
_GATEWAY_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{2,63}")
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class NewOwner:
    """A home's owner. Name and e-mail are sealed; the region says where the owner's rows live."""

    name: str = field(repr=False)
    email: str = field(default="", repr=False)
    region: str = DEFAULT_REGION

    def __post_init__(self) -> None:
        _check_text("the owner's name", self.name, required=True)
        _check_text("the e-mail address", self.email)
        if self.email and "@" not in self.email:
            raise InputError("the e-mail address has no @")
        if not _REGION.fullmatch(self.region):
            raise InputError("a region has 1 to 32 lower-case letters, digits and '-'")


@dataclass(frozen=True, slots=True)
class NewSite:
    """A home. Name, address and coordinates (degrees, WGS 84) are sealed.

    Kept in clear, to be shown where it is granted: the H3 cell of resolution 7, computed here and never again;
    country (ISO 3166-1), region (ISO 3166-2), and the time zone (IANA) that the home's own days are counted in.
    """

    name: str = field(repr=False)
    address: str = field(default="", repr=False)
    latitude: float | None = field(default=None, repr=False)
    longitude: float | None = field(default=None, repr=False)
    country: str = field(default="", repr=False)
    region: str = field(default="", repr=False)
    timezone: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        _check_text("the site's name", self.name, required=True)
        _check_text("the address", self.address)
        if (self.latitude is None) != (self.longitude is None):
            raise InputError("latitude and longitude go together")
        for what, value, limit in (("latitude", self.latitude, 90), ("longitude", self.longitude, 180)):
            if value is not None and not (math.isfinite(value) and abs(value) <= limit):
                raise InputError(f"{what} must lie in -{limit} to {limit} degrees")
        self.place()

    def place(self) -> tuple[int | None, str | None, str | None, str]:
        """Cell, country, region and time zone, as they are stored.

        Raises:
            InputError: one of them cannot be, null island included.

        """
        located = self.latitude is not None and self.longitude is not None
        cell = cell_of(self.latitude, self.longitude) if located else None  # type: ignore[arg-type]  # both are given
        return (cell, *checked_place(self.country, self.region, self.timezone))


@dataclass(frozen=True, slots=True)
class NewGateway:
    """A machine in a home. Without a name it gets a random one, which says nothing about the home."""

    name: str = field(default="", repr=False)
    enrolment: Enrolment = Enrolment.AUTO
    device_limit: int = DEFAULT_DEVICE_LIMIT
    backfill_us: int = DEFAULT_BACKFILL_US

    def __post_init__(self) -> None:
        if self.name and not _GATEWAY_NAME.fullmatch(self.name):
            raise InputError("a gateway's name has 3 to 64 lower-case letters, digits and, after the first, '-'")
        if self.name.startswith(RESERVED_PREFIX):
            raise InputError(f"names that start with {RESERVED_PREFIX} are the service's own")
        check_limits(self.device_limit, self.backfill_us)


@dataclass(frozen=True, slots=True)
class IssuedGateway:
    """What the gateway's installer needs, given once: the credential is stored nowhere in clear."""

    gateway_key: int
    site_key: int
    name: str = field(repr=False)
    credential: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class OwnerRef:
    """An owner, existing or about to be written, and how to seal to it."""

    owner_key: int
    sealer: Sealer


@dataclass(slots=True)
class Registration:
    """Rows ready to be written, in the order of the arrays that the statements of administration.sql take."""

    blind: BlindIndex = field(repr=False)
    secrets: list[OwnerSecrets] = field(default_factory=list, repr=False)
    owners: list[tuple[int, str, bytes]] = field(default_factory=list)
    sites: list[tuple[int, int]] = field(default_factory=list)
    places: list[tuple[int, int | None, str | None, str | None, str]] = field(default_factory=list, repr=False)
    gateways: list[tuple[int, int, bytes, str, int, int]] = field(default_factory=list)
    entries: list[tuple[int, str, int, str, bytes]] = field(default_factory=list)
    events: list[tuple[str, int | None, int | None, int]] = field(default_factory=list)
    changes: list[tuple[ChangeKind, int]] = field(default_factory=list)  # for workers; stays until the commit

    def owner(self, new: NewOwner) -> OwnerRef:
        """Make an owner's key pair and token secret, and seal the owner's name to it."""
        owner_key, pair = new_key(), new_key_pair()
        self.secrets.append(OwnerSecrets(owner_key, pair.private, secrets.token_bytes(TOKEN_SECRET_BYTES)))
        self.owners.append((owner_key, new.region, pair.public))
        self.events.append(("owner.add", owner_key, owner_key, 1))
        owner = OwnerRef(owner_key, Sealer(pair.public))
        self._seal(owner, owner_key, [(Purpose.OWNER_NAME, new.name), (Purpose.OWNER_EMAIL, new.email)])
        return owner

    def site(self, owner: OwnerRef, new: NewSite) -> int:
        """The new site's key."""
        site_key = new_key()
        place = "" if new.latitude is None else f"{new.latitude!r},{new.longitude!r}"
        self.sites.append((site_key, owner.owner_key))
        self.places.append((site_key, *new.place()))
        self.events.append(("site.add", owner.owner_key, site_key, 1))
        self._seal(
            owner,
            site_key,
            [
                (Purpose.SITE_NAME, new.name),
                (Purpose.SITE_ADDRESS, new.address),
                (Purpose.SITE_COORDINATES, place),
            ],
        )
        return site_key

    def gateway(self, owner: OwnerRef, site_key: int, new: NewGateway) -> IssuedGateway:
        """The new gateway's name and credential (256 random bits)."""
        name = new.name or random_gateway_name()
        gateway_key = new_key()
        blind = self.blind.gateway(name)
        self.gateways.append((gateway_key, site_key, blind, new.enrolment.value, new.device_limit, new.backfill_us))
        self.events.append(("gateway.enrol", owner.owner_key, gateway_key, 1))
        self.changes.append((ChangeKind.GATEWAY, gateway_key))
        self._seal(owner, gateway_key, [(Purpose.GATEWAY_NAME, name)])
        return IssuedGateway(gateway_key, site_key, name, new_credential())

    def clear(self) -> None:
        """Forget the rows, once they are written."""
        lists = (self.secrets, self.owners, self.sites, self.places, self.gateways, self.entries, self.events)
        for rows in lists:
            rows.clear()

    def _seal(self, owner: OwnerRef, subject_key: int, values: Iterable[tuple[Purpose, str]]) -> None:
        for purpose, value in values:
            if value:
                kind, attribute = purpose.value.split(".")
                sealed = owner.sealer.seal(value.encode(), purpose=purpose, subject_key=subject_key)
                self.entries.append((owner.owner_key, kind, subject_key, attribute, sealed))


def random_gateway_name() -> str:
    """``gw-`` and 80 random bits in base32."""
    return "gw-" + base64.b32encode(secrets.token_bytes(10)).decode("ascii").lower()


def new_credential() -> str:
    """256 random bits as text."""
    return secrets.token_urlsafe(32)


def check_limits(device_limit: int | None, backfill_us: int | None) -> None:
    """Refuse limits that the database would refuse.

    Raises:
        InputError: naming the limit and its range.

    """
    if device_limit is not None and not 0 <= device_limit <= MAX_DEVICE_LIMIT:
        raise InputError(f"the device limit must lie in 0 to {MAX_DEVICE_LIMIT}")
    if backfill_us is not None and not 0 <= backfill_us < 2**62:
        raise InputError("the backfill limit must not be negative or longer than 146,000 years")


def _check_text(what: str, value: str, *, required: bool = False) -> None:
    if required and not value.strip():
        raise InputError(f"{what} is empty")
    if len(value) > MAX_TEXT_LENGTH:
        raise InputError(f"{what} is longer than {MAX_TEXT_LENGTH} characters")
    if not value.isprintable():
        raise InputError(f"{what} holds a control character")
