"""Settings alone, without any reading: what is still shared of what was read, and the grants themselves."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from telemetry.model.sharing import Grant
from telemetry.privacy.combine import Standing, covers_site, in_force
from telemetry.store.grant_rows import grant_of
from telemetry.store.sql import queries
from telemetry.views.naming import Named, Names
from telemetry.views.pool import Pool
from telemetry.views.query import WHOLE, Query
from telemetry.views.resolve import Sought, guessed, resolved
from telemetry.views.sight import Viewer, snapshot

Pair = tuple[str, str]
_SQL: Final = queries("views")


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant in force, and the sites that are seen under it, by name and in order."""

    grant: Grant
    sites: tuple[str, ...]


class Visibility:
    """Nothing of a home is shown, so nothing is recorded. Arguments as for ``Views``."""

    def __init__(self, pool: Pool, names: Names, *, clock: Callable[[], datetime] | None = None) -> None:
        self._pool, self._names, self._clock = pool, names, clock

    async def pairs(self, viewer: Viewer, query: Query) -> frozenset[Pair]:
        """Each device and field that is shared now, of what is asked for; none where nothing is.

        Raises:
            NotVisible: a site or device asked for does not exist or is not shared.
            StoreUnavailable: try again.

        """
        async with self._seen(viewer, query) as (_, named, _):
            return frozenset(
                (name, field)
                for device, name in zip(named.devices, named.names, strict=True)
                for field in device.view.fields
                if query.fields is None or field in query.fields
            )

    async def grants(self, viewer: Viewer, query: Query) -> list[Granted]:
        """The grants under which something is seen for the viewer's purpose. Raises as ``pairs``."""
        async with self._seen(viewer, query) as (connection, named, now):
            owners = sorted({device.owner_key for device in named.devices})
            grants = [grant_of(row) for row in await connection.fetch(_SQL["grants"], owners)]
            denials = await connection.fetchrow(_SQL["denials"], owners)
            # What denies an owner's grants altogether leaves nothing to be seen of it.
            counting = in_force(grants, Standing(expired_policies=frozenset(denials["expired"])), now)
            return [Granted(grant, tuple(sorted(set(_under(grant, named))))) for grant in counting]

    async def site(self, viewer: Viewer, token: str) -> tuple[int, int]:
        """Owner key and site key of a site that is seen, by its name. Raises as ``pairs``."""
        now = datetime.now(UTC)
        assert viewer.purpose is not None  # noqa: S101 - recipients look for a purpose
        query = Query(viewer.purpose, now - timedelta(hours=1), now, sites=frozenset({token}))
        async with self._seen(viewer, query) as (_, named, _):
            device = named.devices[0]
            return device.owner_key, device.site_key

    @contextlib.asynccontextmanager
    async def _seen(self, viewer: Viewer, query: Query) -> AsyncIterator[tuple[Any, Named, datetime]]:
        keyed = await self._names.keyed(viewer.recipient_key)
        narrowed = guessed(keyed, viewer, query)
        async with self._pool.connection() as connection, snapshot(connection, narrowed) as database_now:
            now = self._clock() if self._clock else database_now
            _, named = await resolved(connection, self._names, keyed, Sought(viewer, narrowed, query, WHOLE), now)
            yield connection, named, now


def _under(grant: Grant, named: Named) -> Iterator[str]:
    for device in named.devices:
        of_kind = grant.terms.kinds is None or device.kind in grant.terms.kinds
        if device.owner_key == grant.owner_key and of_kind and covers_site(grant, device.site_key):
            yield named.sites[device.site_key]
