"""Sealing: opens for the right key, purpose and subject, and for nothing else."""

import copy
import pickle
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import KeystoreError, UnsealError
from telemetry.ports import KeyWrapper
from telemetry.privacy.keys import (
    PRIVATE_KEY_BYTES,
    PUBLIC_KEY_BYTES,
    SEAL_OVERHEAD_BYTES,
    BlindIndex,
    Kek,
    KeyPair,
    Opener,
    Purpose,
    Sealer,
    new_key_pair,
)

KEYS = st.integers(-(2**63), 2**63 - 1)
PURPOSES = st.sampled_from(Purpose)
SERIAL = Purpose.DEVICE_SERIAL


@cache
def pair(number: int = 0) -> KeyPair:
    return new_key_pair()


SEALER = Sealer(pair().public)
OPENER = Opener(pair().private)
KEK = Kek(bytes(range(32)))


def seal_single(value: bytes, purpose: Purpose, subject_key: int) -> bytes:
    return SEALER.seal(value, purpose=purpose, subject_key=subject_key)


def seal_in_batch(value: bytes, purpose: Purpose, subject_key: int) -> bytes:
    return SEALER.batch(purpose=purpose, subject_key=subject_key).seal(value)


BOTH = st.sampled_from([seal_single, seal_in_batch])


@given(seal=BOTH, value=st.binary(max_size=300), purpose=PURPOSES, subject=KEYS)
def test_what_was_sealed_opens(seal, value: bytes, purpose: Purpose, subject: int):
    sealed = seal(value, purpose, subject)
    assert OPENER.open(sealed, purpose=purpose, subject_key=subject) == value


@given(seal=BOTH, value=st.binary(max_size=64), data=st.data())
def test_a_bit_flipped_anywhere_is_noticed(seal, value: bytes, data):
    sealed = bytearray(seal(value, SERIAL, 7))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UnsealError):
        OPENER.open(bytes(sealed), purpose=SERIAL, subject_key=7)


@given(seal=BOTH, value=st.binary(max_size=64), data=st.data())
def test_a_truncated_or_longer_one_does_not_open(seal, value: bytes, data):
    sealed = seal(value, SERIAL, 7)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for changed in (sealed[:cut], sealed + b"\0", sealed[cut + 1 :]):
        with pytest.raises(UnsealError):
            OPENER.open(changed, purpose=SERIAL, subject_key=7)


@given(seal=BOTH, purposes=st.lists(PURPOSES, min_size=2, max_size=2, unique=True), subject=KEYS)
def test_one_moved_to_another_purpose_does_not_open(seal, purposes, subject: int):
    with pytest.raises(UnsealError):
        OPENER.open(seal(b"INV00000042", purposes[0], subject), purpose=purposes[1], subject_key=subject)


@given(seal=BOTH, subjects=st.lists(KEYS, min_size=2, max_size=2, unique=True))
def test_one_moved_to_another_row_does_not_open(seal, subjects):
    with pytest.raises(UnsealError):
        OPENER.open(seal(b"INV00000042", SERIAL, subjects[0]), purpose=SERIAL, subject_key=subjects[1])


@pytest.mark.parametrize("seal", [seal_single, seal_in_batch])
def test_another_owners_key_does_not_open_it(seal):
    with pytest.raises(UnsealError):
        Opener(pair(1).private).open(seal(b"INV00000042", SERIAL, 7), purpose=SERIAL, subject_key=7)


@given(form=st.integers(0, 255), body=st.binary(max_size=1300))
def test_arbitrary_bytes_end_as_an_unseal_error(form: int, body: bytes):
    with pytest.raises(UnsealError):
        OPENER.open(bytes([form]) + body, purpose=SERIAL, subject_key=7)


@given(bounds=st.lists(st.binary(max_size=20), min_size=2, max_size=2, unique=True))
def test_a_batch_value_opens_with_what_it_was_bound_to_only(bounds):
    sealed = SEALER.batch(purpose=Purpose.QUARANTINE, subject_key=3).seal(b"payload", bound=bounds[0])
    assert OPENER.open(sealed, purpose=Purpose.QUARANTINE, subject_key=3, bound=bounds[0]) == b"payload"
    with pytest.raises(UnsealError):
        OPENER.open(sealed, purpose=Purpose.QUARANTINE, subject_key=3, bound=bounds[1])


