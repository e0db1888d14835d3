"""Victron Instant Readout: the samples, and every corner in which the library has to be corrected."""

import json
import random
import secrets

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from telemetry.codecs.advertised import Fault, Frame
from telemetry.codecs.victron import decode_victron, frame_of, measure
from telemetry.codecs.victron_table import BATTERY_SENSE, RECORDS
from telemetry.model.fields import FIELD_BY_NAME, DeviceKind
from tests.support.advertisements import victron
from tests.support.shared_data import shared_data

KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
BY_PARSER = {record.parser: record for record in (*RECORDS.values(), BATTERY_SENSE)}
# What the samples expect under the library's method names, where our name for it is another.
RENAMED = {"temperature": "temperature_kelvin", "charge_state": "state", "device_state": "state"}
STATES = {"STORAGE": 4, "OFF": 1, "INVERTING": 4, "ABSORPTION": 4, "BULK": 4}
UNKEPT = {"model_name", "aux_mode"}  # the device's model is no value; the mode says which of three values there is


def samples():
    return json.loads(shared_data("victron-ble", "vectors.json").read_text())


def record_of(sample):
    if sample["device"]:
        return BY_PARSER[sample["device"]]
    name = sample["source"].split("tests/test_")[1].split(".py")[0].title().replace("_", "").lower()
    return next(record for parser, record in BY_PARSER.items() if parser.lower() == name)


def plain_of(sample):
    """The record of a sample in clear, None where it has neither record nor key."""
    if sample["decrypted_hex"]:
        return bytes.fromhex(sample["decrypted_hex"][0])
    if not sample["advertisement_hex"] or not sample["key_hex"]:
        return None
    data = bytes.fromhex(sample["advertisement_hex"])
    cipher = Cipher(algorithms.AES(bytes.fromhex(sample["key_hex"])), modes.CTR(data[5:7] + bytes(14)))
    return cipher.decryptor().update(data[8:])


def close(found, expected):
    return abs(found - expected) < 0.006


def test_every_sample_decodes_to_its_expected_values():
    checked, values, skipped = 0, 0, []
    for sample in samples():
        if not sample["expected"]:
            continue
        plain = plain_of(sample)
        if plain is None:
            skipped.append(sample["source"])
            continue
        record = record_of(sample)
        factor = {row.name: row.factor for row in record.rows}
        measured = measure(record, plain)
        for name, text in sample["expected"].items():
            if name in UNKEPT:
                continue
            ours = name if name in factor else RENAMED.get(name, name)
            found = measured.get(ours)
            if "." in text and not text.lstrip("-")[0].isdigit():
                kind, _, member = text.partition(".")
                if ours == "state":
                    assert found == STATES[member]
                elif member.startswith("NO_"):
                    assert measured.get({"charger_error": "error"}.get(name, name)) == 0
                else:
                    assert found is not None, (kind, member)  # an enumeration that stays a number
            elif text == "None":
                assert found is None or (name == "alarm" and found == 0)
            else:
                expected = float(text) * factor.get(ours, 1.0)
                assert close(found, expected), (sample["source"], name)
            values += 1
        checked += 1
    print(f"{checked} samples with {values} values; without key or record in clear: {skipped}")
    assert checked == 11
    assert skipped == ["keshavdv/victron-ble tests/test_multirs.py::test_end_to_end_parse"]


def test_whole_advertisements_of_the_samples():
    outcomes = {}
    for sample in samples():
        if sample["advertisement_hex"]:
            key = sample["key_hex"] and bytes.fromhex(sample["key_hex"])
            found = decode_victron(bytes.fromhex(sample["advertisement_hex"]), key)
            outcomes[sample["source"].split("test_")[1].split(".")[0] + "/" + (sample["device"] or "-")] = found
    assert outcomes["base/-"] is Fault.FOREIGN
    assert outcomes["battery_monitor/BatteryMonitor"] is Fault.WRONG_KEY
    assert outcomes["multirs/-"] is Fault.NO_KEY
    assert outcomes["vebus/VEBus"] == Frame(
        DeviceKind.INVERTER,
        {
            "operating_state_code": 4,
            "alert_code": 0,
            "battery_current_a": 5.9,  # discharging is positive here
            "battery_voltage_v": 12.43,
            "grid_power_w": 0.0,
            "ac_power_w": 45.0,
            "battery_temperature_c": 30.0,
        },
        {"ac_in_state": 1, "alarm": 1},
        counter=45793,
        counter_bits=16,
    )
    assert outcomes["dc_energy_meter/DcEnergyMeter"].values == {
        "dc_voltage_v": 12.52,
        "alert_code": 0,
        "dc_current_a": 0.0,
    }


def test_a_wrong_key_is_a_rejection_wherever_it_can_be_told():
    for sample in samples():
        if sample["advertisement_hex"] and sample["key_hex"]:
            data, key = bytes.fromhex(sample["advertisement_hex"]), bytes.fromhex(sample["key_hex"])
            for other in (secrets.token_bytes(16) for _ in range(200)):
                if other[0] != data[7]:
                    assert decode_victron(data, other) is Fault.WRONG_KEY
            assert decode_victron(data, key[:15]) is Fault.WRONG_KEY
            assert decode_victron(data, None) is Fault.NO_KEY


@pytest.mark.parametrize("number", RECORDS)
def test_no_value_in_every_position_of_every_record(number):
    """The bits as sent decide: 22 bits of ones are no current of -1 mA."""
    record = RECORDS[number]
    for mode in range(4):
        bits = mode << 64 if record.parser in {"BatteryMonitor", "DcEnergyMeter"} else 0
        for row in record.rows:
            if row.none is not None and not (row.name.endswith("_voltage") and row.at == 48):
                bits |= row.none << row.at
        measured = measure(record, bits.to_bytes(16, "little"))
        for row in record.rows:
            if row.none and row.name in measured and not row.at == 48:
                raise AssertionError(f"{row.name} has a value although there is none")


