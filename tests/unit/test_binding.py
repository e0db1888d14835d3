"""The registry in memory: first sight, enrolment, refusal, change, and what a flood costs."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from telemetry.errors import RegistryError
from telemetry.model.batch import Reason
from telemetry.model.fields import DeviceKind
from telemetry.model.identity import Device, Enrolment
from telemetry.privacy.binding import FIRST_SIGHTS, Registry
from telemetry.privacy.bound import Bound
from telemetry.privacy.gateways import SiteMix
from telemetry.privacy.plan import Plan
from tests.support.registries import (
    NOW_US,
    CountingBlind,
    decoded,
    device,
    device_frame,
    gateway,
    no_devices,
    plan_of,
    run,
)

HERE = gateway(1)


def registry_of(*devices: Device, gateways: Any = (HERE,), blind: CountingBlind | None = None) -> Registry:
    frame = device_frame(devices) if devices else no_devices()
    return Registry(blind or CountingBlind(), gateways, frame, plan_of([{}, {}]))


def rows_of(*serials: str | None, **changes: Any) -> pl.DataFrame:
    return decoded([{"serial": serial, "ac_power_w": 1.0} | changes for serial in serials])


def bind(registry: Registry, *serials: str | None, name: str = "gw-1", enrol: bool = True, **changes: Any) -> Bound:
    return registry.bind(rows_of(*serials, **changes), registry.gateway_slots([name]), enrol=enrol)


def test_a_serial_costs_one_blind_index_for_the_life_of_the_process() -> None:
    blind = CountingBlind()
    registry = registry_of(device("INV00000042", HERE, 42), blind=blind)
    for _ in range(3):
        assert bind(registry, "INV00000042", "INV00000042").device_key.tolist() == [42, 42]
    assert (blind.serials, blind.gateways) == (1, 1)


def test_a_new_device_is_proposed_once_with_all_that_enrolment_needs() -> None:
    registry = registry_of()
    rows = decoded(
        [
            {"serial": "INV00000042", "kind": None, "ac_power_w": 1.0},
            {"serial": "INV00000042", "kind": int(DeviceKind.BATTERY), "ac_power_w": 1.0},
            {"serial": "INV00000043", "kind": None, "ac_power_w": 1.0},
        ]
    )
    bound = registry.bind(rows, registry.gateway_slots(["gw-1"]))
    assert [(each.serial, each.kind) for each in bound.unknown] == [
        ("INV00000042", DeviceKind.BATTERY),
        ("INV00000043", None),
    ]
    assert {(each.gateway_key, each.site_key, each.owner_key) for each in bound.unknown} == {(1001, 101, 11)}
    assert "INV00000042" not in repr(bound.unknown)


def test_an_enrolled_device_is_bound_at_the_second_attempt_and_what_is_left_out_is_refused() -> None:
    registry = registry_of()
    bound = bind(registry, "INV00000042", "INV00000043")
    assert len(bound.unknown) == 2
    registry.update(devices=device_frame([device("INV00000042", HERE, 42)]))
    assert bind(registry, "INV00000042", "INV00000043", enrol=False).device_key.tolist() == [42, 0]
    assert not bind(registry, "INV00000043").unknown, "refused, and remembered"


def test_a_gateway_at_its_limit_proposes_no_more() -> None:
    registry = registry_of(device("INV00000001", HERE, 1), gateways=[gateway(1, device_limit=2)])
    bound = bind(registry, "INV00000002", "INV00000003")
    assert [each.serial for each in bound.unknown] == ["INV00000002"]


def test_a_gateway_of_announced_devices_proposes_none() -> None:
    registry = registry_of(gateways=[gateway(1, enrolment=Enrolment.KNOWN)])
    assert not bind(registry, "INV00000002").unknown


def test_an_unknown_or_revoked_gateway_proposes_none_and_costs_no_blind_index() -> None:
    blind = CountingBlind()
    registry = registry_of(gateways=[gateway(1, revoked=True)], blind=blind)
    assert not bind(registry, "INV00000002").unknown
    assert not bind(registry, "INV00000002", name="nobody").unknown
    assert blind.serials == 0


def test_a_serial_announced_after_it_was_refused_is_bound() -> None:
    not_yet_seen = device("INV00000001", HERE, 1)  # so that refused serials are looked up, and remembered
    registry = registry_of(not_yet_seen, gateways=[gateway(1, enrolment=Enrolment.KNOWN)])
    assert bind(registry, "INV00000042").device_key.tolist() == [0]
    registry.update(devices=device_frame([device("INV00000042", HERE, 42)]))
    assert bind(registry, "INV00000042").device_key.tolist() == [42]


def test_a_flood_at_a_full_gateway_whose_devices_are_all_known_costs_no_blind_index() -> None:
    blind = CountingBlind()
    registry = registry_of(device("INV00000001", HERE, 1), gateways=[gateway(1, device_limit=1)], blind=blind)
    bind(registry, "INV00000001")
    before = blind.serials
    flood = [f"MADEUP{number:08d}" for number in range(5000)]
    assert not bind(registry, *flood).unknown
    assert blind.serials == before


def test_a_flood_beside_a_device_not_yet_seen_costs_a_bounded_number_of_blind_indices() -> None:
    blind = CountingBlind()
    registry = registry_of(device("INV00000001", HERE, 1), gateways=[gateway(1, device_limit=1)], blind=blind)
    memory = registry.nbytes
    for batch in range(40):
        flood = [f"MADEUP{batch:04d}{number:08d}" for number in range(3000)]
        bind(registry, *flood)
    assert blind.serials == 40 * FIRST_SIGHTS
    assert registry.nbytes <= memory + 2**20
    assert bind(registry, "INV00000001").device_key.tolist() == [1]


def test_made_up_gateway_names_are_remembered_in_bounded_number() -> None:
    registry = registry_of()
    for number in range(10_000):
        registry.gateway_slots([f"nobody-{number}"])
    assert len(registry._gateways._unknown_names) <= 4096
    assert registry.gateway_slots(["gw-1", "nobody-1"]).tolist() == [1, 0]


def test_a_revoked_gateway_is_refused_from_the_next_batch_on_and_can_come_back() -> None:
    registry = registry_of(device("INV00000042", HERE, 42))
    registry.update(gateways=[gateway(1, revoked=True)])
    assert run(registry, rows_of("INV00000042"), ["gw-1"]).rejections[0].reason is Reason.REVOKED_GATEWAY
    registry.update(gateways=[gateway(1)])
    assert run(registry, rows_of("INV00000042"), ["gw-1"]).rows.height == 1


def test_a_forgotten_gateways_slot_is_never_anothers() -> None:
    registry = registry_of(device("INV00000042", HERE, 42))
    slots = registry.gateway_slots(["gw-1"])
    registry.update(forget_gateways=[HERE.gateway_key], gateways=[gateway(2)])
    assert registry.gateway_slots(["gw-1", "gw-2"]).tolist() == [0, 2]
    late = registry.bind(rows_of("INV00000042"), slots)
    assert late.device_key.tolist() == [0]
    assert late.revoked.all()


def test_a_new_tenure_gives_the_device_a_new_key_and_a_plan_class_can_change() -> None:
    registry = registry_of(device("INV00000042", HERE, 42))
    bind(registry, "INV00000042")
    registry.update(devices=device_frame([device("INV00000042", HERE, 99, 1)]))
    bound = bind(registry, "INV00000042")
    assert (bound.device_key.tolist(), bound.plan_class.tolist(), len(registry)) == ([99], [1], 1)


def test_a_forgotten_device_is_unknown_and_its_slot_serves_another() -> None:
    devices = [device(f"INV0000000{number}", HERE, number) for number in range(1, 4)]
    registry = registry_of(*devices)
    bind(registry, "INV00000001", "INV00000002")
    registry.update(forget_devices=[3, 1, 777])
    assert bind(registry, "INV00000001", "INV00000002", "INV00000003", enrol=False).device_key.tolist() == [
        0,
        2,
        0,
    ]
    registry.update(devices=device_frame([device("INV00000009", HERE, 9)]))
    assert bind(registry, "INV00000001", "INV00000009", enrol=False).device_key.tolist() == [0, 9]
    assert len(registry) == 2


def test_a_batch_under_way_keeps_the_plan_it_was_bound_with() -> None:
    registry = registry_of(device("INV00000042", HERE, 42))
    bound = bind(registry, "INV00000042")
    registry.update(plan=Plan.default(8), devices=device_frame([device("INV00000042", HERE, 43)]))
    assert (bound.plan.version, bound.device_key.tolist()) == (7, [42])
    assert registry.plan.version == 8


def test_a_smaller_plan_comes_with_the_devices_that_leave_its_classes() -> None:
    registry = registry_of(device("INV00000042", HERE, 42, 1))
    with pytest.raises(RegistryError, match="plan class"):
        registry.update(plan=Plan.default(8))
    assert registry.plan.version == 7
    registry.update(plan=Plan.default(8), devices=device_frame([device("INV00000042", HERE, 42, 0)]))
    assert registry.plan.version == 8


def test_gateway_and_owner_keys_go_with_the_slots() -> None:
    registry = registry_of()
    gateway_keys, owner_keys = registry.gateway_keys(registry.gateway_slots(["gw-1", "nobody"]), NOW_US)
    assert (gateway_keys.tolist(), owner_keys.tolist()) == ([1001, 0], [11, 0])


def test_a_device_that_changes_takes_no_room_twice() -> None:
    registry = registry_of(gateways=[gateway(1, device_limit=2)])
    for plan_class in (0, 1, 0, 1):
        registry.update(devices=device_frame([device("INV00000001", HERE, 1, plan_class)]))
    assert [each.serial for each in bind(registry, "INV00000002").unknown] == ["INV00000002"]
    registry.update(devices=device_frame([device("INV00000002", HERE, 2)]))
    assert not bind(registry, "INV00000003").unknown
    registry.update(forget_devices=[1])
    assert [each.serial for each in bind(registry, "INV00000003").unknown] == ["INV00000003"]


def test_not_even_a_collision_binds_across_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sites' mix both words of a serial are the same everywhere; the site is compared all the same."""
    monkeypatch.setattr(SiteMix, "_mixed", staticmethod(lambda site_key, _: np.zeros(site_key.size, np.uint64)))
    registry = registry_of(device("INV00000042", HERE, 42), gateways=[HERE, gateway(2)])
    for _ in range(2):
        assert bind(registry, "INV00000042").device_key.tolist() == [42]
        assert bind(registry, "INV00000042", name="gw-2").device_key.tolist() == [0]


