"""The clients: every call of ``reading``, ``asking`` and ``owning`` as a method, once waiting and once awaited."""

from telemetry.client import asking, owning, reading, signing_in
from telemetry.client.drive import Awaiting, Waiting, awaiting, waiting
from telemetry.client.live import LiveAwaiting, LiveWaiting


class Client(LiveWaiting):
    """A recipient's client, with a token: ``with Client("https://example.org", token) as api: api.fleet()``.

    Failed reads are asked again, as Retry-After and RateLimit say; what changes something never is.
    """

    fleet = waiting(reading.fleet)
    site = waiting(reading.site)
    devices = waiting(reading.devices)
    device = waiting(reading.device)
    series = waiting(reading.series)
    latest = waiting(reading.latest)
    changes = waiting(reading.changes)
    alerts = waiting(reading.alerts)
    grants = waiting(reading.grants)
    export = waiting(reading.export)
    access_requests = waiting(asking.access_requests)
    ask = waiting(asking.ask)
    take_back = waiting(asking.take_back)
    invitations = waiting(asking.invitations)
    invite = waiting(asking.invite)
    revoke_invitation = waiting(asking.revoke_invitation)


class AsyncClient(LiveAwaiting):
    """The same, awaited: ``async with AsyncClient(url, token) as api: await api.fleet()``."""

    fleet = awaiting(reading.fleet)
    site = awaiting(reading.site)
    devices = awaiting(reading.devices)
    device = awaiting(reading.device)
    series = awaiting(reading.series)
    latest = awaiting(reading.latest)
    changes = awaiting(reading.changes)
    alerts = awaiting(reading.alerts)
    grants = awaiting(reading.grants)
    export = awaiting(reading.export)
    access_requests = awaiting(asking.access_requests)
    ask = awaiting(asking.ask)
    take_back = awaiting(asking.take_back)
    invitations = awaiting(asking.invitations)
    invite = awaiting(asking.invite)
    revoke_invitation = awaiting(asking.revoke_invitation)


class OwnerClient(Waiting):
    """An owner's client: with a token, or after ``login``, which keeps the session and proves it with each change."""

    sign_up = waiting(signing_in.sign_up)
    verify = waiting(signing_in.verify)
    me = waiting(owning.me)
    sites = waiting(owning.sites)
    devices = waiting(owning.devices)
    recipients = waiting(owning.recipients)
    grants = waiting(owning.grants)
    grant = waiting(owning.grant)
    change = waiting(owning.change)
    withdraw = waiting(owning.withdraw)
    history = waiting(owning.history)
    receipt = waiting(owning.receipt)
    preview = waiting(owning.preview)
    access_requests = waiting(owning.access_requests)
    accept = waiting(owning.accept)
    decline = waiting(owning.decline)
    look_at_invitation = waiting(owning.look_at_invitation)
    accept_invitation = waiting(owning.accept_invitation)
    connection_code = waiting(owning.connection_code)
    reads = waiting(owning.reads)
    series = waiting(owning.series)
    latest = waiting(owning.latest)
    export = waiting(owning.export)

    def login(self, email: str, password: str, code: str | None = None) -> None:
        """Begin a session. ``code``: of the authenticator, where the account has one.

        Raises:
            NotAuthenticated: address, password or code are wrong.
            RateLimited: too many tries.

        """
        self._csrf = self._run(signing_in.login(email, password, code))

    def logout(self) -> None:
        """End the session."""
        self._run(signing_in.logout())
        self._csrf = None


class AsyncOwnerClient(Awaiting):
    """The same as ``OwnerClient``, awaited."""

    sign_up = awaiting(signing_in.sign_up)
    verify = awaiting(signing_in.verify)
    me = awaiting(owning.me)
    sites = awaiting(owning.sites)
    devices = awaiting(owning.devices)
    recipients = awaiting(owning.recipients)
    grants = awaiting(owning.grants)
    grant = awaiting(owning.grant)
    change = awaiting(owning.change)
    withdraw = awaiting(owning.withdraw)
    history = awaiting(owning.history)
    receipt = awaiting(owning.receipt)
    preview = awaiting(owning.preview)
    access_requests = awaiting(owning.access_requests)
    accept = awaiting(owning.accept)
    decline = awaiting(owning.decline)
    look_at_invitation = awaiting(owning.look_at_invitation)
    accept_invitation = awaiting(owning.accept_invitation)
    connection_code = awaiting(owning.connection_code)
    reads = awaiting(owning.reads)
    series = awaiting(owning.series)
    latest = awaiting(owning.latest)
    export = awaiting(owning.export)

    async def login(self, email: str, password: str, code: str | None = None) -> None:
        """As ``OwnerClient.login``."""
        self._csrf = await self._run(signing_in.login(email, password, code))

    async def logout(self) -> None:
        """End the session."""
        await self._run(signing_in.logout())
        self._csrf = None
