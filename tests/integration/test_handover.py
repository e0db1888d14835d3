"""A device is replaced and its series goes on; a home is sold, and neither owner sees the other's tenure."""

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest
import pytest_asyncio

from telemetry.errors import RegistryError, SiteNotOwned, UnsealError
from telemetry.model.batch import Withheld
from telemetry.model.fields import DeviceKind
from telemetry.model.sharing import Keeping
from telemetry.privacy.binding import Registry
from telemetry.privacy.keys import Opener, Purpose
from telemetry.store.handover import Handover
from telemetry.store.plans import recompile
from telemetry.store.registration import NewOwner, NewSite
from tests.support.postgres import temporary_postgres
from tests.support.registries import decoded, run
from tests.support.registry import Home, random_serial, registry_world
from tests.support.sharing import SharingWorld, sharing_world, terms

pytestmark = pytest.mark.asyncio(loop_scope="module")
KIND = DeviceKind.INVERTER


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory):
    async with (
        temporary_postgres() as postgres,
        registry_world(postgres, tmp_path_factory.mktemp("keys") / "keys") as registry,
        sharing_world(registry) as opened,
    ):
        yield opened


@pytest.fixture
def handover(world) -> Handover:
    return Handover(world.operator, world.registry.blind, world.registry.ring)


async def enrolled(world: SharingWorld, home: Home, serial: str, kind: DeviceKind = KIND) -> int:
    done = await world.registry.store.enrol([await world.registry.device(home, serial, kind)])
    (device,) = done.devices
    return device.device_key


async def serial_of(world: SharingWorld, owner: int, device: int) -> str | None:
    found = await world.registry.administration.reveal(Purpose.DEVICE_SERIAL, [(owner, device)])
    return found.get(device)


async def device_with(world: SharingWorld, site: int, serial: str) -> int | None:
    statement = "SELECT device_key FROM consent.device WHERE site_key = $1 AND serial_blind = $2"
    return await world.value(statement, site, world.registry.blind.serial(serial))


async def events(world: SharingWorld, owner: int) -> list[tuple[Any, ...]]:
    rows = await world.rows(
        "SELECT action, actor, subject_key, affected FROM audit.event"
        " WHERE owner_key = $1 AND action ~ '(replace|retire|reseal|sell|buy)' ORDER BY event_key",
        owner,
    )
    return [tuple(row.values()) for row in rows]


class TestDeviceReplaced:
    async def test_the_series_goes_on_under_the_same_key(self, world, handover):
        home, old, new = await world.home(), random_serial(), random_serial()
        device = await enrolled(world, home, old)
        done = await handover.replace_device(device, new)
        assert (done.device_key, done.retired_key) == (device, None)
        assert await device_with(world, home.site_key, new) == device
        assert await device_with(world, home.site_key, old) is None
        assert await serial_of(world, home.owner_key, device) == new
        assert await enrolled(world, home, new) == device  # what ingest finds under the new serial
        assert await events(world, home.owner_key) == [("device.replace", "telemetry_operator", device, 1)]

    async def test_a_device_that_enrolled_under_the_new_serial_is_retired(self, world, handover):
        home, old, new = await world.home(), random_serial(), random_serial()
        device, stub = await enrolled(world, home, old), await enrolled(world, home, new)
        done = await handover.replace_device(device, new)
        assert done.retired_key == stub
        assert await device_with(world, home.site_key, new) == device
        (row,) = await world.rows("SELECT serial_blind, retired_at FROM consent.device WHERE device_key = $1", stub)
        assert row["retired_at"] is not None
        assert row["serial_blind"] != world.registry.blind.serial(new)
        assert [event[0] for event in await events(world, home.owner_key)] == ["device.retire", "device.replace"]

    async def test_a_retired_device_takes_no_room_at_its_gateway(self, world, handover):
        home = await world.registry.home(device_limit=2)
        new = random_serial()
        device = await enrolled(world, home, random_serial())
        await enrolled(world, home, new)
        await handover.replace_device(device, new)
        assert await enrolled(world, home, random_serial())

    async def test_workers_learn_of_it_without_loading_everything(self, world, handover):
        home, old, new = await world.home(), random_serial(), random_serial()
        device = await enrolled(world, home, old)
        _, _, plan = await world.registry.store.load()
        await handover.replace_device(device, new)
        changes = await world.registry.store.changes(plan)
        assert changes is not None
        assert changes.sites == [home.site_key]
        blinds = changes.devices.filter(pl.col("device_key") == device)["serial_blind"].to_list()
        assert [bytes(blind) for blind in blinds] == [world.registry.blind.serial(new)]

    async def test_a_running_worker_goes_on_with_the_series(self, world, handover):
        home, old, new = await world.home(), random_serial(), random_serial()
        device, stub = await enrolled(world, home, old), await enrolled(world, home, new)
        gateways, devices, plan = await world.registry.store.load()
        registry = Registry(world.registry.blind, gateways, devices, plan)

        def bound() -> list[int]:
            rows = decoded([{"serial": new, "ac_power_w": 1.0}])
            return run(registry, rows, [home.gateway_name]).rows["device_key"].to_list()

        assert bound() == [stub]
        await handover.replace_device(device, new)
        changes = await world.registry.store.changes(registry.plan)
        registry.update(
            plan=changes.plan, gateways=changes.gateways, devices=changes.devices, whole_sites=changes.sites
        )
        assert bound() == [device]

    async def test_what_cannot_be_replaced_is_refused_and_stays(self, world, handover):
        home, serial, other = await world.home(), random_serial(), random_serial()
        device = await enrolled(world, home, serial)
        await enrolled(world, home, other, DeviceKind.BATTERY)
        for key, said, why in (
            (42, random_serial(), "unknown or retired"),
            (device, serial, "has this serial already"),
            (device, other, "enrolled as battery and cannot replace a device of kind inverter"),
            (device, "", "printable"),
            (device, "x" * 65, "printable"),
            (device, "a\nb", "printable"),
        ):
            with pytest.raises(RegistryError, match=why) as refusal:
                await handover.replace_device(key, said)
            assert not said or said not in str(refusal.value)
        assert await serial_of(world, home.owner_key, device) == serial
        assert await events(world, home.owner_key) == []
        await handover.replace_device(device, random_serial())
        stub = await enrolled(world, home, random_serial())
        await world.admin.execute("UPDATE consent.device SET retired_at = now() WHERE device_key = $1", stub)
        with pytest.raises(RegistryError, match="unknown or retired"):
            await handover.replace_device(stub, random_serial())

    async def test_the_same_serial_at_another_site_is_left_alone(self, world, handover):
        home, other, serial = await world.home(), await world.home(), random_serial()
        device, elsewhere = await enrolled(world, home, random_serial()), await enrolled(world, other, serial)
        assert (await handover.replace_device(device, serial)).retired_key is None
        assert await device_with(world, other.site_key, serial) == elsewhere


