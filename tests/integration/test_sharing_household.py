"""Recipients, keeping, members, restriction, objection and stored receipts, on a real database."""

import json

import pytest
import pytest_asyncio

from telemetry.errors import InputError, PartyUnknown, ReceiptInvalid, SharingError, StoreError
from telemetry.model.sharing import Keeping, MemberRight, RecipientKind, SharingPurpose
from telemetry.privacy.combine import Objection, Standing
from telemetry.privacy.keys import Purpose
from telemetry.privacy.receipts import verify_receipt
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


async def actions(world: SharingWorld, owner: int) -> list[str]:
    rows = await world.rows("SELECT action FROM audit.event WHERE owner_key = $1 ORDER BY event_key", owner)
    return [row["action"] for row in rows if row["action"] not in {"owner.add", "site.add", "gateway.enrol"}]


class TestRecipients:
    async def test_each_kind_is_added_listed_found_and_closed(self, world):
        for kind in RecipientKind:
            key = await world.recipients.add(f"example-{kind.value.replace('_', '-')}", kind)
            found = await world.recipients.find(key)
            assert (found.kind, found.closed_at) == (kind, None)
            assert await world.recipients.find(found.handle) == found
            await world.recipients.close(key)
        listed = {row["handle"]: row for row in await world.recipients.list()}
        assert listed["example-installer"]["closed_at"] is not None
        assert listed["example-installer"]["owners"] == 0

    async def test_a_handle_is_never_given_twice_not_even_after_closing(self, world):
        key = await world.recipients.add("only-once", RecipientKind.INSTALLER)
        await world.recipients.close(key)
        with pytest.raises(SharingError, match="exists or existed"):
            await world.recipients.add("only-once", RecipientKind.API_DEVELOPER)

    @pytest.mark.parametrize("handle", ["ab", "-abc", "ABC", "a_b_c", "x" * 65, "ab c"])
    async def test_a_handle_of_another_form_is_refused(self, world, handle):
        with pytest.raises(InputError):
            await world.recipients.add(handle, RecipientKind.INSTALLER)

    async def test_an_owner_cannot_add_a_recipient(self, world):
        with pytest.raises(StoreError, match="42501"):
            await type(world.recipients)(world.rights).add("by-an-owner", RecipientKind.INSTALLER)

    async def test_what_is_done_is_recorded(self, world):
        key = await world.recipient()
        await world.recipients.close(key)
        rows = await world.rows("SELECT action, actor, affected FROM audit.event WHERE subject_key = $1", key)
        assert [(row["action"], row["actor"], row["affected"]) for row in rows] == [
            ("recipient.add", "telemetry_operator", 1),
            ("recipient.close", "telemetry_operator", 0),
        ]


class TestKeeping:
    async def test_settings_come_back_and_each_change_is_a_version(self, world):
        owner = (await world.home()).owner_key
        assert await world.sharing.keeping(owner) == Keeping()
        wished = Keeping(
            wished="PT1H",
            finest="PT30M",
            classes=["production"],
            fields=["temperature_c"],
            never=["load_power_w"],
            retention_days={"production": 30},
        )
        await world.sharing.set_keeping(owner, wished)
        await world.sharing.set_keeping(owner, wished)  # says nothing new
        assert await world.sharing.keeping(owner) == wished
        await world.sharing.set_keeping(owner, Keeping())
        rows = await world.rows("SELECT version, settings FROM consent.keeping_version WHERE owner_key = $1", owner)
        stored = [Keeping.model_validate_json(row["settings"]) for row in rows]
        assert ([row["version"] for row in rows], stored) == ([1, 2], [wished, Keeping()])
        assert await actions(world, owner) == ["keeping.set"] * 2
        assert world.compiled[-1] == [owner]

    async def test_how_long_things_are_kept_stands_in_the_receipt(self, world):
        owner, recipient = (await world.home()).owner_key, await world.recipient()
        await world.sharing.set_keeping(owner, Keeping(retention_days={"production": 30}))
        asked = terms(fields=["temperature_c"])
        grant = await world.sharing.set_grant(owner, recipient, asked)
        record = verify_receipt(await world.sharing.receipt(grant.grant_key), world.signer.public_key)
        assert record["processing"]["retention_days"] == {"operation": 1098, "production": 30}


class TestMembers:
    async def test_a_member_is_known_by_key_and_the_name_is_in_the_vault(self, world):
        home = await world.home()
        owner = home.owner_key
        async with world.sharing.settling() as settlement:
            key = await settlement.add_member(owner, "CANARY MEMBER", [MemberRight.SEE])
        (row,) = await world.sharing.members(owner)
        assert (row["member_key"], row["rights"], row["removed_at"]) == (key, ["see"], None)
        revealed = await world.registry.administration.reveal(Purpose.MEMBER_NAME, [(owner, key)])
        assert revealed == {key: "CANARY MEMBER"}
        (entry,) = await world.rows("SELECT sealed FROM vault.entry WHERE subject_key = $1", key)
        assert b"CANARY" not in entry["sealed"]

    async def test_rights_are_changed_and_removal_deletes_the_name(self, world):
        owner = (await world.home()).owner_key
        async with world.sharing.settling() as settlement:
            key = await settlement.add_member(owner, "Example", [])
            await settlement.set_member(owner, key, [MemberRight.SHARE, MemberRight.RIGHTS])
        (row,) = await world.sharing.members(owner)
        assert row["rights"] == ["rights", "share"]
        async with world.sharing.settling() as settlement:
            await settlement.remove_member(owner, key)
        (row,) = await world.sharing.members(owner)
        assert row["removed_at"] is not None
        assert await world.rows("SELECT FROM vault.entry WHERE subject_key = $1", key) == []
        for change in ("set_member", "remove_member"):
            with pytest.raises(PartyUnknown):
                async with world.sharing.settling() as settlement:
                    await getattr(settlement, change)(owner, key, *([[]] if change == "set_member" else []))
        assert (await actions(world, owner))[:3] == ["member.add", "member.set", "member.remove"]

    async def test_another_owners_member_is_out_of_reach(self, world):
        owner, other = (await world.home()).owner_key, (await world.home()).owner_key
        async with world.sharing.settling() as settlement:
            key = await settlement.add_member(owner, "Example", [])
        with pytest.raises(PartyUnknown):
            async with world.sharing.settling() as settlement:
                await settlement.remove_member(other, key)

    @pytest.mark.parametrize("name", ["", "   ", "x" * 501, "tab\there"])
    async def test_a_name_of_another_form_is_refused(self, world, name):
        owner = (await world.home()).owner_key
        with pytest.raises(InputError) as refusal:
            async with world.sharing.settling() as settlement:
                await settlement.add_member(owner, name, [])
        assert not name.strip() or name not in str(refusal.value)


