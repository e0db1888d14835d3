"""The demonstration's API: one home shares with one installer, by the steps that any home and installer take.

    operator: recipient, tokens → installer: invitation → owner: reads it in words, accepts → installer: reads

Tokens are of this run only. Neither they nor the invitation's code are written anywhere.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from telemetry.access.principal import Role, Scope
from telemetry.access.records import Holder
from telemetry.access.tokens import MachineTokens
from telemetry.api.context import Context, open_context
from telemetry.api.server import serving
from telemetry.client import AsyncOwnerClient, SolarUnconfirmed
from telemetry.config import Config
from telemetry.model.sharing import GrantTerms, RecipientKind, Resolution, SerialSetting, SharingPurpose
from telemetry.observe import Observer
from telemetry.ports import Keystore
from telemetry.store.recipients import Recipients

FIELDS: Final = ("ac_power_w", "battery_soc_pct", "grid_power_w")
_HANDLE: Final = "demo-installer"
_LIFETIME: Final = timedelta(days=1)
# Live readings of the last hour, which are not kept any longer for it: the owner's windows stay at 15 minutes.
_TERMS: Final = GrantTerms(
    purpose=SharingPurpose.MAINTENANCE,
    fields=frozenset(FIELDS),
    resolution=Resolution.RAW,
    serial=SerialSetting.PSEUDONYM,
    history=timedelta(hours=1),
)


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """Where the API is, two tokens, and what the owner was told that the installer sees."""

    base: str
    installer: str = field(repr=False)
    owner: str = field(repr=False)
    sees: tuple[str, ...]

    def lines(self) -> list[str]:
        """Commands that show it, from now on for an hour."""
        now = datetime.now(UTC)
        until = now + timedelta(hours=1)
        span = f"from={now:%Y-%m-%dT%H:%M:%SZ}&to={until:%Y-%m-%dT%H:%M:%SZ}"
        series = f"series?{span}&resolution=raw&fields=ac_power_w&format=csv"
        return [
            _curl(self.installer, f"{self.base}/api/v1/{series}"),
            _curl(self.owner, f"{self.base}/api/v1/me/reads"),
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
    installer = await tokens.issue(
        Holder(Role.RECIPIENT, recipient_key=recipient_key),
        everything,
        purposes={SharingPurpose.MAINTENANCE},
        lifetime=_LIFETIME,
        by_operator=True,
    )
    owner = await tokens.issue(
        Holder(Role.OWNER, owner_key=owner_key), everything, lifetime=_LIFETIME, by_operator=True
    )
    invitation = await context.requests.invite(recipient_key, _TERMS, lifetime=_LIFETIME)
    async with AsyncOwnerClient(base, owner.secret) as home:
        proposed = await home.look_at_invitation(invitation.secret)
        try:
            await home.accept_invitation(invitation.secret)
        except SolarUnconfirmed as error:
            await home.accept_invitation(invitation.secret, confirm_solar_km=error.error_km)
    return Demonstrated(base, installer.secret, owner.secret, proposed.says)
