"""The clients: every call of ``reading`` and ``asking`` as a method, once waiting and once awaited."""

from telemetry.client import reading
from telemetry.client.drive import awaiting, waiting
from telemetry.client.live import LiveAwaiting, LiveWaiting


class Client(LiveWaiting):
    """A recipient's client, with a token: ``with Client("https://example.org", token) as api: api.sites()``.

    Failed reads are asked again, as Retry-After and RateLimit say; what changes something never is.
    """

    sites = waiting(reading.sites)
    site = waiting(reading.site)
    devices = waiting(reading.devices)
    device = waiting(reading.device)
    series = waiting(reading.series)
    latest = waiting(reading.latest)
    export = waiting(reading.export)


class AsyncClient(LiveAwaiting):
    """The same, awaited: ``async with AsyncClient(url, token) as api: await api.sites()``."""

    sites = awaiting(reading.sites)
    site = awaiting(reading.site)
    devices = awaiting(reading.devices)
    device = awaiting(reading.device)
    series = awaiting(reading.series)
    latest = awaiting(reading.latest)
    export = awaiting(reading.export)
