"""Whether what was read is still shared: for answers that take long to be sent. Nothing is shown or recorded."""

from collections.abc import Callable
from datetime import datetime

from telemetry.views.naming import Names
from telemetry.views.pool import Pool
from telemetry.views.query import Query
from telemetry.views.sight import Viewer, look, snapshot

Pair = tuple[str, str]


class Visibility:
    """Looks at settings alone. Arguments as for ``Views``."""

    def __init__(self, pool: Pool, names: Names, *, clock: Callable[[], datetime] | None = None) -> None:
        self._pool, self._names, self._clock = pool, names, clock

    async def pairs(self, viewer: Viewer, query: Query) -> frozenset[Pair]:
        """Each device and field that is shared now, of what is asked for; none where nothing is.

        Raises:
            NotVisible: a site or device asked for does not exist or is not shared.
            StoreUnavailable: try again.

        """
        keyed = await self._names.keyed(viewer.recipient_key)
        async with self._pool.connection() as connection, snapshot(connection, viewer) as database_now:
            now = self._clock() if self._clock else database_now
            named = (await self._names.of(await look(connection, viewer, now), keyed)).asked(query)
        return frozenset(
            (name, field)
            for device, name in zip(named.devices, named.names, strict=True)
            for field in device.view.fields
            if query.fields is None or field in query.fields
        )