class TestSiteSold:
    async def sold(self, world, handover, count: int = 3, **rest: Any) -> Any:
        home = await world.home()
        serials = [random_serial() for _ in range(count)]
        devices = [await enrolled(world, home, serial) for serial in serials]
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        done = await handover.sell_site(home.site_key, buyer, NewSite("New Home"), **rest)
        return home, buyer, serials, devices, done

    async def test_site_and_devices_have_new_keys_and_their_serials_are_sealed_to_the_new_owner(self, world, handover):
        home, buyer, serials, devices, done = await self.sold(world, handover)
        assert list(done.devices) == sorted(devices)
        assert done.new_site_key != home.site_key
        for serial, device in zip(serials, devices, strict=True):
            renewed = done.devices[device]
            assert renewed not in devices
            assert await device_with(world, done.new_site_key, serial) == renewed
            assert await device_with(world, home.site_key, serial) is None
            assert await serial_of(world, buyer, renewed) == serial
            assert await serial_of(world, home.owner_key, device) == serial  # of the own tenure, rule 25
        retired = await world.rows(
            "SELECT count(*) FROM consent.device WHERE site_key = $1 AND retired_at IS NOT NULL", home.site_key
        )
        assert retired == [{"count": 3}]

    async def test_tenures_meet_in_one_instant(self, world, handover):
        _, _, _, _, done = await self.sold(world, handover)
        edges = await world.rows(
            "SELECT site_key, tenure_from, tenure_until FROM consent.site WHERE site_key = ANY ($1::bigint[])",
            [done.site_key, done.new_site_key],
        )
        by_site = {row["site_key"]: row for row in edges}
        assert by_site[done.site_key]["tenure_until"] == done.tenure_from
        assert by_site[done.new_site_key]["tenure_from"] == done.tenure_from
        assert by_site[done.site_key]["tenure_from"] is None
        assert by_site[done.new_site_key]["tenure_until"] is None

    async def test_it_may_have_happened_earlier_within_the_tenure(self, world, handover):
        at = datetime.now(UTC) - timedelta(days=2)
        _, _, _, _, done = await self.sold(world, handover, at=at)
        assert done.tenure_from == at
        third = await world.registry.administration.add_owner(NewOwner("Example Third"))
        for wrong in (at, at - timedelta(days=1), datetime.now(UTC) + timedelta(hours=1)):
            with pytest.raises(RegistryError, match="now or earlier"):
                await handover.sell_site(done.new_site_key, third, NewSite("Home"), at=wrong)
        assert await handover.sell_site(done.new_site_key, third, NewSite("Home"))

    async def test_the_gateway_speaks_for_the_new_site_and_keeps_its_name(self, world, handover):
        home, buyer, serials, devices, done = await self.sold(world, handover)
        assert done.gateways == 1
        gateways, _, _ = await world.registry.store.load()
        (gateway,) = [one for one in gateways if one.gateway_key == home.gateway_key]
        assert (gateway.site_key, gateway.owner_key) == (done.new_site_key, buyer)
        assert gateway.tenure_from_us == round(done.tenure_from.timestamp() * 1e6)
        named = await world.registry.administration.reveal(Purpose.GATEWAY_NAME, [(buyer, home.gateway_key)])
        assert named == {home.gateway_key: home.gateway_name}
        # What it sends under a known serial is the new owner's device.
        moved = Home(buyer, done.new_site_key, home.gateway_key, home.gateway_name)
        assert await enrolled(world, moved, serials[0]) == done.devices[devices[0]]

    async def test_a_revoked_gateway_stays_with_the_old_owner(self, world, handover):
        home = await world.home()
        await world.registry.administration.revoke_gateway(home.gateway_key)
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        done = await handover.sell_site(home.site_key, buyer, NewSite("New Home"))
        assert done.gateways == 0
        site = await world.value("SELECT site_key FROM consent.gateway WHERE gateway_key = $1", home.gateway_key)
        assert site == home.site_key

    async def test_names_and_place_of_the_seller_do_not_pass(self, world, handover):
        owner = await world.registry.administration.add_owner(NewOwner("Example Seller"))
        place = NewSite("CANARY CABIN", "CANARY STREET 1", 46.5, 7.25)
        site = await world.registry.administration.add_site(owner, place)
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        done = await handover.sell_site(site, buyer, NewSite("New Home"))
        rows = await world.rows(
            "SELECT subject_key, attribute FROM vault.entry WHERE owner_key = $1 AND subject_kind = 'site'", buyer
        )
        assert rows == [{"subject_key": done.new_site_key, "attribute": "name"}]
        names = await world.registry.administration.reveal(Purpose.SITE_NAME, [(buyer, done.new_site_key)])
        assert names == {done.new_site_key: "New Home"}
        places = await world.rows("SELECT site_key, cell7, country FROM consent.site_place ORDER BY cell7")
        assert [row["cell7"] for row in places if row["site_key"] == done.new_site_key] in ([], [None])
        # The old owner keeps them.
        stays = await world.registry.administration.reveal(Purpose.SITE_ADDRESS, [(owner, site)])
        assert stays == {site: "CANARY STREET 1"}

    async def test_the_place_of_the_home_is_said_anew(self, world, handover):
        home, buyer = await world.home(), await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        new = NewSite("New Home", "", 46.5, 7.25, "CH", "CH-BE", "Europe/Zurich")
        done = await handover.sell_site(home.site_key, buyer, new)
        (place,) = await world.rows("SELECT * FROM consent.site_place WHERE site_key = $1", done.new_site_key)
        assert place["cell7"] is not None
        assert (place["country"], place["region"], place["timezone"]) == ("CH", "CH-BE", "Europe/Zurich")

    async def test_the_old_owners_key_does_not_open_what_the_new_owner_has(self, world, handover):
        home, buyer, _, devices, done = await self.sold(world, handover, count=1)
        opener: Opener = await world.registry.ring.opener(home.owner_key)
        renewed = done.devices[devices[0]]
        sealed = await world.value(
            "SELECT sealed FROM vault.entry WHERE owner_key = $1 AND subject_key = $2", buyer, renewed
        )
        with pytest.raises(UnsealError):
            opener.open(sealed, purpose=Purpose.DEVICE_SERIAL, subject_key=renewed)

    async def test_no_serial_is_in_clear_in_any_table(self, world, handover):
        _, _, serials, _, _ = await self.sold(world, handover)
        tables = await world.rows(
            "SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE c.relkind = 'r' AND n.nspname IN ('consent', 'vault', 'audit', 'readings')"
        )
        for table in tables:
            for row in await world.rows(f"SELECT * FROM {table['name']}"):
                text = repr(row)
                assert not any(serial in text for serial in serials)

    async def test_the_old_owners_grants_do_not_reach_the_new_site(self, world, handover):
        home = await world.home()
        recipient = await world.recipient()
        grant = await world.sharing.set_grant(home.owner_key, recipient, terms(sites=[home.site_key]))
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        done = await handover.sell_site(home.site_key, buyer, NewSite("New Home"))
        assert await world.sharing.grants(buyer) == []
        for site in (home.site_key, done.new_site_key):  # nor can it be widened to it, nor made again for the old one
            with pytest.raises(SiteNotOwned):
                await world.sharing.set_grant(home.owner_key, recipient, terms(sites=[site]))
        assert await world.sharing.grants(home.owner_key) == [grant]

    async def test_the_new_owners_settings_hold_from_the_first_reading_on(self, world, handover):
        home = await world.home()
        device = await enrolled(world, home, random_serial())
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        await world.sharing.set_keeping(buyer, Keeping(classes=[]))
        await recompile(world.rights, [buyer])
        done = await handover.sell_site(home.site_key, buyer, NewSite("New Home"))
        plan_class = await world.value(
            "SELECT plan_class FROM consent.device WHERE device_key = $1", done.devices[device]
        )
        assert plan_class != 0
        keep = await world.value("SELECT keep FROM consent.plan_class WHERE plan_class = $1", plan_class)
        assert not any(keep)
        marked = await world.rows("SELECT owner_key FROM consent.dirty_owner")
        assert {home.owner_key, buyer} <= {row["owner_key"] for row in marked}

    async def test_it_is_recorded_for_both_and_workers_learn_of_it(self, world, handover):
        home, buyer = await world.home(), await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        device = await enrolled(world, home, random_serial())
        _, _, plan = await world.registry.store.load()
        done = await handover.sell_site(home.site_key, buyer, NewSite("New Home"))
        operator = "telemetry_operator"
        assert await events(world, home.owner_key) == [
            ("gateway.reseal", operator, None, 1),
            ("device.reseal", operator, None, 1),
            ("site.sell", operator, home.site_key, 1),
        ]
        assert await events(world, buyer) == [("site.buy", operator, done.new_site_key, 1)]
        changes = await world.registry.store.changes(plan)
        assert changes is not None
        assert changes.sites == sorted([home.site_key, done.new_site_key])
        assert done.devices[device] in changes.devices["device_key"].to_list()
        assert [one.gateway_key for one in changes.gateways] == [home.gateway_key]

    async def test_a_running_worker_binds_to_the_new_owner_and_withholds_the_old_tenures_readings(
        self, world, handover
    ):
        home, serial = await world.home(), random_serial()
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        old = await enrolled(world, home, serial)
        gateways, devices, plan = await world.registry.store.load()
        registry = Registry(world.registry.blind, gateways, devices, plan)

        def bound(*ages_s: int) -> tuple[list[int], dict[Withheld, int]]:
            now = round(datetime.now(UTC).timestamp() * 1e6)
            rows = [{"serial": serial, "ts": now - age * 1_000_000, "ac_power_w": 1.0} for age in ages_s]
            result = run(registry, decoded(rows), [home.gateway_name], now_us=now)
            return result.rows["device_key"].to_list(), dict(result.withheld_rows)

        assert bound(0, 7200) == ([old, old], {})
        at = datetime.now(UTC) - timedelta(hours=1)
        done = await handover.sell_site(home.site_key, buyer, NewSite("New Home"), at=at)
        changes = await world.registry.store.changes(registry.plan)
        registry.update(
            plan=changes.plan, gateways=changes.gateways, devices=changes.devices, whole_sites=changes.sites
        )
        assert bound(0, 7200) == ([done.devices[old]], {Withheld.OTHER_TENURE: 1})

    async def test_what_cannot_be_sold_is_refused_and_nothing_changes(self, world, handover):
        home, buyer, _, _, done = await self.sold(world, handover)
        gone = await world.registry.administration.add_owner(NewOwner("Example Gone"))
        await world.admin.execute("UPDATE consent.owner SET erased_at = now() WHERE owner_key = $1", gone)
        before = await world.rows("SELECT count(*), max(event_key) FROM audit.event, consent.site")
        for site, to, why in (
            (42, buyer, "unknown or handed over"),
            (home.site_key, buyer, "unknown or handed over"),
            (done.new_site_key, buyer, "this owner's already"),
            (done.new_site_key, gone, "owner is unknown or erased"),
            (done.new_site_key, 42, "owner is unknown or erased"),
        ):
            with pytest.raises(RegistryError, match=why):
                await handover.sell_site(site, to, NewSite("Home"))
        assert await world.rows("SELECT count(*), max(event_key) FROM audit.event, consent.site") == before

    async def test_without_the_owners_keys_nothing_is_sold(self, world):
        home = await world.home()
        buyer = await world.registry.administration.add_owner(NewOwner("Example Buyer"))
        with pytest.raises(RegistryError, match="owners' keys"):
            await Handover(world.operator, world.registry.blind).sell_site(home.site_key, buyer, NewSite("Home"))
        assert await world.value("SELECT tenure_until FROM consent.site WHERE site_key = $1", home.site_key) is None
