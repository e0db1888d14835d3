"""Two worlds that differ only in what is not granted give a recipient the same bytes over HTTP (rule 22).

Every way an answer can be given: forms, pages and their cursors, ETags and 304, lists, errors, headers. The differences
are those of tests/integration/test_view_noninterference.py, each with its control.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings

from telemetry.api.app import framework
from telemetry.api.routes import exports
from telemetry.api.routes.exports import ExportForm
from telemetry.embedded.postgres import EmbeddedPostgres
from telemetry.model.sharing import Resolution
from tests.integration.test_view_noninterference import (
    ALL,
    AWAY,
    BATTERY,
    CONTROLS,
    DEVICE,
    DIFFERENCES,
    HOUR_START,
    LOOKER,
    NOW,
    OLD,
    OWNER,
    QUARTER,
    TERMS,
    WITHHOLDING,
    Difference,
    Terms,
    lacks,
    seed,
    statement,
    windows,
)
from tests.support import consents
from tests.support.api_received import Addresses, Asking, batches, opened, whole
from tests.support.api_world import PATIENCE_S, ApiWorld, api_world, text
from tests.support.store import Store
from tests.support.view_world import MadeUpVault

pytestmark = pytest.mark.asyncio(loop_scope="module")
DAY = timedelta(days=1)
_OF_READS = re.compile(rb"""'etag', '[^']+'|"(?:at|from|to)":"[^"]+\.\d+Z\"""")
FORMS = ("columns", "rows", "csv", "parquet", "arrow")
ACCEPTED = ("application/json", "text/csv", "application/vnd.apache.parquet", "application/vnd.apache.arrow.stream")
RESOLUTIONS = (Resolution.RAW, Resolution.PT15M, Resolution.PT1H, Resolution.P1D)
FIELDS = ("ac_power_w", "temperature_c", "energy_total_wh", "operating_state_code", "ac_voltage_v")
SERIALS = tuple(f"MADE-UP-{device}" for device in (DEVICE, BATTERY, AWAY, AWAY + 1))
DAYS = {"from_": text(NOW - DAY), "to": text(NOW + DAY)}
EVER = {"from_": text(OLD - DAY), "to": text(NOW + DAY)}


