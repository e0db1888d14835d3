"""What devices and sites are called, and where they are: tokens, real serials, places (rules 19, 23 and 24).

A token is a recipient's own and lasts as long as the epoch. Where serials are withheld altogether, a device has no
token of its own: it is the n-th of its kind at a site, which says nothing once devices come or go
(docs/decisions/0044-names.md).
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import h3.api.basic_int as h3
import polars as pl

from telemetry.errors import NotVisible
from telemetry.model.sharing import PlaceSetting, SerialSetting
from telemetry.privacy.tokens import OwnerSecret, Tokenizer, TokenKind
from telemetry.views.query import Query
from telemetry.views.sight import Place, SeenDevice, Sight

DEVICE_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "site": pl.String(),
    "device": pl.String(),
    "kind": pl.String(),
    "serial": pl.String(),  # null where it is not granted
    "place": pl.String(),  # a country, a region or an H3 cell; null where withheld
    "latitude": pl.Float64(),
    "longitude": pl.Float64(),
}


class RecipientKey(Protocol):
    """A recipient's key in effect (telemetry.store.keyring.RecipientSecret)."""

    version: int
    secret: bytes


class TokenKeys(Protocol):
    """Where tokens' keys come from (telemetry.store.keyring.KeyRing, as the role of the views)."""

    async def recipient_secret(self, recipient_key: int) -> Any:
        """The key in effect: a RecipientKey."""
        ...

    async def token_secrets(self, owner_keys: Sequence[int]) -> Mapping[int, bytes]:
        """The token secret of each owner that has one."""
        ...


class VaultOpener(Protocol):
    """Opens what is sealed. Asked only for what is granted; it leaves a trace of its own."""

    async def serials(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, str]:
        """Device key → serial, of (owner key, device key) pairs, where one is stored."""
        ...

    async def coordinates(self, subjects: Sequence[tuple[int, int]]) -> Mapping[int, tuple[float, float]]:
        """Site key → latitude and longitude (degrees, WGS 84), of (owner key, site key) pairs, where stored."""
        ...


Meant = tuple[int, int, int]
"""What a token stood for when it was made: its owner's key, a device's or a site's, the owner's epoch.

A plain tuple of numbers: there are very many, and the garbage collector does not visit these.
"""


@dataclass(frozen=True, slots=True)
class Listing:
    """All that has a name in a snapshot, n sites in the order of names.

    ``keys``, ``owners``, ``devices`` (n each): of the sites, and how many devices of each are seen. ``site_of``: the
    site's key by a site's or a device's token. ``made_of``: what the snapshot said; the same gives the same listing.
    """

    tokens: Sequence[str]
    keys: Sequence[int]
    owners: Sequence[int]
    devices: Sequence[int]
    site_of: Mapping[str, int]
    made_of: Any = None


class Keyed:
    """A recipient's tokenizer under the key in effect, and what its tokens stood for: hints, never an answer.

    At most ``capacity`` tokens are remembered, in two generations. ``listing``: the last one that was made.
    """

    __slots__ = ("_capacity", "_older", "_recent", "listing", "recipient_key", "tokenizer", "version")

    def __init__(self, recipient_key: int, version: int, tokenizer: Tokenizer, capacity: int = 200_000) -> None:
        self.recipient_key, self.version, self.tokenizer = recipient_key, version, tokenizer
        self._capacity = capacity
        self._recent: dict[str, Meant] = {}
        self._older: dict[str, Meant] = {}
        self.listing: Listing | None = None

    def meant(self, token: str) -> Meant | None:
        """What the token stood for."""
        return self._recent.get(token) or self._older.get(token)

    def learn(self, meant: Mapping[str, Meant]) -> None:
        """Remember what tokens stand for."""
        if len(self._recent) + len(meant) > self._capacity // 2:
            self._older, self._recent = self._recent, {}
        self._recent |= meant


