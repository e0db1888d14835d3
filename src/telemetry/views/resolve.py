"""From names to owners, before anything is added up: a question about one home costs the settings of one home.

What a name stood for when it was last made is remembered as a hint. A hint only narrows: within the owners that it
points to names are made anew from the snapshot's settings and compared, so a wrong or outdated one shows nothing.
A name that is not found that way is looked for among all that has a name in the snapshot, by the same steps whether
it never existed, is another recipient's or was withdrawn (docs/decisions/0065-names-to-owners.md).
"""

import contextlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from telemetry.errors import NotVisible
from telemetry.privacy.tokens import TokenKind
from telemetry.store.sql import queries
from telemetry.views.naming import Keyed, Listing, Named, Names
from telemetry.views.query import Part, Query
from telemetry.views.sight import Seen, Sight, Viewer, look

_SQL: Final = queries("views")
_NOBODY: Final = (0,)  # no owner has this key
_LAST: Final = "\U0010ffff"  # after every name of a device


def guessed(keyed: Keyed | None, viewer: Viewer, query: Query) -> Viewer:
    """The viewer, narrowed to the owners that the names asked for point to; to nobody where they point to none."""
    asked = _heads(query)
    if keyed is None or viewer.scope is not None or not asked:
        return viewer
    meant = [keyed.meant(name) for name in asked]
    owners = tuple(sorted({each[0] for each in meant if each is not None}))
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
    wanted = _wanted(listing, asked) if asked else range(len(listing.tokens))
    while True:
        chosen = _chosen(listing, wanted, part)
        await connection.execute(_SQL["scope"], _scope(listing.owners[place] for place in chosen))
        sight = await look(connection, viewer, now)
        sight = sight.of_sites({listing.keys[place] for place in chosen})
        named = _part((await names.of(sight, keyed)).asked(query), part)
        if named.devices or not chosen or chosen[-1] == wanted[-1]:
            return sight, named
        part = replace(part, after=(listing.tokens[chosen[-1]], _LAST))


async def listed(connection: Any, names: Names, keyed: Keyed) -> Listing:
    """All that has a name in the snapshot. Tokens that were never made are made and remembered.

    Where the snapshot says what it said the last time, nothing is made anew.
    """
    await connection.execute(_SQL["scope"], "")
    row = await connection.fetchrow(_SQL["names"])
    said = row["devices"], row["sites"], row["owners"], row["epochs"]
    if keyed.listing is not None and keyed.listing.made_of == said:
        return keyed.listing
    devices, sites, owners, epochs = said
    about = {site: (owner, epoch) for site, owner, epoch in zip(sites, owners, epochs, strict=True)}
    counts = Counter(sites)
    site_owners, site_epochs = [owner for owner, _ in about.values()], [epoch for _, epoch in about.values()]
    made = await names.made(keyed, TokenKind.SITE, list(about), site_owners, site_epochs)
    found = sorted(
        (token, key, owner, counts[key])
        for token, (key, (owner, _)) in zip(made, about.items(), strict=True)
        if token is not None
    )
    tokens = await names.made(keyed, TokenKind.DEVICE, devices, owners, epochs)
    keyed.learn(
        {token: about for token, about in zip(tokens, zip(owners, devices, epochs, strict=True), strict=True) if token}
    )
    keyed.learn({token: (owner, key, about[key][1]) for token, key, owner, _ in found})
    site_of = {token: site for token, site in zip(tokens, sites, strict=True) if token is not None}
    keyed.listing = Listing(
        tokens=[token for token, *_ in found],
        keys=[key for _, key, *_ in found],
        owners=[owner for _, _, owner, _ in found],
        devices=[count for *_, count in found],
        site_of=site_of | {token: key for token, key, *_ in found},
        made_of=said,
    )
    return keyed.listing


async def _held(connection: Any, keyed: Keyed, asked: Iterable[str]) -> Seen | None:
    """What is seen of the owners that hints point to; None unless every hint holds in the snapshot.

    One holds where what it points to is seen, under the epoch that its name is of.
    """
    row = await connection.fetchrow(_SQL["names"])
    seen = {(key, epoch) for name in ("devices", "sites") for key, epoch in zip(row[name], row["epochs"], strict=True)}
    meant = [keyed.meant(name) for name in asked]
    if not all(each is not None and each[1:] in seen for each in meant):
        return None
    return row["devices"], sorted(set(row["sites"]))


def _wanted(listing: Listing, asked: Iterable[str]) -> Sequence[int]:
    """The places in the listing of the sites that hold what is asked for."""
    keys = {listing.site_of.get(name) for name in asked}
    if None in keys:
        raise NotVisible
    return [place for place, key in enumerate(listing.keys) if key in keys]


def _chosen(listing: Listing, wanted: Sequence[int], part: Part) -> Sequence[int]:
    """The sites, of those wanted, that hold the part: whole ones, next to each other in the order of names."""
    first, _ = part.after or ("", "")
    last, _ = part.through or (_LAST, "")
    chosen: list[int] = []
    devices = 0
    for place in wanted[bisect_left(wanted, first, key=listing.tokens.__getitem__) :]:
        full = part.at_most is not None and devices >= part.at_most
        token = listing.tokens[place]
        if full or token > last or (part.at_most_sites is not None and len(chosen) > part.at_most_sites):
            break
        chosen.append(place)
        # Of the site that the part before ended in, there may be no device left.
        devices += 0 if token == first else listing.devices[place]
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
