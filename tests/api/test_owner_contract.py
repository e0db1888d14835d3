"""The routes of owners and operators against the document, by schemathesis over real HTTP, from a fixed seed."""

import pytest

from telemetry.access.principal import Role
from tests.api.test_openapi_contract import schemathesis
from tests.support.api_world import ApiWorld, api_world
from tests.support.owned_home import owned_home

FREE = {"requests_per_minute": 10**6, "concurrent": 100, "streams": 100, "rows_per_hour": 10**9}


@pytest.mark.long
@pytest.mark.parametrize(("tag", "role"), [("owners", Role.OWNER), ("operators", Role.OPERATOR)])
async def test_routes_answer_as_the_document_says(world: ApiWorld, store, tmp_path, tag, role) -> None:
    async with api_world(store, tmp_path, **FREE) as open_handed:
        home = await owned_home(open_handed)
        await open_handed.quarters(home.devices[0], 8)
        await home.requested()
        await home.grant()
        token = home.token if role is Role.OWNER else await open_handed.token(0, role)
        code, told = await schemathesis(open_handed, token, tmp_path, tag=tag)
        assert code == 0, told
