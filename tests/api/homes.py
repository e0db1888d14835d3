"""Two homes that a recipient is granted something of, and one that it is not."""

from datetime import timedelta
from typing import Any

from tests.support import consents
from tests.support.api_world import ApiWorld, quarter, text

LOOKER, OTHER = 1, 2
OWNER, SITE, DEVICE = 10, 100, 1000
HOUR = timedelta(hours=1)


async def two_homes(world: ApiWorld, *, quarters: int = 4) -> None:
    """Two owners with a home of two inverters each; ac_power_w granted to LOOKER for maintenance."""
    await consents.add_recipient(world.admin, LOOKER)
    await consents.add_recipient(world.admin, OTHER)
    for n in range(2):
        await world.home(OWNER + n, SITE + n, DEVICE + 10 * n, DEVICE + 10 * n + 1)
        await consents.add_grant(world.admin, n + 1, OWNER + n, LOOKER, serial="pseudonym")
        await world.quarters(DEVICE + 10 * n, quarters, 100.0 * (n + 1))


async def told(world: ApiWorld) -> None:
    """As what settles something tells everybody."""
    await world.admin.execute("SELECT pg_notify('telemetry_consent', '10')")


async def withdraw(world: ApiWorld, *grants: int) -> None:
    """End these grants, and tell."""
    for grant in grants:
        await consents.withdraw(world.admin, grant)
    await told(world)


def lately(**more: Any) -> dict[str, Any]:
    """The last hours."""
    return {"from_": text(quarter(10)), "to": text(quarter() + HOUR)} | more