@dataclass
class World:
    """What the differences change, behind an API."""

    api: ApiWorld
    vault: MadeUpVault
    bearer: str = ""
    tokens: list[str] = field(default_factory=list)

    @property
    def admin(self) -> Any:
        return self.api.admin

    async def series(self, rows: Sequence[Mapping[str, Any]]) -> None:
        await self.api.series(rows)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(migrated: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    store, directory = Store(migrated), tmp_path_factory.mktemp("api")
    limits = {"requests_per_minute": 10**6, "rows_per_hour": 10**9, "heartbeat_s": 300.0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exports, "_ROWS", 50)  # several parts, whose bounds show in Parquet and Arrow
        async with api_world(store, directory, clock=lambda: NOW, **limits) as api:
            vault = MadeUpVault()
            api.context.views._names._opener = vault
            api.context.cursors._now = NOW.timestamp  # a cursor is the same for an hour
            object.__setattr__(api.context, "clock", lambda: NOW)
            for owner in (OWNER, OWNER + 1):
                await api.owner(owner)
            made = World(api, vault)
            made.tokens += await every_token(made)
            yield made
    await store.close()


async def at_rest(world: World) -> None:
    """A stream that was left may read on for a moment; that would be in the list of reads, or in the way."""
    async with asyncio.timeout(PATIENCE_S):
        while any(asker.running for asker in world.api.context.limits._askers.values()):
            await asyncio.sleep(0.01)


async def begin(world: World, terms: Terms) -> None:
    """One grant of these terms, and a token of whom it is to."""
    await at_rest(world)
    await seed(world, terms)
    world.bearer = await world.api.token(LOOKER)


async def every_token(world: World) -> list[str]:
    """The names that this recipient would know if everything of everybody were granted."""
    await begin(world, ALL)
    await consents.add_grant(world.admin, 2, OWNER + 1, LOOKER, **ALL)
    answer = await world.api.get("/series", world.bearer, **DAYS)
    return sorted({row[name] for row in answer.json()["devices"] for name in ("site", "device")})


async def collected(
    world: World, ways: Iterable[str], known: Addresses | None = None
) -> tuple[dict[str, bytes], Addresses]:
    """Everything that the recipient can get, by every way; and what can be asked later.

    ``known``: what the world before said can be asked, with its ETags and cursors.
    """
    await at_rest(world)
    await world.admin.execute("TRUNCATE audit.read")
    asking = Asking(world.api, world.bearer)
    for way in ways:
        await WAYS[way](world, asking)
    # One of each kind: what tags are made of has nothing of its own to say.
    kinds = {path: label for label, (path, _, _) in asking.later.items()}
    later = {label: asking.later[label] for label in kinds.values()}
    for label, (path, parameters, headers) in (known or later).items():
        await asking.get(label, path, headers=headers, **parameters)
    return asking.received, later


async def series(world: World, asking: Asking) -> None:
    for resolution in RESOLUTIONS:
        for form in FORMS:
            await asking.get(f"series {resolution} {form}", "/series", **EVER, resolution=resolution, format=form)
    for kind in ACCEPTED:
        await asking.get(f"series as {kind}", "/series", **DAYS, headers={"Accept": kind})
    await asking.get("series of two fields", "/series", **DAYS, fields="ac_power_w,temperature_c")
    await asking.get("series in another zone", "/series", **DAYS, tz="Asia/Kolkata", grid="utc")
    await asking.pages("series by page", "/series", **DAYS, limit=1)
    for form in ("csv", "arrow"):
        first = await asking.get(f"series by page {form}", "/series", **DAYS, limit=1, format=form)
        for link in first.links.values():
            answer = await world.api.client.get(link["url"], headers={"Authorization": f"Bearer {world.bearer}"})
            asking.keep(f"series by page {form}, page 2", whole(answer))


async def glance(world: World, asking: Asking) -> None:
    """A little of everything, for controls."""
    await asking.get("a glance at alerts", "/alerts", **DAYS)
    for resolution in RESOLUTIONS:
        await asking.get(f"a glance at {resolution}", "/series", **EVER, resolution=resolution, fields=",".join(FIELDS))


async def told(world: World, asking: Asking) -> None:
    """What else is told: alerts, grants, what was read, and what a recipient made itself."""
    for n, parameters in enumerate((DAYS, EVER, DAYS | {"open": True}, DAYS | {"tz": "Asia/Kolkata"})):
        await asking.get(f"alerts {n}", "/alerts", **parameters)
    await asking.pages("grants", "/grants", limit=1)
    for path in ("/access-requests", "/invitations", "/webhooks"):
        await asking.get(path, path)
    # When something was read is of the clock, as is the range of a list; and so is the ETag of it.
    await asking.get("reads", "/reads", limit=1000)
    del asking.later["reads, if changed"]
    asking.received["reads"] = _OF_READS.sub(b"", asking.received["reads"])


async def lists(world: World, asking: Asking) -> None:
    sites = await asking.pages("sites", "/fleet", limit=1)
    for form in FORMS:
        await asking.get(f"latest {form}", "/latest", format=form)
    await asking.pages("latest by page", "/latest", limit=1)
    await asking.get("changes", "/changes", from_=DAYS["from_"], fields=",".join(FIELDS))
    for n, site in enumerate([each["site"] for page in sites for each in page.json()["sites"]]):
        await asking.get(f"site {n}", f"/sites/{site}")
        await asking.pages(f"devices of site {n}", f"/sites/{site}/devices", limit=1)
        whole_list = await asking.get(f"all devices of site {n}", f"/sites/{site}/devices")
        for m, device in enumerate(whole_list.json()["devices"]):
            await asking.get(f"device {n} {m}", f"/devices/{device['device']}")


async def refusals(world: World, asking: Asking) -> None:
    names = ["dev_unknown", "s_unknown", *SERIALS, *world.tokens]
    for n, name in enumerate(names):
        kind = "site" if name.startswith("s") else "device"
        paths = (f"/sites/{name}", f"/sites/{name}/devices") if kind == "site" else (f"/devices/{name}",)
        for path in paths:
            await asking.get(f"GET {path}", path)
        form = FORMS[n % len(FORMS)]
        await asking.get(f"series of {kind} {name}", "/series", **DAYS, **{f"{kind}s": name}, format=form)
    for purpose in ("billing", "nonsense"):
        await asking.get(f"for {purpose}", "/series", **DAYS, purpose=purpose)
    await asking.get("an empty range", "/series", from_=DAYS["to"], to=DAYS["from_"])
    await asking.get("an unknown field", "/series", **DAYS, fields="nothing_w")
    await asking.get("too much", "/series", **EVER, resolution="raw")
    await asking.get("a cursor of nobody", "/series", **DAYS, cursor="A" * 60)
    await asking.get("no form", "/series", **DAYS, headers={"Accept": "image/png"})
    await asking.get("no route", "/nothing")


async def lasting(world: World, asking: Asking) -> None:
    few = DAYS | {"fields": ",".join(FIELDS), "resolution": "PT1H", "headers": {}}
    for form in ExportForm:
        await asking.get(f"export {form}", "/export", **few, format=form)
    await asking.get("export of quarters", "/export", **few | {"resolution": "PT15M"})
    await asking.get("export of another", "/export", **few, devices=world.tokens[0])
    await asking.events("live", resolution="PT1H")
    await asking.events("live, one field", resolution="PT1H", fields="ac_power_w", tz="Asia/Kolkata")
    await asking.get("live of another", "/live", devices=world.tokens[0], sites=world.tokens[-1])


def alert(device: int) -> Callable[[Any], Awaitable[None]]:
    """An alert of a device, that is open."""
    return statement(
        "INSERT INTO readings.alert (alert_key, device_key, kind, severity, opened_at, found_at)"
        f" VALUES ({device}, {device}, 2, 3, '{HOUR_START.isoformat()}', '{HOUR_START.isoformat()}')"
    )


_ALERTS: Terms = ALL | {"classes": ["alert"]}
MORE = DIFFERENCES | {
    "an alert of a class that is withheld": Difference(alert(DEVICE), lambda terms: not terms.get("classes"), _ALERTS),
    "an alert of a device that is withheld": Difference(alert(BATTERY), lacks("kinds", 2), _ALERTS),
    "an alert of another owner": Difference(alert(AWAY + 1), lambda _: True, _ALERTS),
}
MORE_CONTROLS = CONTROLS | {"an alert of another owner": alert(DEVICE)}
WAYS = {"series": series, "lists": lists, "told": told, "lasting": lasting, "refusals": refusals, "glance": glance}
ALL_WAYS = tuple(name for name in WAYS if name != "glance")


async def differing(
    world: World, terms: Terms, changes: Iterable[Callable[[Any], Awaitable[None]]], ways: Iterable[str] = ALL_WAYS
) -> list[str]:
    """Labels of what is not the same in two worlds, of which one has the changes."""
    await begin(world, terms)
    before, known = await collected(world, ways)
    for change in changes:
        await change(world)
    after, _ = await collected(world, ways, known)
    assert len(before) > 3
    return sorted(label for label in before.keys() | after.keys() if before.get(label) != after.get(label))


async def test_with_the_least_granted_no_byte_of_any_answer_tells_of_anything_else(world: World) -> None:
    # The finer series last: it spreads otherwise what the hour holds, whatever its first quarter was.
    order = sorted(MORE, key=lambda name: name == "a finer series")
    assert await differing(world, WITHHOLDING, [MORE[name].change for name in order]) == []


async def streamed(world: World, changes: Iterable[Callable[[Any], Awaitable[None]]]) -> bytes:
    """What an open stream is sent while there are changes, and until something changes that is granted."""
    await begin(world, WITHHOLDING)
    async with opened(world.api, world.bearer, resolution="PT1H") as answer:
        raw = answer.aiter_raw()
        found = await batches(raw, 1)
        for change in changes:
            await change(world)
            await world.admin.execute("SELECT pg_notify('telemetry_consent', '10'), pg_notify('telemetry_change', '')")
            await asyncio.sleep(0.02)
        await windows(DEVICE, "ac_power_w", HOUR_START + QUARTER)(world)
        await world.admin.execute("SELECT pg_notify('telemetry_consent', '10')")
        return found + await batches(raw, 1)


async def test_an_open_stream_is_sent_the_same_bytes_whatever_else_changes_meanwhile(world: World) -> None:
    before = await streamed(world, [])
    assert before.count(b"event: batch") == 2
    hidden = [about.change for name, about in MORE.items() if name != "a finer series"]
    assert await streamed(world, hidden) == before
    assert await streamed(world, [windows(DEVICE, "ac_power_w", HOUR_START + 4 * QUARTER)]) != before, "the control"


@pytest.mark.parametrize("difference", MORE)
async def test_where_it_is_granted_the_change_is_seen(world: World, difference: str) -> None:
    about = MORE[difference]
    change = MORE_CONTROLS.get(difference, about.change)
    assert await differing(world, about.control or ALL, [change], ["glance"])


async def test_every_address_that_a_recipient_reads_is_asked(world: World) -> None:
    await begin(world, WITHHOLDING)
    asking = Asking(world.api, world.bearer)
    for way in ALL_WAYS:
        await WAYS[way](world, asking)
    document = framework().openapi()
    of_persons = {"/api/v1/alert-mails"}  # what an account wished for; tokens are refused
    for path, methods in document["paths"].items():
        if "recipients" in methods.get("get", {}).get("tags", ()) and path not in of_persons:
            pattern = re.sub(r"\{\w+\}", "[^/?]+", path.removeprefix("/api/v1"))
            assert any(re.fullmatch(pattern, one) for one in asking.paths), path


@pytest.mark.long
@pytest.mark.parametrize("difference", DIFFERENCES)
@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(terms=TERMS)
async def test_what_is_not_granted_changes_no_byte(world: World, difference: str, terms: Terms) -> None:
    about = DIFFERENCES[difference]
    if not about.unseen(terms):
        terms = terms | WITHHOLDING
    assert await differing(world, terms, [about.change]) == []
