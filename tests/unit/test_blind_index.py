"""The blind index: finds a serial again, and tells nothing to who lacks its key."""

import hashlib
import hmac
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.model.identity import BLIND_BYTES
from telemetry.privacy.keys import BlindIndex

DICTIONARY = [f"INV{number:08d}" for number in range(2_000)]
ONE, OTHER = BlindIndex(b"\x01" * 32), BlindIndex(b"\x02" * 32)


def test_it_is_hmac_sha256_over_length_prefixed_parts_cut_to_16_bytes():
    parts = [b"telemetry/blind/1", b"serial", b"INV00000042"]
    message = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    expected = hmac.new(b"\x01" * 32, message, hashlib.sha256).digest()[:16]
    assert ONE.serial("INV00000042") == expected
    assert len(expected) == BLIND_BYTES


def test_the_same_serial_gives_the_same_digest():
    assert ONE.serial("INV00000042") == BlindIndex(b"\x01" * 32).serial("INV00000042")


def test_two_keys_share_no_digest():
    mine = {ONE.serial(serial) for serial in DICTIONARY}
    assert len(mine) == len(DICTIONARY)
    assert not mine & {OTHER.serial(serial) for serial in DICTIONARY}


def recovered(digests: set[bytes], guess) -> int:
    return sum(guess(serial) in digests for serial in DICTIONARY)


def test_a_dictionary_recovers_unkeyed_hashes_and_no_blind_index():
    stored = DICTIONARY[::7]
    unkeyed = {hashlib.sha256(serial.encode()).digest()[:16] for serial in stored}
    blind = {ONE.serial(serial) for serial in stored}
    # The attack works where nothing protects (the control) …
    assert recovered(unkeyed, lambda serial: hashlib.sha256(serial.encode()).digest()[:16]) == len(stored)
    # … and finds nothing without the key, however it guesses.
    assert recovered(blind, lambda serial: hashlib.sha256(serial.encode()).digest()[:16]) == 0
    assert recovered(blind, OTHER.serial) == 0
    assert recovered(blind, BlindIndex(bytes(32)).serial) == 0


@given(st.text(max_size=70))
def test_kinds_are_apart(text: str):
    kinds = [ONE.serial(text), ONE.gateway(text), ONE.digest("message", text.encode())]
    assert len(set(kinds)) == 3


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_no_two_lists_of_values_run_into_each_other(one: list[bytes], other: list[bytes]):
    assert (ONE.digest("k", *one) == ONE.digest("k", *other)) == (one == other)


@given(st.binary(max_size=30))
def test_digest63_fits_a_bigint_and_is_not_negative(value: bytes):
    number = ONE.digest63("stream", value)
    assert 0 <= number < 2**63
    assert number == ONE.digest63("stream", value)


@pytest.mark.parametrize("serial", ["", "ß", "𝄞", "a" * 64])
def test_any_text_has_a_digest(serial: str):
    assert len(ONE.serial(serial)) == 16
