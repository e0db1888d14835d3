"""A settings file against a real database: the difference, all of it or nothing, and back to a file."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from telemetry.errors import HistoryTooFine, InputError, PartyUnknown, SharingError, SiteNotOwned, SolarUnconfirmed
from telemetry.model.sharing import Keeping
from telemetry.model.shown import shown_key
from telemetry.store.settings_apply import apply, export, rehearse
from telemetry.store.settings_file import SettingsFile, parse_settings
from tests.support.postgres import temporary_postgres
from tests.support.registry import registry_world
from tests.support.sharing import SharingWorld, sharing_world, terms

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        sharing_world(registry) as opened,
    ):
        yield opened


async def parties(world: SharingWorld) -> tuple[int, int, str]:
    owner, recipient = (await world.home()).owner_key, await world.recipient()
    return owner, recipient, (await world.recipients.find(recipient)).handle


def file_of(*owners: tuple[int, dict[str, Any]]) -> SettingsFile:
    return SettingsFile.model_validate({"owners": {shown_key("owner", key): content for key, content in owners}})


def daily(handle: str, **changes: Any) -> dict[str, Any]:
    settings = {"recipient": handle, "purpose": "maintenance", "classes": ["production"], "resolution": "P1D"}
    return settings | changes


async def applied(world: SharingWorld, file: SettingsFile) -> list[str]:
    return [change.what for change in await apply(world.sharing, file, await rehearse(world.sharing, file))]


async def everything(world: SharingWorld) -> Any:
    counts = {}
    tables = ("grant_version", "active_grant", "receipt", "keeping_version", "keeping", "relation", "dirty_owner")
    for table in (*(f"consent.{table}" for table in tables), "audit.event"):
        counts[table] = await world.rows(f"SELECT * FROM {table} ORDER BY 1, 2")
    return counts


async def test_many_owners_and_recipients_at_once(world):
    first, second = await parties(world), await parties(world)
    file = file_of(
        (first[0], {"keeping": {"wished": "PT1H"}, "grants": [daily(first[2]), daily(second[2], purpose="billing")]}),
        (second[0], {"grants": [daily(first[2], classes=["battery"], resolution="PT15M")]}),
    )
    calls = len(world.compiled)
    assert sorted(await applied(world, file)) == ["keeping", "make", "make", "make"]
    assert await world.sharing.keeping(first[0]) == Keeping(wished="PT1H")
    assert len(await world.sharing.grants(first[0])) == 2
    assert len(await world.sharing.grants(second[0])) == 1
    assert world.compiled[calls:] == [sorted([first[0], second[0]])]
    assert await rehearse(world.sharing, file) == []
    assert await applied(world, file) == []


async def test_the_difference_is_told_before_anything_is_written(world):
    owner, recipient, handle = await parties(world)
    stays = await world.sharing.set_grant(owner, recipient, terms())
    narrowed = await world.sharing.set_grant(owner, recipient, terms(purpose="billing", classes=["battery", "grid"]))
    ends = await world.sharing.set_grant(owner, recipient, terms(purpose="warranty"))
    file = file_of(
        (
            owner,
            {
                "keeping": {"wished": "PT30M"},
                "grants": [
                    daily(handle),
                    daily(handle, purpose="billing", classes=["battery"]),
                    daily(handle, purpose="monitoring", classes=["alert"], resolution="PT1H"),
                ],
            },
        )
    )
    before = await everything(world)
    changes = await rehearse(world.sharing, file)
    assert await everything(world) == before
    name, billing = shown_key("owner", owner), shown_key("grant", narrowed.grant_key)
    told = [line for change in changes for line in change.lines()]
    assert told[0] == f"~ {name} keeping: wished PT15M → PT30M"
    assert told[1].startswith(f"- {name} → {handle} for warranty: classes production")
    assert told[2] == f"~ {name} → {handle} for billing ({billing}): classes battery grid → battery"
    assert told[3] == (
        f"+ {name} → {handle} for monitoring: classes alert, resolution PT1H, serial withheld, place withheld"
    )
    assert len(told) == 4
    await apply(world.sharing, file, changes)
    standing = {grant.grant_key: grant.version for grant in await world.sharing.grants(owner)}
    assert standing[stays.grant_key] == 1
    assert standing[narrowed.grant_key] == 2
    assert ends.grant_key not in standing
    assert len(standing) == 3


async def test_what_is_left_out_stays(world):
    owner, recipient, _ = await parties(world)
    grant = await world.sharing.set_grant(owner, recipient, terms())
    await world.sharing.set_keeping(owner, Keeping(wished="PT1H"))
    assert await applied(world, file_of((owner, {"keeping": {"wished": "P1D"}}))) == ["keeping"]
    assert await world.sharing.grants(owner) == [grant]
    assert await applied(world, file_of((owner, {"grants": []}))) == ["withdraw"]
    assert await world.sharing.keeping(owner) == Keeping(wished="P1D")
    assert await applied(world, file_of((owner, {}))) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"recipient": "nobody-is-called-so"}, PartyUnknown),
        ({"grant": "c_0000000000000001"}, PartyUnknown),
        ({"sites": ["s_0000000000000001"]}, SiteNotOwned),
        ({"resolution": "PT1M", "classes": ["battery"]}, HistoryTooFine),
        ({"resolution": "PT15M"}, SolarUnconfirmed),
        ({"resolution": "PT15M", "confirm_solar_km": 28}, SolarUnconfirmed),
        ({"until": datetime(2020, 1, 1, tzinfo=UTC)}, SharingError),
    ],
)
async def test_one_bad_line_and_nothing_changes(world, bad, error):
    owner, recipient, handle = await parties(world)
    other = (await parties(world))[0]
    await world.sharing.set_grant(owner, recipient, terms(purpose="warranty"))
    good = {"keeping": {"wished": "PT1H"}, "grants": [daily(handle), daily(handle, purpose="billing")]}
    owners = sorted([owner, other])
    file = file_of((owners[0], good), (owners[1], {"grants": [daily(handle), daily(handle, **bad)]}))
    before = await everything(world)
    for attempt in (rehearse(world.sharing, file), apply(world.sharing, file, [])):
        with pytest.raises(error) as refusal:
            await attempt
        assert str(refusal.value).startswith(shown_key("owner", owners[1]))
        assert await everything(world) == before


async def test_an_unknown_owner_and_nothing_changes(world):
    owner, _, handle = await parties(world)
    before = await everything(world)
    with pytest.raises(PartyUnknown, match="o_0000000000000001: the owner is unknown"):
        await rehearse(world.sharing, file_of((owner, {"grants": [daily(handle)]}), (1, {"grants": []})))
    assert await everything(world) == before


async def test_what_was_changed_meanwhile_is_not_overwritten(world):
    owner, recipient, handle = await parties(world)
    file = file_of((owner, {"grants": [daily(handle)]}))
    seen = await rehearse(world.sharing, file)
    grant = await world.sharing.set_grant(owner, recipient, terms(purpose="billing"))
    with pytest.raises(SharingError, match="changed meanwhile"):
        await apply(world.sharing, file, seen)
    assert await world.sharing.grants(owner) == [grant]


async def test_confirmed_in_the_file_by_the_error_stated(world):
    owner, _, handle = await parties(world)
    fine = daily(handle, resolution="PT15M", confirm_solar_km=5)
    assert await applied(world, file_of((owner, {"grants": [fine]}))) == ["make"]
    # Asked once: without saying it again, the same grant stands.
    assert await applied(world, file_of((owner, {"grants": [daily(handle, resolution="PT15M")]}))) == []


async def test_an_exported_file_changes_nothing_and_brings_everything_back(world):
    home, recipient = await world.home(), await world.recipient()
    owner, now = home.owner_key, datetime.now(UTC)
    await world.sharing.set_keeping(owner, Keeping(never=["load_power_w"], retention_days={"grid": 10}))
    await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M"), confirmed_km=5.0)
    rich = terms(
        purpose="billing",
        classes=["grid"],
        sites=[home.site_key],
        kinds=[6],
        extremes=True,
        history=timedelta(days=30, minutes=5),
        data_from=now - timedelta(days=3),
        until=now + timedelta(days=90),
        start=now + timedelta(days=1),
    )
    await world.sharing.set_grant(owner, recipient, rich)
    text = await export(world.sharing, [owner])
    file = parse_settings(text)
    assert await rehearse(world.sharing, file) == []
    before = await world.sharing.grants(owner)
    await world.sharing.withdraw(owner, recipient_key=recipient)
    await world.sharing.set_keeping(owner, Keeping())
    # Withdrawn is withdrawn: the grants come back as new ones, whose start is not in the past.
    lines = [line for line in text.splitlines() if " grant: c_" not in line and " start: " not in line]
    assert await applied(world, parse_settings("\n".join(lines))) == ["keeping", "make", "make"]
    after = await world.sharing.grants(owner)
    assert sorted(grant.terms.purpose for grant in after) == sorted(grant.terms.purpose for grant in before)
    assert {grant.terms.data_from for grant in after} == {grant.terms.data_from for grant in before}
    assert (await world.sharing.keeping(owner)).never == {"load_power_w"}


async def test_of_several_alike_the_named_one_is_changed(world):
    owner, recipient, handle = await parties(world)
    first = await world.sharing.set_grant(owner, recipient, terms(classes=["battery"]))
    second = await world.sharing.set_grant(owner, recipient, terms(classes=["grid"]))
    named = daily(handle, classes=["alert"], grant=shown_key("grant", second.grant_key))
    assert await applied(world, file_of((owner, {"grants": [daily(handle, classes=["battery"]), named]}))) == ["change"]
    standing = {grant.grant_key: (grant.version, *grant.terms.classes) for grant in await world.sharing.grants(owner)}
    assert standing == {first.grant_key: (1, "battery"), second.grant_key: (2, "alert")}
    with pytest.raises(InputError, match="named twice"):
        await rehearse(world.sharing, file_of((owner, {"grants": [named, named]})))


async def test_of_several_alike_equal_ones_are_paired_before_the_rest(world):
    owner, recipient, handle = await parties(world)
    first = await world.sharing.set_grant(owner, recipient, terms(classes=["battery"]))
    second = await world.sharing.set_grant(owner, recipient, terms(classes=["grid"]))
    file = file_of((owner, {"grants": [daily(handle, classes=["log"]), daily(handle, classes=["battery"])]}))
    (change,) = await rehearse(world.sharing, file)
    assert (change.what, change.grant) == ("change", shown_key("grant", second.grant_key))
    assert change.after["data_from"] == "now"  # a class that was not shared before
    await apply(world.sharing, file, [change])
    assert first in await world.sharing.grants(owner)


async def test_replaced_purposes_begin_a_new_epoch(world):
    # What ends ends first: the recipient cannot link before and after (rule 23).
    owner, recipient, handle = await parties(world)
    await world.sharing.set_grant(owner, recipient, terms())
    assert await applied(world, file_of((owner, {"grants": [daily(handle, purpose="billing")]}))) == [
        "withdraw",
        "make",
    ]
    (grant,) = await world.sharing.grants(owner)
    assert grant.epoch == 2


async def test_what_is_over_is_neither_exported_nor_withdrawn_nor_changed(world):
    owner, recipient, handle = await parties(world)
    ended = await world.sharing.set_grant(owner, recipient, terms(until=datetime.now(UTC) + timedelta(days=1)))
    await world.let_end(ended.grant_key)
    await world.policy("over-1")
    await world.sharing.set_grant(owner, recipient, terms(), policy="over-1")
    await world.policy("over-1", datetime.now(UTC) - timedelta(hours=1))
    assert " grants: []" in await export(world.sharing, [owner])
    assert await applied(world, file_of((owner, {"grants": []}))) == []
    assert await applied(world, file_of((owner, {"grants": [daily(handle)]}))) == ["make"]
