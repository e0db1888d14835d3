"""BTHome v2: the samples, encryption, and what the library lets pass and we do not."""

import json
import secrets

import pytest

from telemetry.codecs.advertised import Fault
from telemetry.codecs.bthome import decode_bthome, measure, open_frame
from telemetry.model.fields import DeviceKind
from tests.support.advertisements import ADDRESS, bthome
from tests.support.shared_data import shared_data

KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
METER = bytes.fromhex("05") + bytes(3) + bytes.fromhex("0a138a14" + "0b020000" + "4afa08" + "5d02ea")

# Their values are those of a second advertisement, which is not among the samples.
SECOND = {"test_increasing_packet_id", "test_bthome_shelly_button_no_press"}
RSSI = "-60"  # what the samples' receiver reported, no part of the frame


def samples():
    return json.loads(shared_data("bthome", "vectors_v2.json").read_text())


def test_every_sample_decodes_to_its_expected_values():
    checked, without_values, values = 0, 0, 0
    for sample in samples():
        data, key, address = arguments(sample)
        opened = open_frame(data, key, address)
        expected = [text for text in sample["values"] if text != RSSI]
        if not sample["values"]:
            without_values += 1
            continue
        if sample["test"] in SECOND:
            continue
        found = [value for name, value in measure(opened.objects) if isinstance(value, int | float)]
        assert len(found) == len(expected), sample["test"]
        for value, text in zip(found, expected, strict=True):
            same = str(value) == text if isinstance(value, bool) else float(value) == float(text)
            assert same, sample["test"]
            values += 1
        checked += 1
    print(f"{checked} samples with {values} values, {without_values} that state none, {len(SECOND)} of a second frame")
    assert (checked, without_values) == (38, 9)


def arguments(sample):
    key = sample["bindkey"] and bytes.fromhex(sample["bindkey"])
    return bytes.fromhex(sample["service_data_fcd2_hex"]), key, bytes.fromhex(sample["mac"].replace(":", ""))


def test_the_samples_that_state_no_values():
    found = {}
    for sample in samples():
        if not sample["values"]:
            outcome = open_frame(*arguments(sample))
            found[sample["test"]] = measure(outcome.objects) if not isinstance(outcome, Fault) else outcome
    assert found.pop("test_encryption_no_key_needed") == [("pressure", 1008.83)]
    assert found.pop("test_sleepy_device") == [("pressure", 1008.83)]
    assert found.pop("test_increasing_encryption_counter") == [("temperature", 25.06), ("humidity", 50.55)]
    assert found.pop("test_decreasing_encryption_counter") == [("temperature", 25.06), ("humidity", 50.55)]
    assert found == {
        "test_incorrect_bindkey_length": Fault.NO_KEY,
        "test_bindkey_verified_can_be_unset": Fault.WRONG_KEY,
        "test_too_short_encryption_advertisement": Fault.TRUNCATED,
        "test_incorrect_bthome_version": Fault.UNSUPPORTED,
        "test_bthome_invalid_object_payload_data_length": Fault.TRUNCATED,
    }


def test_an_encrypted_meter():
    frame = decode_bthome(bthome(METER, key=KEY, counter=77), KEY, ADDRESS)
    assert frame.values == {
        "energy_total_wh": 1346067.0,
        "ac_power_w": 0.02,
        "ac_voltage_v": 229.8,
        "ac_current_a": -5.63,
    }
    assert (frame.counter, frame.counter_bits, frame.trusted) == (77, 32, True)
    assert frame.unlisted == {"illuminance": 1}
    assert frame.kind is DeviceKind.METER


def test_a_battery_keeps_what_has_a_known_sign():
    objects = bytes.fromhex("0132" + "02ca09" + "0c020c" + "5d02ea")
    frame = decode_bthome(bthome(objects, key=KEY), KEY, ADDRESS, DeviceKind.BATTERY)
    assert frame.values == {"battery_soc_pct": 50, "battery_temperature_c": 25.06, "battery_voltage_v": 3.074}
    assert frame.unlisted == {"current": 1}


def test_a_wrong_key_and_a_wrong_address_are_rejections():
    data = bthome(METER, key=KEY)
    for other in (secrets.token_bytes(16) for _ in range(200)):
        assert decode_bthome(data, other, ADDRESS) is Fault.WRONG_KEY
    assert decode_bthome(data, KEY, bytes(6)) is Fault.WRONG_KEY
    assert decode_bthome(data, KEY[:8], ADDRESS) is Fault.WRONG_KEY
    assert decode_bthome(data, None, ADDRESS) is Fault.NO_KEY


def test_the_address_in_the_frame_must_be_the_sender_s():
    data = bthome(METER, key=KEY, with_address=True)
    assert decode_bthome(data, KEY, ADDRESS).trusted
    assert decode_bthome(data, KEY, bytes(6)) is Fault.WRONG_KEY
    assert decode_bthome(bthome(METER, with_address=True), None, ADDRESS).values
    assert decode_bthome(bthome(METER, with_address=True), None, bytes(6)) is Fault.WRONG_KEY
    assert decode_bthome(bthome(METER, with_address=True)[:5], None, ADDRESS) is Fault.TRUNCATED


def test_in_clear_is_not_trusted_and_never_taken_from_a_device_that_has_a_key():
    data = bthome(METER)
    assert not decode_bthome(data, None, ADDRESS).trusted
    assert decode_bthome(data, KEY, ADDRESS) is Fault.DOWNGRADED


def test_half_a_frame_is_no_frame():
    """The library takes the objects before the broken one."""
    for length in range(1, len(METER)):
        found = decode_bthome(bthome(METER[:length]), None, ADDRESS)
        whole = length in {4, 8, 12, 15}
        assert (found is Fault.TRUNCATED) is not whole, length


def test_every_single_bit_of_an_encrypted_frame_counts():
    data = bthome(METER, key=KEY)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert isinstance(decode_bthome(bytes(flipped), KEY, ADDRESS), Fault), bit


def test_what_no_table_lists_is_withheld_and_counted():
    objects = bytes.fromhex("0b020000" + "2101" + "5303414243" + "fe01020304")
    frame = decode_bthome(bthome(objects, key=KEY), KEY, ADDRESS)
    assert frame.values == {"ac_power_w": 0.02}
    assert frame.unlisted == {"motion": 1, "text": 1, "unknown_object": 1}
    assert "ABC" not in repr(frame)


def test_a_value_that_cannot_be_costs_itself_only():
    frame = decode_bthome(bthome(bytes.fromhex("0b020000" + "5dffff" + "5cffffff7f"), key=KEY), KEY, ADDRESS)
    assert frame.values == {"ac_power_w": 0.02, "ac_current_a": -0.001}
    assert frame.unlisted == {"power": 1}
    assert decode_bthome(bthome(bytes.fromhex("5cffffff7f"), key=KEY), KEY, ADDRESS).implausible == ("ac_power_w",)


def test_versions_and_nothing():
    assert decode_bthome(b"", None, ADDRESS) is Fault.TRUNCATED
    assert decode_bthome(b"\x40", None, ADDRESS) is Fault.TRUNCATED
    assert decode_bthome(b"\x60\x57\xea", None, ADDRESS) is Fault.UNSUPPORTED
    assert decode_bthome(bytes(300), None, ADDRESS) is Fault.EXTENDED


@pytest.mark.parametrize("number", range(256))
def test_every_object_there_is(number):
    """Whatever the object: a name, a rejection, or unknown; nothing is raised and nothing is printed."""
    for body in (b"", bytes(4), b"\xff" * 8):
        found = measure(bytes([number]) + body)
        assert isinstance(found, Fault | list)
