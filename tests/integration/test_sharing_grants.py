"""Grants on a real database: made, changed, narrowed, withdrawn, refused; their history and their epochs."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from telemetry.errors import (
    HistoryTooFine,
    PartyUnknown,
    PolicyNotInForce,
    SharingError,
    SiteNotOwned,
    SolarUnconfirmed,
    StoreError,
)
from telemetry.model.fields import DataClass
from telemetry.model.sharing import GrantState, Keeping, SharingPurpose
from telemetry.store.registration import NewSite
from telemetry.store.sharing import Sharing
from tests.support.postgres import temporary_postgres
from tests.support.registry import registry_world
from tests.support.sharing import SharingWorld, refused, sharing_world, terms

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        sharing_world(registry) as opened,
    ):
        yield opened


async def parties(world: SharingWorld) -> tuple[int, int]:
    return (await world.home()).owner_key, await world.recipient()


async def audit(world: SharingWorld, owner: int) -> list[tuple[str, int | None]]:
    rows = await world.rows(
        "SELECT action, subject_key FROM audit.event WHERE owner_key = $1 AND action LIKE 'grant.%' ORDER BY event_key",
        owner,
    )
    return [(row["action"], row["subject_key"]) for row in rows]


class TestMaking:
    async def test_a_grant_starts_now_and_gives_no_earlier_data(self, world):
        owner, recipient = await parties(world)
        before = datetime.now(UTC)
        grant = await world.sharing.set_grant(owner, recipient, terms())
        assert before <= grant.terms.start <= datetime.now(UTC)
        assert grant.terms.data_from == grant.terms.start == grant.recorded_at
        assert (grant.version, grant.state, grant.epoch, grant.policy) == (1, GrantState.ACTIVE, 1, "2026-11")
        assert await world.sharing.grants(owner) == [grant]
        assert await audit(world, owner) == [("grant.make", grant.grant_key)]

    async def test_all_terms_come_back_from_the_database(self, world):
        home = await world.home()
        recipient, now = await world.recipient(), datetime.now(UTC)
        asked = terms(
            purpose="billing",
            classes=["grid", "alert"],
            fields=["temperature_c"],
            sites=[home.site_key],
            kinds=[1, 6],
            resolution="PT15M",
            serial="pseudonym",
            place="cell5",
            extremes=True,
            history=timedelta(days=30, seconds=1),
            data_from=now - 90 * DAY,
            start=now + HOUR,
            until=now + DAY,
        )
        grant = await world.sharing.set_grant(home.owner_key, recipient, asked)
        assert grant.terms == asked
        assert await world.sharing.grants(home.owner_key) == [grant]

    async def test_a_grant_to_come_gives_data_from_its_start_on(self, world):
        owner, recipient = await parties(world)
        start = datetime.now(UTC) + DAY
        grant = await world.sharing.set_grant(owner, recipient, terms(start=start))
        assert grant.terms.data_from == start

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"start": datetime.now(UTC) - HOUR}, "starts now or later"),
            ({"until": datetime.now(UTC) - HOUR}, "ended already"),
            ({"start": datetime.now(UTC) + 9 * DAY, "until": datetime.now(UTC) + DAY}, "until lies after start"),
        ],
    )
    async def test_instants_that_make_no_sense_are_refused(self, world, changes, said):
        owner, recipient = await parties(world)
        with pytest.raises((SharingError, ValueError), match=said):
            await world.sharing.set_grant(owner, recipient, terms(**changes))
        assert await world.sharing.history(owner) == []


class TestParties:
    async def test_an_unknown_and_an_erased_owner_are_refused(self, world):
        owner, recipient = await parties(world)
        await world.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", owner)
        for key in (owner, 42):
            with pytest.raises(PartyUnknown, match="owner is unknown or erased"):
                await world.sharing.set_grant(key, recipient, terms())
            with pytest.raises(PartyUnknown, match="owner is unknown or erased"):
                await world.sharing.grants(key)

    async def test_an_unknown_and_a_closed_recipient_are_refused(self, world):
        owner, recipient = await parties(world)
        await world.recipients.close(recipient)
        with pytest.raises(PartyUnknown, match="recipient is closed"):
            await world.sharing.set_grant(owner, recipient, terms())
        with pytest.raises(PartyUnknown, match="recipient is unknown"):
            await world.sharing.set_grant(owner, 42, terms())

    async def test_a_site_that_is_not_the_owners_is_refused_even_among_ones_that_are(self, world):
        home, other = await world.home(), await world.home()
        recipient = await world.recipient()
        for sites in ([other.site_key], [home.site_key, other.site_key], [42]):
            with pytest.raises(SiteNotOwned):
                await world.sharing.set_grant(home.owner_key, recipient, terms(sites=sites))
        await world.admin.execute("UPDATE consent.site SET tenure_until = now() WHERE site_key = $1", home.site_key)
        with pytest.raises(SiteNotOwned):
            await world.sharing.set_grant(home.owner_key, recipient, terms(sites=[home.site_key]))

    async def test_a_policy_must_be_in_force(self, world):
        owner, recipient = await parties(world)
        await world.policy("old-1", datetime.now(UTC) - DAY)
        await world.policy("next-1")
        later = datetime.now(UTC) + DAY
        await world.admin.execute("UPDATE consent.policy SET effective_from = $1 WHERE policy = 'next-1'", later)
        for policy in ("old-1", "next-1", "nobody-wrote-it"):
            with pytest.raises(PolicyNotInForce):
                await world.sharing.set_grant(owner, recipient, terms(), policy=policy)
        await world.policy("older-2")
        assert (await world.sharing.set_grant(owner, recipient, terms(), policy="older-2")).policy == "older-2"

    async def test_another_owners_grant_can_be_neither_changed_nor_withdrawn(self, world):
        owner, recipient = await parties(world)
        other = (await world.home()).owner_key
        grant = await world.sharing.set_grant(owner, recipient, terms())
        with pytest.raises(PartyUnknown):
            await world.sharing.set_grant(other, recipient, terms(), grant_key=grant.grant_key)
        with pytest.raises(PartyUnknown):
            await world.sharing.withdraw(other, grant_key=grant.grant_key)
        assert await world.sharing.grants(owner) == [grant]


class TestVersions:
    async def test_narrowing_is_a_new_version_that_keeps_start_data_from_and_epoch(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms(classes=["production", "battery"]))
        second = await world.sharing.set_grant(owner, recipient, terms(resolution="P1M"), grant_key=first.grant_key)
        assert (second.version, second.epoch) == (2, first.epoch)
        assert (second.terms.start, second.terms.data_from) == (first.terms.start, first.terms.data_from)
        assert await world.sharing.grants(owner) == [second]
        assert await world.sharing.history(owner) == [first, second]

    @pytest.mark.parametrize(
        "more",
        [
            {"classes": ["production", "battery"]},
            {"fields": ["temperature_c"]},
            {"resolution": "PT15M", "place": "exact"},
            {"extremes": True},
            {"sites": None},
            {"kinds": None},
        ],
    )
    async def test_what_is_allowed_anew_reaches_back_only_as_far_as_was_said(self, world, more):
        home, recipient = await world.home(), await world.recipient()
        owner, now = home.owner_key, datetime.now(UTC)
        narrow = {"sites": [home.site_key], "kinds": [1]}
        first = await world.sharing.set_grant(owner, recipient, terms(**narrow, data_from=now - 9 * DAY))
        wide = await world.sharing.set_grant(owner, recipient, terms(**narrow | more), grant_key=first.grant_key)
        assert wide.terms.start == first.terms.start
        assert wide.terms.data_from == wide.recorded_at
        said = terms(**narrow | more, data_from=now - 9 * DAY)
        again = await world.sharing.set_grant(owner, recipient, said, grant_key=first.grant_key)
        assert again.terms.data_from == now - 9 * DAY

    async def test_the_same_terms_again_make_no_version(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms())
        assert await world.sharing.set_grant(owner, recipient, terms(), grant_key=first.grant_key) == first
        assert await audit(world, owner) == [("grant.make", first.grant_key)]

    async def test_recipient_and_purpose_of_a_grant_stay(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms())
        for to, what in ((await world.recipient(), terms()), (recipient, terms(purpose="billing"))):
            with pytest.raises(SharingError, match="keeps its recipient and purpose"):
                await world.sharing.set_grant(owner, to, what, grant_key=first.grant_key)

    async def test_the_start_of_a_grant_that_has_begun_stays(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms())
        with pytest.raises(SharingError, match="has begun"):
            await world.sharing.set_grant(
                owner, recipient, terms(start=datetime.now(UTC) + DAY), grant_key=first.grant_key
            )

    async def test_what_is_withdrawn_or_over_is_not_changed_any_more(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms())
        await world.sharing.withdraw(owner, grant_key=first.grant_key)
        ending = await world.sharing.set_grant(owner, recipient, terms(until=datetime.now(UTC) + DAY))
        await world.let_end(ending.grant_key)
        await world.policy("short-1")
        old = await world.sharing.set_grant(owner, recipient, terms(), policy="short-1")
        await world.policy("short-1", datetime.now(UTC) - HOUR)
        for grant in (first, ending, old):
            with pytest.raises(PartyUnknown, match=r"withdrawn|ended"):
                await world.sharing.set_grant(owner, recipient, terms(), grant_key=grant.grant_key)
        with pytest.raises(PartyUnknown):
            await world.sharing.withdraw(owner, grant_key=first.grant_key)
        # Withdrawing what is over is in order: it ends for good.
        await world.sharing.withdraw(owner, grant_key=ending.grant_key)

    async def test_withdrawing_everything_of_a_recipient_leaves_the_others(self, world):
        owner, recipient = await parties(world)
        other = await world.recipient()
        for purpose in ("maintenance", "billing"):
            await world.sharing.set_grant(owner, recipient, terms(purpose=purpose))
        stays = await world.sharing.set_grant(owner, other, terms())
        ended = await world.sharing.withdraw(owner, recipient_key=recipient)
        assert [(grant.version, grant.state) for grant in ended] == [(2, GrantState.WITHDRAWN)] * 2
        assert await world.sharing.grants(owner) == [stays]
        with pytest.raises(PartyUnknown, match="nothing is granted"):
            await world.sharing.withdraw(owner, recipient_key=recipient)

    async def test_two_changes_of_one_owner_at_once_come_one_after_the_other(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms())
        connections = [await world.registry.connect("telemetry_rights") for _ in range(4)]
        try:
            each = [Sharing(connection, world.signer) for connection in connections]
            changes = [
                sharing.set_grant(owner, recipient, terms(fields=[name]), grant_key=first.grant_key)
                for sharing, name in zip(
                    each, ("temperature_c", "battery_soc_pct", "rssi_dbm", "log_code"), strict=True
                )
            ]
            done = await asyncio.gather(*changes)
        finally:
            for connection in connections:
                await connection.close()
        assert sorted(grant.version for grant in done) == [2, 3, 4, 5]
        stored = await world.sharing.history(owner)
        assert [grant.version for grant in stored] == [1, 2, 3, 4, 5]  # the order recorded is the order made


class TestEpochs:
    """Rule 23."""

    async def test_a_new_epoch_begins_when_a_grant_is_made_while_none_is_in_force(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms())
        second = await world.sharing.set_grant(owner, recipient, terms(purpose="billing"))
        assert (first.epoch, second.epoch) == (1, 1)
        await world.sharing.withdraw(owner, grant_key=first.grant_key)
        assert (await world.sharing.set_grant(owner, recipient, terms())).epoch == 1  # billing stood
        await world.sharing.withdraw(owner, recipient_key=recipient)
        again = await world.sharing.set_grant(owner, recipient, terms())
        assert again.epoch == 2
        assert again.terms.data_from == again.recorded_at  # and no earlier data
        assert await world.value("SELECT epoch FROM consent.relation WHERE owner_key = $1", owner) == 2

    async def test_an_ended_grant_and_one_under_an_expired_policy_are_not_in_force(self, world):
        owner, recipient = await parties(world)
        ended = await world.sharing.set_grant(owner, recipient, terms(until=datetime.now(UTC) + DAY))
        await world.let_end(ended.grant_key)
        await world.policy("brief-1")
        assert (await world.sharing.set_grant(owner, recipient, terms(), policy="brief-1")).epoch == 2
        await world.policy("brief-1", datetime.now(UTC) - HOUR)
        assert (await world.sharing.set_grant(owner, recipient, terms())).epoch == 3

    async def test_epochs_of_other_recipients_and_owners_are_their_own(self, world):
        owner, recipient = await parties(world)
        await world.sharing.set_grant(owner, recipient, terms())
        await world.sharing.withdraw(owner, recipient_key=recipient)
        assert (await world.sharing.set_grant(owner, recipient, terms())).epoch == 2
        assert (await world.sharing.set_grant(owner, await world.recipient(), terms())).epoch == 1
        assert (await world.sharing.set_grant((await world.home()).owner_key, recipient, terms())).epoch == 1


class TestRuleEight:
    @pytest.mark.parametrize("history", [None, timedelta(hours=2, seconds=1), DAY])
    async def test_finer_than_is_kept_with_a_history_is_refused(self, world, history):
        owner, recipient = await parties(world)
        with pytest.raises(HistoryTooFine, match=r"PT1M is finer than .*PT15M.* at most 2 h of history"):
            await world.sharing.set_grant(
                owner, recipient, terms(classes=["battery"], resolution="PT1M", history=history)
            )

    async def test_finer_than_is_kept_may_be_shown_live(self, world):
        owner, recipient = await parties(world)
        for resolution in ("raw", "PT1M"):
            live = terms(classes=["battery"], resolution=resolution, history=2 * HOUR)
            assert await world.sharing.set_grant(owner, recipient, live)

    async def test_what_may_be_kept_finer_may_be_shared_finer(self, world):
        owner, recipient = await parties(world)
        await world.sharing.set_keeping(owner, Keeping(finest="PT1M"))
        assert await world.sharing.set_grant(owner, recipient, terms(classes=["battery"], resolution="PT1M"))
        with pytest.raises(HistoryTooFine):
            await world.sharing.set_grant(owner, recipient, terms(classes=["battery"], resolution="raw"))


class TestSolarWarning:
    """Rule 19."""

    async def test_the_grants_of_the_worked_example_have_to_be_confirmed(self, world):
        # SEMANTICS.md: (a) ac_power_w and temperature_c, PT15M, place withheld; (b) ac_power_w, PT1H, cell5.
        owner, recipient = await parties(world)
        a = terms(classes=[], fields=["ac_power_w", "temperature_c"], resolution="PT15M")
        b = terms(classes=[], fields=["ac_power_w"], resolution="PT1H", place="cell5")
        with pytest.raises(SolarUnconfirmed, match=r"within about 5 km.*--confirm-solar 5") as refusal:
            await world.sharing.set_grant(owner, recipient, a)
        assert refusal.value.error_km == 5.0
        await world.sharing.set_grant(owner, recipient, a, confirmed_km=5.0)
        with pytest.raises(SolarUnconfirmed, match="a place of cell5") as refusal:
            await world.sharing.set_grant(owner, recipient, b)
        await world.sharing.set_grant(owner, recipient, b, confirmed_km=refusal.value.error_km)
        rows = await world.rows("SELECT confirmed_km FROM consent.grant_version WHERE owner_key = $1", owner)
        assert rows == [{"confirmed_km": 5.0}] * 2

    async def test_only_the_error_stated_confirms(self, world):
        owner, recipient = await parties(world)
        for confirmed in (None, 9.0, 4.9):
            with pytest.raises(SolarUnconfirmed):
                await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M"), confirmed_km=confirmed)
        assert await world.sharing.grants(owner) == []

    @pytest.mark.parametrize(
        "changes",
        [
            {"resolution": "P1D"},
            {"place": "cell6"},  # 3.4 km is less than 5
            {"place": "exact"},
            {"classes": ["battery"]},
            {"classes": [], "fields": ["temperature_c"]},
            {"kinds": [2, 5]},  # a battery and an EV charger see no sun
        ],
    )
    async def test_nothing_is_asked_where_the_curve_tells_nothing_more(self, world, changes):
        owner, recipient = await parties(world)
        assert await world.sharing.set_grant(owner, recipient, terms(**{"resolution": "PT15M"} | changes))

    async def test_live_raw_power_undercuts_even_the_finest_cell(self, world):
        owner, recipient = await parties(world)
        live = terms(resolution="raw", history=HOUR, place="cell7")
        with pytest.raises(SolarUnconfirmed) as refusal:
            await world.sharing.set_grant(owner, recipient, live)
        assert refusal.value.error_km == 0.5

    async def test_the_view_is_combined_with_what_stands_and_with_what_is_to_come(self, world):
        owner, recipient = await parties(world)
        start = datetime.now(UTC) + DAY
        exact = terms(classes=["battery"], place="exact", until=start)
        await world.sharing.set_grant(owner, recipient, exact)
        # Beside an exact place there is nothing to confirm, but that ends when this one begins.
        with pytest.raises(SolarUnconfirmed):
            await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M", start=start))
        await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M", until=start - HOUR))

    async def test_purposes_are_combined_each_on_its_own(self, world):
        owner, recipient = await parties(world)
        await world.sharing.set_grant(owner, recipient, terms(purpose="billing", classes=["battery"], place="exact"))
        with pytest.raises(SolarUnconfirmed):  # the exact place is another purpose's
            await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M"))

    async def test_a_change_is_measured_without_the_version_it_replaces(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M"), confirmed_km=5.0)
        assert await world.sharing.set_grant(owner, recipient, terms(), grant_key=first.grant_key)

    async def test_what_was_confirmed_is_not_asked_about_again_until_it_is_another_curve_or_place(self, world):
        owner, recipient = await parties(world)
        first = await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M"), confirmed_km=5.0)
        assert await world.sharing.set_grant(owner, recipient, terms(classes=["battery"]))
        more = terms(resolution="PT15M", fields=["temperature_c"])
        await world.sharing.set_grant(owner, recipient, more, grant_key=first.grant_key)
        rows = await world.rows("SELECT confirmed_km FROM consent.active_grant WHERE grant_key = $1", first.grant_key)
        assert rows == [{"confirmed_km": 5.0}]
        with pytest.raises(SolarUnconfirmed):
            await world.sharing.set_grant(owner, recipient, terms(classes=["battery"], place="cell4"))

    async def test_each_site_is_asked_about_and_of_several_the_weightiest_is(self, world):
        home, recipient = await world.home(), await world.recipient()
        owner = home.owner_key
        other = await world.registry.administration.add_site(owner, NewSite("Example Cabin"))
        live = {"resolution": "raw", "history": HOUR}
        await world.sharing.set_grant(owner, recipient, terms(**live, sites=[home.site_key]), confirmed_km=0.5)
        with pytest.raises(SolarUnconfirmed) as refusal:  # what was confirmed was another site's
            await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M", sites=[other]))
        assert refusal.value.error_km == 5.0

        async def both(*confirmed: float) -> None:
            async with world.sharing.settling() as settlement:
                for site, how, km in zip(
                    (home.site_key, other), (live, {"resolution": "PT1H"}), confirmed, strict=True
                ):
                    asked = terms(purpose="billing", sites=[site], **how)
                    await settlement.set_grant(owner, recipient, asked, confirmed_km=km)

        with pytest.raises(SolarUnconfirmed) as refusal:
            await both(5.0, 5.0)
        assert refusal.value.error_km == 0.5
        await both(0.5, 5.0)

    async def test_changes_of_one_transaction_are_judged_by_what_they_come_to(self, world):
        owner, recipient = await parties(world)
        async with world.sharing.settling() as settlement:  # the exact place comes second
            await settlement.set_grant(owner, recipient, terms(resolution="PT15M"))
            await settlement.set_grant(owner, recipient, terms(classes=["battery"], place="exact"))

        async def two() -> None:
            async with world.sharing.settling() as settlement:
                await settlement.set_grant(owner, recipient, terms(purpose="billing", classes=["battery"]))
                await settlement.set_grant(owner, recipient, terms(purpose="billing", resolution="PT1H"))

        async def a_harmless_one_second() -> None:
            async with world.sharing.settling() as settlement:
                await settlement.set_grant(owner, recipient, terms(purpose="warranty", resolution="PT1H"))
                await settlement.set_grant(owner, recipient, terms(purpose="warranty", classes=["battery"]))

        for attempt in (two, a_harmless_one_second):
            with pytest.raises(SolarUnconfirmed):
                await attempt()
        assert len(await world.sharing.grants(owner)) == 2


class TestHistory:
    """SHARE-5: who was allowed what at an instant."""

    async def test_what_counted_at_an_instant(self, world):
        owner, recipient = await parties(world)
        moments = [await world.sharing.now()]
        first = await world.sharing.set_grant(owner, recipient, terms(classes=["production", "battery"]))
        moments.append(await world.sharing.now())
        second = await world.sharing.set_grant(owner, recipient, terms(), grant_key=first.grant_key)
        moments.append(await world.sharing.now())
        async with world.sharing.settling() as settlement:
            await settlement.restrict(owner)
        moments.append(await world.sharing.now())
        async with world.sharing.settling() as settlement:
            await settlement.lift(owner)
        moments.append(await world.sharing.now())
        async with world.sharing.settling() as settlement:
            await settlement.make_objection(owner, SharingPurpose.MAINTENANCE, recipient)
        moments.append(await world.sharing.now())
        async with world.sharing.settling() as settlement:
            await settlement.withdraw_objection(owner, SharingPurpose.MAINTENANCE, recipient)
        moments.append(await world.sharing.now())
        await world.sharing.withdraw(owner, grant_key=first.grant_key)
        moments.append(await world.sharing.now())
        found = [await world.sharing.allowed_at(owner, at, recipient) for at in moments]
        assert found == [[], [first], [second], [], [second], [], [second], []]
        assert DataClass.BATTERY in found[1][0].terms.classes

    async def test_grants_to_come_ended_ones_expired_policies_and_closed_recipients_count_in_their_time(self, world):
        owner, recipient = await parties(world)
        now = datetime.now(UTC)
        await world.policy("until-1", now + 30 * DAY)
        grant = await world.sharing.set_grant(
            owner, recipient, terms(start=now + 10 * DAY, until=now + 60 * DAY), policy="until-1"
        )
        found = [await world.sharing.allowed_at(owner, now + days * DAY) for days in (5, 15, 40)]
        assert found == [[], [grant], []]
        await world.recipients.close(recipient)
        assert await world.sharing.allowed_at(owner, now + 15 * DAY) == []

    async def test_an_objection_of_one_recipient_is_no_other_recipients(self, world):
        owner, recipient = await parties(world)
        other = await world.recipient()
        grants = [await world.sharing.set_grant(owner, to, terms()) for to in (recipient, other)]
        async with world.sharing.settling() as settlement:
            await settlement.make_objection(owner, SharingPurpose.MAINTENANCE, recipient)
        assert await world.sharing.allowed_at(owner, await world.sharing.now()) == grants[1:]

    async def test_histories_take_nothing_but_new_rows(self, world):
        owner, recipient = await parties(world)
        await world.sharing.set_grant(owner, recipient, terms())
        await world.sharing.set_keeping(owner, Keeping(wished="PT1H"))
        tables = ("grant_version", "keeping_version", "receipt")
        roles = ("telemetry_rights", "telemetry_operator", "telemetry_ingest", "telemetry_rollup", "telemetry_views")
        for role in roles:
            connection = await world.registry.connect(role)
            try:
                for table in tables:
                    assert await refused(connection, f"UPDATE consent.{table} SET owner_key = owner_key")
                    assert await refused(connection, f"DELETE FROM consent.{table}")
                    assert await refused(connection, f"TRUNCATE consent.{table}")
                for table in ("active_grant", "keeping"):
                    assert await refused(connection, f"DELETE FROM consent.{table}")
                    assert await refused(connection, f"UPDATE consent.{table} SET owner_key = owner_key")
                assert await refused(connection, "DELETE FROM audit.event")
            finally:
                await connection.close()

    async def test_a_version_is_never_written_twice(self, world):
        owner, recipient = await parties(world)
        grant = await world.sharing.set_grant(owner, recipient, terms())
        with pytest.raises(StoreError, match="23505"):
            async with world.sharing.settling() as settlement:
                await settlement._connection.execute(
                    "INSERT INTO consent.grant_version SELECT * FROM consent.grant_version WHERE grant_key = $1",
                    grant.grant_key,
                )


class TestTelling:
    async def test_a_change_marks_its_owner_tells_and_then_compiles(self, world):
        owner, recipient = await parties(world)
        heard: asyncio.Queue[str] = asyncio.Queue()
        listener = await world.registry.connect("telemetry_views")
        await listener.add_listener("telemetry_consent", lambda *heard_of: heard.put_nowait(heard_of[-1]))
        try:
            marked = Sharing(world.rights, world.signer)  # nobody compiles
            grant = await marked.set_grant(owner, recipient, terms())
            assert await asyncio.wait_for(heard.get(), 10) == str(owner)
            assert await world.value("SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", owner) == 1
            await world.sharing.withdraw(owner, grant_key=grant.grant_key)
            assert await asyncio.wait_for(heard.get(), 10) == str(owner)
            assert world.compiled[-1] == [owner]
            assert await world.value("SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", owner) == 0
        finally:
            await listener.close()

    async def test_what_is_refused_leaves_no_trace(self, world):
        owner, recipient = await parties(world)
        calls = len(world.compiled)
        before = await world.value("SELECT count(*) FROM audit.event")
        with pytest.raises(SolarUnconfirmed):
            await world.sharing.set_grant(owner, recipient, terms(resolution="PT15M"))
        assert await world.value("SELECT count(*) FROM audit.event") == before
        assert await world.value("SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", owner) == 0
        assert await world.value("SELECT count(*) FROM consent.relation WHERE owner_key = $1", owner) == 0
        assert len(world.compiled) == calls

    async def test_a_change_stands_though_its_compilation_failed(self, world):
        owner, recipient = await parties(world)

        async def fails(_):
            raise StoreError("out of order")

        sharing = Sharing(world.rights, world.signer, fails)
        grant = await sharing.set_grant(owner, recipient, terms())
        assert isinstance(sharing.behind, StoreError)
        assert await world.sharing.grants(owner) == [grant]
        assert await world.value("SELECT count(*) FROM consent.dirty_owner WHERE owner_key = $1", owner) == 1

    async def test_closing_a_recipient_marks_every_owner_who_granted_it_something(self, world):
        homes = [await world.home() for _ in range(3)]
        recipient = await world.recipient()
        for home in homes[:2]:
            await world.sharing.set_grant(home.owner_key, recipient, terms())
        assert await world.recipients.close(recipient) == 2
        rows = await world.rows("SELECT owner_key FROM consent.dirty_owner")
        marked = {row["owner_key"] for row in rows}
        assert [home.owner_key in marked for home in homes] == [True, True, False]
        with pytest.raises(PartyUnknown):
            await world.recipients.close(recipient)
