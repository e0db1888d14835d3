"""What a batch becomes: stored, duplicate, merged, conflict, late, each counted exactly (SEMANTICS.md, rule 3)."""

from tests.support.store import HOUR_US, Store, batch, this_hour_us



async def test_rows_of_a_live_hour_are_stored_with_their_fields_and_nulls(store: Store) -> None:
    now = this_hour_us()
    written = await store.sink().write(
        batch(
            {"ts": now + 1, "device_key": 7, "ac_power_w": 1.5, "operating_state_code": 4},
            {"ts": now, "device_key": -8, "temperature_c": -0.25},
        )
    )
    assert (written.stored, written.duplicate, written.late) == (2, 0, 0)
    assert await store.stored() == [
        {"ts": now, "device_key": -8, "temperature_c": -0.25},
        {"ts": now + 1, "device_key": 7, "ac_power_w": 1.5, "operating_state_code": 4},
    ]