def test_tables_grow_and_every_device_stays_found() -> None:
    registry = registry_of(gateways=[gateway(number) for number in range(200)])
    for number in range(200):
        owner = gateway(number)
        devices = [
            device(f"INV{number:04d}{index:04d}", owner, number * 20 + index + 1, index % 2) for index in range(20)
        ]
        registry.update(devices=device_frame(devices))
    names = [f"gw-{number}" for number in range(200)]
    rows = decoded(
        [
            {"message": number, "serial": f"INV{number:04d}{index:04d}", "ac_power_w": 1.0}
            for index in range(20)
            for number in range(200)
        ]
    )
    for _ in range(2):  # by blind index, then by hash
        bound = registry.bind(rows, registry.gateway_slots(names))
        assert bound.device_key.tolist() == [number * 20 + index + 1 for index in range(20) for number in range(200)]
        assert bound.plan_class.tolist() == [index % 2 for index in range(20) for _ in range(200)]


def test_no_table_holds_a_serial() -> None:
    registry = registry_of(device("INV00000042", HERE, 42))
    bind(registry, "INV00000042", "INV00000043", enrol=False)
    devices, refused = registry._devices, registry._refused
    columns = [value for value in vars(devices).values() if isinstance(value, np.ndarray)]
    for index in (devices._by_blind, devices._by_hash, refused):
        columns += [index._cells, index._words]
    assert not any(b"INV000000" in column.tobytes() for column in columns)
    assert not any(b"00000024"[::-1] in column.tobytes() for column in columns)
