"""Frames that are cut, grown, flipped or made of nothing: a typed rejection or a frame of possible values."""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from telemetry.codecs.advertised import Fault, Frame
from telemetry.codecs.bthome import decode_bthome
from telemetry.codecs.victron import decode_victron
from telemetry.codecs.victron_table import RECORDS
from telemetry.model.fields import FIELD_BY_NAME
from tests.support.advertisements import ADDRESS, bthome, victron

EXAMPLES = 1_500  # of each of the five properties: 7,500 frames and what is made of them
KEY = bytes.fromhex("00112233445566778899aabbccddeeff")
many = settings(max_examples=EXAMPLES, deadline=None)

records = st.sampled_from(sorted(RECORDS))
objects = st.lists(
    st.sampled_from(["0b020000", "0a138a14", "4afa08", "5d02ea", "02ca09", "0132", "2101", "5303414243"]), min_size=1
).map(lambda parts: bytes.fromhex("".join(parts[:6])))


def right(found):
    assert isinstance(found, Fault | Frame)
    if isinstance(found, Frame):
        for name, value in found.values.items():
            field = FIELD_BY_NAME[name]
            assert field.minimum <= value <= field.maximum


@many
@given(st.binary(max_size=40), st.none() | st.just(KEY))
@example(b"\x10", KEY)
def test_anything_at_all(data, key):
    right(decode_victron(data, key))
    right(decode_victron(b"\x10\x02" + data, key))
    right(decode_bthome(data, key, ADDRESS))
    right(decode_bthome(b"\x40" + data, None, ADDRESS))


@many
@given(records, st.binary(min_size=16, max_size=16), st.integers(0, 65535))
def test_every_record_of_every_content(number, plain, counter):
    found = decode_victron(victron(KEY, number, plain, counter=counter), KEY)
    right(found)
    assert found is Fault.IMPLAUSIBLE or isinstance(found, Frame)
    if isinstance(found, Frame):
        assert found.counter == counter


@many
@given(records, st.binary(min_size=16, max_size=16), st.integers(0, 23), st.binary(max_size=8), st.integers(0, 191))
def test_victron_cut_grown_and_flipped(number, plain, length, more, bit):
    whole = victron(KEY, number, plain)
    cut = decode_victron(whole[:length], KEY)
    if length * 8 < 64 + RECORDS[number].bits:
        assert cut in {Fault.TRUNCATED, Fault.FOREIGN}
    grown = decode_victron(whole + more, KEY)
    assert grown is Fault.EXTENDED if more else True
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    found = decode_victron(bytes(flipped), KEY)
    right(found)  # a flipped bit of the record itself cannot be told: the format has no checksum
    if bit < 8:
        assert found is Fault.FOREIGN
    elif 56 <= bit < 64:
        assert found is Fault.WRONG_KEY


@many
@given(objects, st.integers(1, 2**32 - 1), st.data())
def test_bthome_encrypted_cut_grown_and_flipped(content, counter, data):
    whole = bthome(content, key=KEY, counter=counter)
    assert isinstance(decode_bthome(whole, KEY, ADDRESS), Frame)
    length = data.draw(st.integers(0, len(whole) - 1))
    assert isinstance(decode_bthome(whole[:length], KEY, ADDRESS), Fault)
    assert isinstance(decode_bthome(whole + data.draw(st.binary(min_size=1, max_size=9)), KEY, ADDRESS), Fault)
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    assert isinstance(decode_bthome(bytes(flipped), KEY, ADDRESS), Fault)


@many
@given(objects, st.binary(max_size=9), st.data())
def test_bthome_in_clear_is_never_trusted_whatever_is_done_to_it(content, more, data):
    whole = bytearray(bthome(content) + more)
    for _ in range(data.draw(st.integers(0, 4))):
        bit = data.draw(st.integers(0, len(whole) * 8 - 1))
        whole[bit // 8] ^= 1 << bit % 8
    found = decode_bthome(bytes(whole), None, ADDRESS)
    right(found)
    assert isinstance(found, Fault) or not found.trusted
