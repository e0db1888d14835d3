"""From names to owners, before anything is added up: a question about one home costs the settings of one home.

What a name stood for when it was last made is remembered as a hint. A hint only narrows: within the owners that it
points to names are made anew from the snapshot's settings and compared, so a wrong or outdated one shows nothing.
A name that is not found that way is looked for among all that has a name in the snapshot, by the same steps whether
it never existed, is another recipient's or was withdrawn (docs/decisions/0065-names-to-owners.md).
"""

import contextlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from telemetry.errors import NotVisible
from telemetry.privacy.tokens import TokenKind
from telemetry.store.sql import queries
from telemetry.views.naming import Keyed, Meant, Named, Names
from telemetry.views.query import Part, Query
from telemetry.views.sight import Seen, Sight, Viewer, look

_SQL: Final = queries("views")
_NOBODY: Final = (0,)  # no owner has this key
_LAST: Final = "\U0010ffff"  # after every name of a device


@dataclass(frozen=True, slots=True)
class _Site:
    """One site in the order of names. ``devices``: how many of it are seen."""

    token: str
    key: int
    owner: int
    devices: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All that has a name in the snapshot: sites in the order of names, and the site's key by device's token."""

    sites: Sequence[_Site]
    site_of: Mapping[str, int]


def guessed(keyed: Keyed | None, viewer: Viewer, query: Query) -> Viewer:
    """The viewer, narrowed to the owners that the names asked for point to; to nobody where they point to none."""
    asked = _heads(query)
    if keyed is None or viewer.scope is not None or not asked:
        return viewer
    meant = [keyed.meant(name) for name in asked]
    owners = tuple(sorted({each.owner for each in meant if each is not None}))
    return replace(viewer, scope=owners or _NOBODY)


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for: ``part`` of ``query``. ``narrowed``: the viewer as ``guessed`` when the snapshot began."""

    viewer: Viewer
    narrowed: Viewer
    query: Query
    part: Part


async def resolved(
    connection: Any, names: Names, keyed: Keyed | None, sought: Sought, now: datetime
) -> tuple[Sight, Named]:
    """The devices sought, named, and what is seen of their owners. ``keyed``: None for an owner.

    Raises:
        NotVisible: a site or device asked for is not seen, for whatever reason.

    """
    viewer, query, part = sought.viewer, sought.query, sought.part
    asked = _heads(query)
    if keyed is None or viewer.scope is not None or (not asked and part.is_whole):
        sight = await look(connection, sought.narrowed, now)
        return sight, _part((await names.of(sight, keyed)).asked(query), part)
    if asked and (seen := await _held(connection, keyed, asked)) is not None:
        sight = await look(connection, sought.narrowed, now, seen)
        with contextlib.suppress(NotVisible):
            return sight, _part((await names.of(sight, keyed)).asked(query), part)
    listing = await listed(connection, names, keyed)
    wanted = _wanted(listing, asked) if asked else listing.sites
    while True:
        chosen = _chosen(wanted, part)
        await connection.execute(_SQL["scope"], _scope(site.owner for site in chosen))
        sight = await look(connection, viewer, now)
        sight = sight.of_sites({site.key for site in chosen})
        named = _part((await names.of(sight, keyed)).asked(query), part)
        if named.devices or not chosen or chosen[-1].token == wanted[-1].token:
            return sight, named
        part = replace(part, after=(chosen[-1].token, _LAST))


async def listed(connection: Any, names: Names, keyed: Keyed) -> Listing:
    """All that has a name in the snapshot. Tokens that were never made are made and remembered."""
    await connection.execute(_SQL["scope"], "")
    row = await connection.fetchrow(_SQL["names"])
    devices, sites, owners, epochs = row["devices"], row["sites"], row["owners"], row["epochs"]
    counts: dict[int, int] = {}
    about: dict[int, tuple[int, int]] = {}
    for site, owner, epoch in zip(sites, owners, epochs, strict=True):
        counts[site] = counts.get(site, 0) + 1
        about[site] = owner, epoch
    site_keys = list(about)
    site_owners, site_epochs = [owner for owner, _ in about.values()], [epoch for _, epoch in about.values()]
    made = await names.made(keyed, TokenKind.SITE, site_keys, site_owners, site_epochs)
    found = [
        _Site(token, key, owner, counts[key])
        for token, key, owner in zip(made, site_keys, site_owners, strict=True)
        if token is not None
    ]
    tokens = await names.made(keyed, TokenKind.DEVICE, devices, owners, epochs)
    by_token = {
        token: Meant(owner, device, epoch)
        for token, device, owner, epoch in zip(tokens, devices, owners, epochs, strict=True)
        if token is not None
    }
    keyed.learn(by_token)
    keyed.learn({site.token: Meant(site.owner, site.key, about[site.key][1]) for site in found})
    site_of = {token: site for token, site in zip(tokens, sites, strict=True) if token is not None}
    return Listing(sorted(found, key=lambda site: site.token), site_of)


async def _held(connection: Any, keyed: Keyed, asked: Iterable[str]) -> Seen | None:
    """What is seen of the owners that hints point to; None unless every hint holds in the snapshot.

    One holds where what it points to is seen, under the epoch that its name is of.
    """
    row = await connection.fetchrow(_SQL["names"])
    seen = {(key, epoch) for name in ("devices", "sites") for key, epoch in zip(row[name], row["epochs"], strict=True)}
    meant = [keyed.meant(name) for name in asked]
    if not all(each is not None and (each.subject, each.epoch) in seen for each in meant):
        return None
    return row["devices"], sorted(set(row["sites"]))


def _wanted(listing: Listing, asked: Iterable[str]) -> Sequence[_Site]:
    by_token = {site.token: site.key for site in listing.sites}
    keys = {by_token.get(name, listing.site_of.get(name)) for name in asked}
    if None in keys:
        raise NotVisible
    return [site for site in listing.sites if site.key in keys]


def _chosen(wanted: Sequence[_Site], part: Part) -> Sequence[_Site]:
    """The sites that hold the part: whole ones, next to each other in the order of names."""
    first, _ = part.after or ("", "")
    last, _ = part.through or (_LAST, "")
    chosen: list[_Site] = []
    devices = 0
    for site in wanted[bisect_left(wanted, first, key=lambda site: site.token) :]:
        full = part.at_most is not None and devices >= part.at_most
        if full or site.token > last or (part.at_most_sites is not None and len(chosen) > part.at_most_sites):
            break
        chosen.append(site)
        # Of the site that the part before ended in, there may be no device left.
        devices += 0 if site.token == first else site.devices
    return chosen


def _part(named: Named, part: Part) -> Named:
    if part.is_whole:
        return named
    kept: list[int] = []
    sites: dict[int, None] = {}
    for index, (device, name) in enumerate(zip(named.devices, named.names, strict=True)):
        key = named.sites[device.site_key], name
        if (part.after is None or key > part.after) and (part.through is None or key <= part.through):
            sites[device.site_key] = None
            if part.at_most_sites is not None and len(sites) > part.at_most_sites:
                break
            kept.append(index)
    return named.part(kept[: part.at_most])


def _heads(query: Query) -> frozenset[str]:
    """The tokens asked for: where a device has none (decision 0044), its site's."""
    devices = {name.partition("/")[0] for name in query.devices or ()}
    return frozenset(devices | (query.sites or frozenset()))


def _scope(owners: Iterable[int]) -> str:
    return "{" + ",".join(map(str, sorted(set(owners)) or _NOBODY)) + "}"