@pytest.mark.parametrize("number", [0x02, 0x0D])
def test_the_current_of_22_bits_that_the_library_misreads(number):
    record = RECORDS[number]
    for sent, amperes in ((0x3FFFFF, None), (0x3FFFFE, -0.002), (0x1FFFFF, 2097.151), (1, 0.001), (0, 0.0)):
        bits = 1252 << 16 | sent << 66 | 3 << 64
        measured = measure(record, bits.to_bytes(16, "little"))
        factor = next(row.factor for row in record.rows if row.name == "current")
        assert measured.get("current") == (None if amperes is None else pytest.approx(amperes * factor))


def test_two_alarms_at_once_cost_no_value():
    """The library's enumeration of alarms knows single bits only, and fails for two."""
    bits = 1252 << 16 | 0b101 << 32 | 3 << 64 | 500 << 108
    frame = frame_of(RECORDS[2], bits.to_bytes(16, "little"), 7)
    assert frame.values == {
        "battery_voltage_v": 12.52,
        "alert_code": 5,
        "battery_current_a": 0.0,
        "battery_soc_pct": 50.0,
    }


@pytest.mark.parametrize("number", RECORDS)
def test_every_unknown_enumeration_costs_no_value(number):
    record = RECORDS[number]
    bits = 0
    for row in record.rows:
        unknown = {"state": 250, "error": 90, "off_reason": 0x5A5A, "meter_type": 0xFFD0}.get(row.name, 0x5A5A5A5A)
        bits |= (unknown & ((1 << row.bits) - 1) if row.raw else 100) << row.at
    frame = frame_of(record, bits.to_bytes(18, "little")[:16], 0)
    assert isinstance(frame, Frame)


def test_cells_of_a_lithium_battery():
    cells = [0x7F, 0x00, 0x7E, 60, 80, 0x7F, 0x7F, 0x7F]  # none, below, above, 3.20 V, 3.40 V
    bits = sum(cell << (48 + 7 * index) for index, cell in enumerate(cells)) | 1330 << 104 | 0xF << 116 | 65 << 120
    assert frame_of(RECORDS[5], bits.to_bytes(16, "little"), 0).values == {
        "battery_cell_voltage_min_v": 3.2,
        "battery_cell_voltage_max_v": 3.4,
        "battery_voltage_v": 13.3,
        "battery_temperature_c": 25.0,
        "alert_code": 0,
    }


def test_cells_that_do_not_add_up_are_no_battery():
    def frame(battery):
        cells = [60, 60, 60, 60, 0x7F, 0x7F, 0x7F, 0x7F]  # four of 3.20 V
        bits = sum(cell << (48 + 7 * index) for index, cell in enumerate(cells)) | battery << 104
        return frame_of(RECORDS[5], bits.to_bytes(16, "little"), 0)

    assert frame(1281).values["battery_voltage_v"] == 12.81
    assert frame(2560) is Fault.IMPLAUSIBLE


@pytest.mark.parametrize("number", RECORDS)
def test_lengths(number):
    record = RECORDS[number]
    whole = victron(KEY, number, bytes(16), counter=9)
    shortest = 8 + -(-record.bits // 8)
    for length in range(len(whole)):
        found = decode_victron(whole[:length], KEY)
        if length < shortest:
            assert found is (Fault.FOREIGN if length == 0 else Fault.TRUNCATED)
        else:
            assert found.unlisted.get("trailing", 0) == length - shortest
    assert decode_victron(whole + b"\0", KEY) is Fault.EXTENDED


def test_a_new_field_behind_a_record_is_withheld_and_counted():
    assert decode_victron(victron(KEY, 0x0D, bytes(15)), KEY).unlisted["trailing"] == 4


def test_an_impossible_value_rejects_the_frame_because_nothing_else_tells_a_wrong_key():
    bits = 1252 << 16 | 3 << 64 | 1001 << 108  # 100.1 %
    assert decode_victron(victron(KEY, 2, bits.to_bytes(16, "little")), KEY) is Fault.IMPLAUSIBLE


def test_of_keys_that_begin_alike_hardly_any_passes():
    """A byte of 256 is all that the format lets be compared; what cannot be must tell the rest. Seeded."""
    rng, passed = random.Random(1), {}
    for number in RECORDS:
        data = victron(KEY, number, bytes(16))
        others = [KEY[:1] + rng.randbytes(15) for _ in range(400)]
        passed[number] = sum(isinstance(decode_victron(data, other), Frame) for other in others) / 400
    print({RECORDS[number].parser: share for number, share in passed.items()})
    assert sum(passed.values()) / len(passed) < 0.2


def test_unknown_records_and_foreign_data():
    assert decode_victron(victron(KEY, 0x06, bytes(16)), KEY) is Fault.UNSUPPORTED
    assert decode_victron(b"", KEY) is Fault.FOREIGN
    assert decode_victron(b"\x02\x15" + bytes(21), KEY) is Fault.FOREIGN


def test_tables_name_fields_of_the_catalogue_and_bits_that_do_not_overlap():
    for record in (*RECORDS.values(), BATTERY_SENSE):
        taken = 0
        for row in record.rows:
            assert row.field is None or row.field in FIELD_BY_NAME
            assert row.at + row.bits <= record.bits
            mask = ((1 << row.bits) - 1) << row.at
            assert not taken & mask or row.at == 48, (record.parser, row.name)
            taken |= mask
