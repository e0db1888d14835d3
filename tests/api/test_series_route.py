"""GET /series over real HTTP."""

from datetime import timedelta

import pytest

from tests.support import consents
from tests.support.api_world import ApiWorld, quarter, text

LOOKER, OTHER, OWNER, SITE, DEVICE = 1, 2, 10, 100, 1000
HOUR = timedelta(hours=1)


@pytest.fixture
async def home(world: ApiWorld) -> ApiWorld:
    """One home with two inverters, of which ac_power_w is granted for maintenance."""
    await consents.add_recipient(world.admin, LOOKER)
    await consents.add_recipient(world.admin, OTHER)
    await world.home(OWNER, SITE, DEVICE, DEVICE + 1)
    await consents.add_grant(world.admin, 1, OWNER, LOOKER, serial="pseudonym")
    await world.quarters(DEVICE, 4)
    return world


def lately(**more):
    return {"from_": text(quarter(10)), "to": text(quarter() + HOUR)} | more


async def test_a_recipient_is_given_what_is_granted(home: ApiWorld) -> None:
    answer = await home.get("/series", await home.token(LOOKER), **lately())
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert [series["value"] for series in told["series"]] == [[103.0, 102.0, 101.0, 100.0]]
    assert told["series"][0]["start"] == [text(quarter(n)) for n in (3, 2, 1, 0)]
    assert {series["field"] for series in told["series"]} == {"ac_power_w"}
    assert len(told["devices"]) == 2
    assert told["devices"][0]["shared"] == [{"field": "ac_power_w", "resolution": "PT15M"}]
    assert "grid_power_w" in told["devices"][0]["not_shared"] or told["devices"][0]["not_shared"]
    assert told["next"] is None
