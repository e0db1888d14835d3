"""Every operation of the OpenAPI document under generated requests, valid and not, of every role.

No answer is a 5xx, has a status, type, header or body that the document does not tell of. How many cases there were is
printed (``pytest -s``), with the seed.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

import pytest
import pytest_asyncio

from telemetry.access.principal import Role, Scope
from telemetry.api.app import framework
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.sharing import MemberRight
from tests.support import consents
from tests.support.api_fuzz import Asker, Fuzz, operations
from tests.support.api_world import ApiWorld, api_world, quarter, text
from tests.support.store import Store

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEED = 20261126
LOOKER, OTHER, OWNER, SITE, DEVICE = 1, 2, 10, 100, 1000
HOUR = timedelta(hours=1)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(migrated: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ApiWorld]:
    store, directory = Store(migrated), tmp_path_factory.mktemp("api")
    limits = {"requests_per_minute": 10**6, "rows_per_hour": 10**9, "concurrent": 1000}
    async with api_world(store, directory, **limits) as made:
        for key in (LOOKER, OTHER):
            await consents.add_recipient(made.admin, key)
        await made.home(OWNER, SITE, DEVICE, DEVICE + 1)
        await consents.add_grant(made.admin, 1, OWNER, LOOKER, place="region", extremes=True)
        await made.quarters(DEVICE, 6, lowest=1, highest=2)
        yield made
    await store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fuzz(world: ApiWorld) -> Fuzz:
    bearer = world.token(LOOKER)
    told = (await world.get("/series", bearer, from_=text(quarter(8)), to=text(quarter() + HOUR))).json()
    known = {
        "site": sorted({each["site"] for each in told["devices"]}),
        "device": sorted({each["device"] for each in told["devices"]}),
        "from": [text(quarter(8))],
        "to": [text(quarter() + HOUR)],
        "purpose": ["maintenance"],
        "resolution": ["PT15M", "PT1H"],
        "fields": ["ac_power_w"],
        "tz": ["Asia/Kolkata"],
        "limit": [1, 100],
    }
    made = askers(world)
    return Fuzz(framework().openapi(), world.base, lambda name: made, known, SEED)


def askers(world: ApiWorld) -> Sequence[Asker]:
    def machine(name: str, key: int, role: Role, **more: object) -> Asker:
        return Asker(name, {"Authorization": f"Bearer {world.token(key, role, **more)}"})  # type: ignore[arg-type]

    def person(name: str, key: int, role: Role, **more: object) -> Asker:
        signed = world.sign_in(key, role, **more)
        return Asker(name, {"X-CSRF-Token": signed.csrf}, signed.cookies)

    return [
        machine("recipient", LOOKER, Role.RECIPIENT),
        machine("recipient, reading", LOOKER, Role.RECIPIENT, scopes=frozenset({Scope.READ})),
        machine("another recipient", OTHER, Role.RECIPIENT, purposes=None),
        person("owner", OWNER, Role.OWNER),
        person("member who may see", OWNER, Role.OWNER, rights=frozenset({MemberRight.SEE})),
        machine("operator", 0, Role.OPERATOR, purposes=None),
        Asker("anonymous"),
        Asker("expired", {"Authorization": "Bearer tlm_" + "A" * 43}),
    ]


async def test_no_answer_is_another_than_the_document_tells(fuzz: Fuzz, capsys: pytest.CaptureFixture[str]) -> None:
    await asyncio.to_thread(fuzz.run, 12)
    with capsys.disabled():
        print(f"\nseed {SEED}: {fuzz.tally.told()}")
    assert not fuzz.failures, "\n\n".join(f"{where}: {text}" for where, text in fuzz.failures.items())
    assert set(fuzz.tally.by_operation) == set(operations(fuzz.document))
    assert fuzz.tally.succeeded == set(operations(fuzz.document))
