"""docs/examples/fleet.py, run as it stands against a real API: it finds the inverter that made less."""

import asyncio
import os
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.support import consents
from tests.support.api_world import ApiWorld
from tests.support.view_world import mean_amount

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "fleet.py"
LOOKER, HOMES, BROKEN = 1, 5, 3


async def a_week(world: ApiWorld) -> None:
    """Homes with one inverter each, of different size under one sky; yesterday one made less than half of it."""
    await consents.add_recipient(world.admin, LOOKER)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    rows = []
    for n in range(HOMES):
        await world.home(10 + n, 100 + n, 1000 + n)
        await consents.add_grant(world.admin, n + 1, 10 + n, LOOKER, serial="pseudonym")
        for day in range(1, 8):
            sky = 0.5 + 0.5 * (day % 2)
            fault = 0.45 if (n, day) == (BROKEN, 1) else 1.0
            rows += [
                {
                    "device_key": 1000 + n,
                    "start": today - timedelta(days=day) + quarter * timedelta(minutes=15),
                    "amount": mean_amount(1000.0 * (n + 1) * sky * fault),
                }
                for quarter in range(40, 56)
            ]
    await world.series(rows)


async def test_the_example_finds_the_inverter_that_made_less(world: ApiWorld) -> None:
    await a_week(world)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"API": world.base, "TOKEN": await world.token(LOOKER)},
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    told = out.decode()
    assert len(re.findall(r"^site_\w+  1 devices  inverter: ac_power_w$", told, re.MULTILINE)) == HOMES
    ((suspect, share),) = re.findall(r"^look at (dev_\w+): (\d+)% of what the fleet did$", told, re.MULTILINE)
    assert share == "45"
    assert suspect == await name_of(world, BROKEN)
    assert f"{HOMES * 7 * 16} windows exported" in told


async def name_of(world: ApiWorld, home: int) -> str:
    """What the looker calls the home's inverter: no other one shows its value."""
    rows = (await world.get("/latest", await world.token(LOOKER), fields="ac_power_w", format="rows")).json()["rows"]
    weak = 1000.0 * (home + 1) * (0.5 + 0.5 * 1) * 0.45
    (name,) = {row["device"] for row in rows if row["value"] == weak}
    return str(name)