class Names:
    """Makes names. One event loop; the keys of a recipient are asked for at every view, tokens are remembered."""

    def __init__(self, keys: TokenKeys, opener: VaultOpener | None = None) -> None:
        self._keys = keys
        self._opener = opener
        self._keyed: dict[int, Keyed] = {}
        # What opens keys and the vault may have one connection: one question at a time.
        self._asking, self._opening = asyncio.Lock(), asyncio.Lock()

    async def keyed(self, recipient_key: int | None) -> Keyed | None:
        """The tokenizer under the key in effect now. None for an owner, who has real names."""
        if recipient_key is None:
            return None
        async with self._asking:
            current = await self._keys.recipient_secret(recipient_key)
        known = self._keyed.get(recipient_key)
        if known is None or known.version != current.version:
            known = self._keyed[recipient_key] = Keyed(recipient_key, current.version, Tokenizer(current.secret))
        return known

    async def made(
        self, keyed: Keyed, kind: TokenKind, subjects: Sequence[int], owners: Sequence[int], epochs: Sequence[int]
    ) -> list[str | None]:
        """Tokens of n subjects of n owners under n epochs, None where the owner's key is gone.

        Keys are asked for where a token is not remembered, and not otherwise: to find a name, not to show one.
        """
        found = keyed.tokenizer.remembered(kind, subjects, epochs)
        missing = [index for index, token in enumerate(found) if token is None]
        if missing:
            secrets = await self._secrets({owners[index]: epochs[index] for index in missing})
            known = [index for index in missing if owners[index] in secrets]
            of = [subjects[index] for index in known], [owners[index] for index in known]
            for index, token in zip(known, keyed.tokenizer.tokens(kind, *of, secrets), strict=True):
                found[index] = token
        return found

    async def _secrets(self, epochs: Mapping[int, int]) -> dict[int, OwnerSecret]:
        """Of these owners under these epochs; those whose keys are destroyed are left out."""
        if not epochs:
            return {}
        async with self._asking:
            secrets = await self._keys.token_secrets(sorted(epochs))
        return {owner: OwnerSecret(epochs[owner], secret) for owner, secret in secrets.items()}

    async def of(self, sight: Sight, keyed: Keyed | None) -> "Named":
        """The names of all that is seen, in the order of names, made from keys as they are now."""
        devices = sight.devices
        if keyed is None:
            sites = {device.site_key: f"s_{device.site_key % 2**64:016x}" for device in devices}
            own = [f"d_{device.device_key % 2**64:016x}" for device in devices]
            return _named(devices, own, sites)
        tokenizer, epochs = keyed.tokenizer, sight.epochs
        owners = await self._secrets(epochs if devices else {})
        # Whose key is destroyed is erased: nothing of theirs has a name any more.
        known = [device for device in devices if device.owner_key in owners]
        tokens = tokenizer.tokens(TokenKind.DEVICE, [d.device_key for d in known], [d.owner_key for d in known], owners)
        of_site = {device.site_key: device.owner_key for device in known}
        made = tokenizer.tokens(TokenKind.SITE, list(of_site), list(of_site.values()), owners)
        keyed.learn({t: (d.owner_key, d.device_key, epochs[d.owner_key]) for t, d in zip(tokens, known, strict=True)})
        keyed.learn({t: (owner, site, epochs[owner]) for t, (site, owner) in zip(made, of_site.items(), strict=True)})
        return _named(known, tokens, dict(zip(of_site, made, strict=True)))

    async def frame(self, named: "Named", places: Mapping[int, Place]) -> pl.DataFrame:
        """DEVICE_SCHEMA of these devices, in their order."""
        real = [(d.owner_key, d.device_key) for d in named.devices if d.view.serial is SerialSetting.REAL]
        exact = {d.site_key: d.owner_key for d in named.devices if d.place is PlaceSetting.EXACT}
        pairs = [(owner, site) for site, owner in exact.items()]
        async with self._opening:
            serials = await self._opener.serials(real) if self._opener and real else {}
            where = await self._opener.coordinates(pairs) if self._opener and pairs else {}
        nowhere = (None, None)
        rows = [
            (
                named.sites[device.site_key],
                name,
                device.kind.label,
                serials.get(device.device_key) if device.view.serial is SerialSetting.REAL else None,
                place_shown(device.place, places.get(device.site_key)),
                *(where.get(device.site_key, nowhere) if device.place is PlaceSetting.EXACT else nowhere),
            )
            for device, name in zip(named.devices, named.names, strict=True)
        ]
        return pl.DataFrame(rows, schema=dict(DEVICE_SCHEMA), orient="row")


class Named:
    """Devices with their names (n each), sorted by site and name, and the names of their sites."""

    __slots__ = ("devices", "names", "sites")

    def __init__(self, devices: Sequence[SeenDevice], names: Sequence[str], sites: Mapping[int, str]) -> None:
        self.devices, self.names, self.sites = devices, names, sites

    def asked(self, query: Query) -> "Named":
        """Those that the query is about.

        Raises:
            NotVisible: a site or device asked for is not among them, for whatever reason.

        """
        sites, devices = query.sites, query.devices
        if (sites and not sites <= set(self.sites.values())) or (devices and not devices <= set(self.names)):
            raise NotVisible
        kept = [
            index
            for index, device in enumerate(self.devices)
            if (sites is None or self.sites[device.site_key] in sites)
            and (devices is None or self.names[index] in devices)
        ]
        return self.part(kept)

    def part(self, kept: Sequence[int]) -> "Named":
        """Some of them, by position."""
        return Named([self.devices[i] for i in kept], [self.names[i] for i in kept], self.sites)


def _named(devices: Sequence[SeenDevice], tokens: Sequence[str], sites: Mapping[int, str]) -> Named:
    order = sorted(range(len(devices)), key=lambda i: (sites[devices[i].site_key], tokens[i]))
    counted: dict[tuple[int, int], int] = {}
    names = []
    for index in order:
        device = devices[index]
        if device.view.serial is SerialSetting.WITHHELD:
            place = counted[device.site_key, device.kind] = counted.get((device.site_key, device.kind), 0) + 1
            names.append(f"{sites[device.site_key]}/{device.kind.label}-{place}")
        else:
            names.append(tokens[index])
    return Named([devices[index] for index in order], names, sites)


def place_shown(granted: PlaceSetting, place: Place | None) -> str | None:
    """A country, a region or a cell as it is granted; None where it is withheld, unknown or not labelled yet.

    A label that was made for a finer grant of another purpose is coarsened to what is granted for this one.
    """
    if place is None or granted is PlaceSetting.WITHHELD:
        return None
    if granted is PlaceSetting.COUNTRY:
        return place.country
    if granted is PlaceSetting.REGION:
        return place.region
    cell = granted.cell
    if cell is None or place.label is None:
        return None
    fine = h3.get_resolution(place.label)
    return str(h3.int_to_str(place.label if fine <= cell else h3.cell_to_parent(place.label, cell)))
