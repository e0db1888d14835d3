"""Every operation of the OpenAPI document under generated requests, valid and not, of every role.

No answer is a 5xx, has a status, type, header or body that the document does not tell of. How many cases there were is
printed (``pytest -s``), with the seed.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from telemetry.api.app import framework
from telemetry.embedded.postgres import EmbeddedPostgres
from tests.api.test_route_matrix import TABLE
from tests.support.access import FAST
from tests.support.api_fuzz import Fuzz, operations
from tests.support.api_town import ADVISER, INSTALLER, Asker, Town, a_town
from tests.support.api_world import quarter, text
from tests.support.owned_home import asked
from tests.support.store import Store

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEED = 20261126


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made(migrated: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    store = Store(migrated)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("telemetry.access.passwords.PARAMETERS", FAST)
        async with a_town(store, tmp_path_factory.mktemp("api")) as town:
            yield town
    await store.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fuzz(made: Town) -> Fuzz:
    own, grant = made.own, await made.grant(made.own)
    known = {
        "site": [own.site, made.other.site],
        "device": [own.device, made.other.device],
        "from": [text(quarter(8))],
        "to": [text(quarter(-1))],
        "purpose": ["maintenance"],
        "resolution": ["PT15M", "PT1H"],
        "fields": ["ac_power_w"],
        "tz": ["Asia/Kolkata"],
        "limit": [100],
        "grant": [grant, await made.grant(made.other)],
        "request": [await made.request(made.own)],
        "invitation": [(await made.invitation())[0]],
        "webhook": [await made.webhook()],
        "recipient": [f"r_{ADVISER:016x}", "r_00c0ffee00c0ffee"],
        "objection": [await made.objection(made.own)],
        "token": [await made.issued(INSTALLER)],
        "session": [(await made.session(INSTALLER))[1]],
    }
    bodies = {
        "make_access_request": {"terms": asked(), "reason": "fault", "site": own.site},
        "make_invitation": {"terms": asked()},
        "add_webhook": {"purpose": "maintenance", "url": "https://hooks.example.invalid/alerts"},
        "set_keeping": {"finest": "PT15M"},
        "make_objection": {"purpose": "application"},
        "make_grant": {"recipient": f"recipient-{ADVISER}", "terms": asked(purpose="billing")},
        "preview": {
            "recipient": f"recipient-{ADVISER}",
            "purpose": "billing",
            "from": known["from"][0],
            "to": known["to"][0],
        },
        "add_recipient": {"handle": "example-of-fuzz", "kind": "installer"},
        "issue_token": {"recipient": f"r_{ADVISER:016x}"},
        "block_recipient": {"recipient": f"recipient-{ADVISER}"},
        "sign_up": {"email": "a@example.test", "of_age": True, "name": "Example"},
        "forget_password": {"email": "a@example.test"},
        "look_at_invitation": {"code": (await made.invitation())[1]},
    }
    return Fuzz(framework().openapi(), made.world.base, lambda name: askers(made, name), known, bodies, SEED)


def askers(made: Town, name: str) -> Sequence[Asker]:
    """One who may first, where there is one, then the others; a person whom the operation does not log out."""
    needs = TABLE[name].needs
    able = [one for one in made.askers if needs is None or (one.can and set(needs.split()) <= one.can)]
    first = (
        Asker("who signed up", made.person) if needs == "person" else able[-1 if "person" not in (needs or "") else 0]
    )
    others = [one for one in made.askers if one is not first]
    if needs == "person":  # the others' accounts were written by an administrator, without a password
        others = [one for one in others if one not in able]
    return [first, *others]


# After these somebody cannot ask any more, or there is less to be seen.
ENDING = {"logout", "close_recipient", "end_session", "revoke_token", "rotate_token", "begin_restriction"}


async def proved(fuzz: Fuzz, cases: int, capsys: pytest.CaptureFixture[str]) -> None:
    await asyncio.to_thread(fuzz.run, cases, last=ENDING)
    with capsys.disabled():
        print(f"\nseed {SEED}: {fuzz.tally.told()}")
    assert not fuzz.failures, "\n\n".join(f"{where}: {text}" for where, text in fuzz.failures.items())
    every = set(operations(fuzz.document))
    assert set(fuzz.tally.by_operation) == every
    # Behind validation as well, not at its door alone.
    assert len(fuzz.tally.succeeded) > 0.75 * len(every), sorted(every - fuzz.tally.succeeded)


async def test_no_answer_is_another_than_the_document_tells(fuzz: Fuzz, capsys: pytest.CaptureFixture[str]) -> None:
    await proved(fuzz, 8, capsys)


@pytest.mark.long
async def test_no_answer_to_many_requests_is_another_than_the_document_tells(
    fuzz: Fuzz, capsys: pytest.CaptureFixture[str]
) -> None:
    await proved(fuzz, 200, capsys)
