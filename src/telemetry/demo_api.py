"""The demonstration's API: one home shares with one installer, by the steps that any home and installer take.

    operator: recipient, tokens → installer: invitation → owner: reads it in words, accepts → installer: reads

Tokens are of this run only. Neither they nor the invitation's code are written anywhere.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from telemetry.access.principal import Role, Scope
from telemetry.access.records import Holder
from telemetry.access.tokens import MachineTokens
from telemetry.api.context import Context, open_context
from telemetry.api.server import serving
from telemetry.client import AsyncClient, AsyncOwnerClient, SolarUnconfirmed, Terms
from telemetry.config import Config
from telemetry.model.sharing import RecipientKind, SharingPurpose
from telemetry.observe import Observer
from telemetry.ports import Keystore
from telemetry.store.recipients import Recipients

_HANDLE: Final = "demo-installer"
_PURPOSE: Final = SharingPurpose.MAINTENANCE
_LIFETIME: Final = timedelta(days=1)
_LATELY: Final = timedelta(hours=1)  # the simulated homes report of the last hour


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """Where the API is, two tokens, and what the owner was told that the installer sees."""

    base: str
    installer: str = field(repr=False)
    owner: str = field(repr=False)
    sees: tuple[str, ...]

    def lines(self) -> list[str]:
        """Commands that show it, for an hour."""
        now = datetime.now(UTC)
        span = f"from={now - _LATELY:%Y-%m-%dT%H:%M:%SZ}&to={now + _LATELY:%Y-%m-%dT%H:%M:%SZ}"
        asked = "resolution=raw&fields=ac_power_w&format=csv"
        return [
            _curl(self.installer, f"{self.base}/api/v1/latest?{asked}"),
            _curl(self.installer, f"{self.base}/api/v1/series?{span}&{asked}") + " | tail -n 3",
            _curl(self.owner, f"{self.base}/api/v1/me/reads?limit=1"),
        ]


def _curl(token: str, url: str) -> str:
    return f"curl -s -H 'Authorization: Bearer {token}' '{url}'"


@asynccontextmanager
async def demonstrated(
    config: Config, keystore: Keystore, dsn: Callable[[str], str], observer: Observer, owner_key: int
) -> AsyncIterator[Demonstrated]:
    """The API, for as long as the block lasts, with the owner's home shared."""
    async with open_context(config, keystore, dsn, observer=observer) as context, serving(context) as port:
        yield await _shared(context, f"http://{config.api.address}:{port}", owner_key)


async def _shared(context: Context, base: str, owner_key: int) -> Demonstrated:
    async with context.pools.operator.connection() as connection:
        recipient_key = await Recipients(connection).add(_HANDLE, RecipientKind.INSTALLER)
    tokens, everything = MachineTokens(context.pools.access), frozenset(Scope)
    installer, owner = Holder(Role.RECIPIENT, recipient_key=recipient_key), Holder(Role.OWNER, owner_key=owner_key)
    more: Any = {"lifetime": _LIFETIME, "by_operator": True}
    reads = (await tokens.issue(installer, everything, purposes={_PURPOSE}, **more)).secret
    owns = (await tokens.issue(owner, everything, **more)).secret
    async with AsyncClient(base, reads) as installing, AsyncOwnerClient(base, owns) as home:
        code = (await installing.invite(_terms())).code
        proposed = await home.look_at_invitation(code)
        try:
            await home.accept_invitation(code)
        except SolarUnconfirmed as error:
            await home.accept_invitation(code, confirm_solar_km=error.error_km)
    return Demonstrated(base, reads, owns, proposed.says)


def _terms() -> Terms:
    """Readings of the last hour, as they come: the owner's windows stay at 15 minutes."""
    return Terms(
        purpose=_PURPOSE,
        fields=("ac_power_w", "battery_soc_pct", "grid_power_w"),
        resolution="raw",
        serial="pseudonym",
        history_s=_LATELY.total_seconds(),
        data_from=datetime.now(UTC) - _LATELY,
    )