class TestRestrictionAndObjection:
    async def test_a_restriction_begins_and_is_lifted_once(self, world):
        owner = (await world.home()).owner_key
        recipient = await world.sharing.recipient(await world.recipient())
        async with world.sharing.settling() as settlement:
            await settlement.restrict(owner)
        with pytest.raises(PartyUnknown, match="already"):
            async with world.sharing.settling() as settlement:
                await settlement.restrict(owner)
        standing = await world.sharing.standing(owner, recipient, await world.sharing.now())
        assert [one.lifted_us for one in standing.restrictions] == [None]
        async with world.sharing.settling() as settlement:
            await settlement.lift(owner)
        with pytest.raises(PartyUnknown, match="no restriction"):
            async with world.sharing.settling() as settlement:
                await settlement.lift(owner)
        (row,) = await world.sharing.restrictions(owner)
        assert row["lifted_at"] > row["from_at"]
        assert await actions(world, owner) == ["restriction.begin", "restriction.lift"]

    async def test_an_objection_is_as_wide_as_it_was_made(self, world):
        owner = (await world.home()).owner_key
        recipient = await world.sharing.recipient(await world.recipient())
        key, purpose = recipient.recipient_key, SharingPurpose.BILLING
        async with world.sharing.settling() as settlement:
            await settlement.make_objection(owner, purpose)
            await settlement.make_objection(owner, purpose, key)
        with pytest.raises(PartyUnknown, match="stands already"):
            async with world.sharing.settling() as settlement:
                await settlement.make_objection(owner, purpose)
        async with world.sharing.settling() as settlement:
            await settlement.withdraw_objection(owner, purpose)
        standing = await world.sharing.standing(owner, recipient, await world.sharing.now())
        assert standing == Standing(objections=(Objection("billing", key),))
        with pytest.raises(PartyUnknown, match="no such objection"):
            async with world.sharing.settling() as settlement:
                await settlement.withdraw_objection(owner, SharingPurpose.WARRANTY, key)
        with pytest.raises(PartyUnknown, match="recipient is unknown"):
            async with world.sharing.settling() as settlement:
                await settlement.make_objection(owner, purpose, 42)


class TestReceipts:
    async def test_every_version_has_its_receipt_and_the_last_tells_the_whole_life(self, world):
        home, recipient = await world.home(), await world.recipient()
        owner = home.owner_key
        first = await world.sharing.set_grant(owner, recipient, terms(classes=["production", "alert"]))
        await world.sharing.set_grant(owner, recipient, terms(), grant_key=first.grant_key)
        await world.sharing.withdraw(owner, grant_key=first.grant_key)
        records = [
            verify_receipt(await world.sharing.receipt(first.grant_key, version), world.signer.public_key)
            for version in (1, 2, 3, None)
        ]
        assert records[2] == records[3]
        states = [[event["event_state"] for event in record["events"]] for record in records[:3]]
        assert states == [["given"], ["given", "changed"], ["given", "changed", "withdrawn"]]
        assert records[0]["pii_information"]["classes"] == ["alert", "production"]
        assert records[0]["jurisdiction"] == "default"
        with pytest.raises(PartyUnknown):
            await world.sharing.receipt(first.grant_key, 4)

    async def test_a_receipt_changed_in_the_database_does_not_verify(self, world):
        owner, recipient = (await world.home()).owner_key, await world.recipient()
        grant = await world.sharing.set_grant(owner, recipient, terms())
        other = await world.sharing.set_grant(owner, recipient, terms(purpose="billing"))
        bodies = [(await world.sharing.receipt(one.grant_key)).split(".") for one in (grant, other)]
        mixed = ".".join([bodies[0][0], bodies[1][1], bodies[0][2]])
        await world.admin.execute("UPDATE consent.receipt SET jws = $2 WHERE grant_key = $1", grant.grant_key, mixed)
        with pytest.raises(ReceiptInvalid):
            verify_receipt(await world.sharing.receipt(grant.grant_key), world.signer.public_key)

    async def test_a_receipt_names_nobody(self, world):
        owner, recipient = (await world.home()).owner_key, await world.recipient()
        grant = await world.sharing.set_grant(owner, recipient, terms())
        record = json.dumps(verify_receipt(await world.sharing.receipt(grant.grant_key), world.signer.public_key))
        handle = (await world.sharing.recipient(recipient)).handle
        assert handle not in record
        assert "Example" not in record