def test_a_batch_never_repeats_a_nonce_and_two_batches_never_a_key():
    batches = [SEALER.batch(purpose=Purpose.QUARANTINE, subject_key=3) for _ in range(2)]
    sealed = [batch.seal(b"the same payload") for batch in batches for _ in range(50)]
    assert len(set(sealed)) == 100
    keys = {one[: 1 + 1168] for one in sealed}
    assert len(keys) == 2
    assert len({one[: 1 + 1168 + 12] for one in sealed}) == 100


@pytest.mark.parametrize("length", [0, 1, 11, 32, 63])
def test_the_length_of_a_short_value_does_not_show(length: int):
    assert len(SEALER.seal(bytes(length), purpose=SERIAL, subject_key=7)) == SEAL_OVERHEAD_BYTES + 64


@given(secret=st.binary(max_size=200), purpose=PURPOSES, owner=KEYS)
def test_a_wrapped_key_unwraps(secret: bytes, purpose: Purpose, owner: int):
    wrapped = KEK.wrap(secret, purpose=purpose, owner_key=owner)
    assert secret not in wrapped or len(secret) < 3
    assert KEK.unwrap(wrapped, purpose=purpose, owner_key=owner) == secret


@given(data=st.data())
def test_a_wrapped_key_that_was_changed_does_not_unwrap(data):
    wrapped = bytearray(KEK.wrap(b"secret", purpose=Purpose.TOKEN_SECRET, owner_key=1))
    bit = data.draw(st.integers(0, len(wrapped) * 8 - 1))
    wrapped[bit // 8] ^= 1 << bit % 8
    for changed in (wrapped, wrapped[: bit // 8]):
        with pytest.raises(UnsealError):
            KEK.unwrap(bytes(changed), purpose=Purpose.TOKEN_SECRET, owner_key=1)


def test_a_wrapped_key_is_bound_to_owner_purpose_and_kek():
    wrapped = KEK.wrap(b"secret", purpose=Purpose.TOKEN_SECRET, owner_key=1)
    other = Kek(bytes(32))
    assert other.kek_id != KEK.kek_id
    with pytest.raises(UnsealError):
        other.unwrap(wrapped, purpose=Purpose.TOKEN_SECRET, owner_key=1)
    with pytest.raises(UnsealError):
        KEK.unwrap(wrapped, purpose=Purpose.OWNER_PRIVATE_KEY, owner_key=1)
    with pytest.raises(UnsealError):
        KEK.unwrap(wrapped, purpose=Purpose.TOKEN_SECRET, owner_key=2)


def test_the_kek_is_the_port():
    assert isinstance(KEK, KeyWrapper)


def test_key_pairs_have_the_documented_sizes_and_are_fresh():
    assert len(pair().private) == PRIVATE_KEY_BYTES
    assert len(pair().public) == PUBLIC_KEY_BYTES
    assert pair().private != pair(1).private


@pytest.mark.parametrize("make", [Sealer, Opener, Kek, BlindIndex])
@pytest.mark.parametrize("length", [0, 31, 33, 5000])
def test_keys_of_another_length_are_refused(make, length: int):
    with pytest.raises(KeystoreError):
        make(bytes(length))


def test_a_public_key_that_is_no_point_is_refused():
    low_order = pair().public[:1184] + bytes(32)
    with pytest.raises(KeystoreError):
        Sealer(low_order).seal(b"x", purpose=SERIAL, subject_key=1)


@pytest.mark.parametrize(
    "holder",
    [
        OPENER,
        KEK,
        BlindIndex(b"\xab" * 32),
        SEALER.batch(purpose=Purpose.QUARANTINE, subject_key=1),
        pair(),
    ],
    ids=lambda holder: type(holder).__name__,
)
def test_no_repr_shows_a_key(holder):
    shown = repr(holder) + str(holder) + f"{holder}"
    assert len(shown) < 150
    secrets = [pair().private, bytes(range(32)), b"\xab" * 32]
    for secret in secrets:
        assert secret.hex() not in shown
        assert repr(secret)[2:10] not in shown


@pytest.mark.parametrize("holder", [OPENER, KEK, BlindIndex(bytes(32))], ids=lambda one: type(one).__name__)
def test_holders_of_keys_are_not_pickled_or_copied(holder):
    for leave in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(holder)


@settings(max_examples=20)
@given(value=st.binary(min_size=4, max_size=100))
def test_an_unseal_error_names_no_value(value: bytes):
    sealed = SEALER.seal(value, purpose=SERIAL, subject_key=7)
    with pytest.raises(UnsealError) as caught:
        OPENER.open(sealed, purpose=SERIAL, subject_key=8)
    assert repr(value)[2:-1] not in str(caught.value).replace("\\", "")
    assert caught.value.remedy
