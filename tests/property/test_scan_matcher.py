"""The vectorised matcher finds exactly what a search by eye finds, wherever a piece ends."""

import base64
import hashlib
import itertools
import json
import struct
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.errors import InputError
from telemetry.maintenance.canaries import Form, Pattern, fold, patterns
from telemetry.maintenance.matcher import PIECE, Hit, Matcher, Stream

SERIALS = ("INV00000042", "INV00000043", "TAE1044741", "gw-Müller", "a/b+c d?")
MATCHER = Matcher(SERIALS)


def hits_of(matcher, content):
    stream = Stream(matcher)
    stream.feed(content)
    return stream.hits


def by_eye(canaries, content):
    """Every form of every canary at every position, one comparison each."""
    found = {}
    for number, canary in enumerate(canaries, 1):
        for pattern in patterns(canary):
            wanted = pattern.content if pattern.exact else fold(pattern.content)
            where = content if pattern.exact else fold(content)
            count = sum(where.startswith(wanted, at) for at in range(len(where)))
            if count:
                hit = Hit(number, pattern.form)
                found[hit] = found.get(hit, 0) + count
    return found


FORMS = [pattern.content for canary in SERIALS for pattern in patterns(canary)]
noise = st.one_of(st.binary(max_size=40), st.just(b"INV00000"), st.just(b"\x00" * 30), st.just(b"494e5630303030"))
written = st.lists(st.one_of(noise, st.sampled_from(FORMS), st.sampled_from(FORMS).map(bytes.upper)), max_size=12).map(
    b"".join
)


@given(content=written, cuts=st.lists(st.integers(0, 600), max_size=6))
@settings(max_examples=300, deadline=None)
def test_it_agrees_with_a_search_by_eye_however_the_stream_is_cut(content, cuts):
    stream = Stream(MATCHER)
    edges = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    for start, stop in itertools.pairwise(edges):
        stream.feed(content[start:stop])
    assert dict(stream.hits) == by_eye(SERIALS, content)
    assert stream.size == len(content)


@given(before=st.binary(max_size=5), after=st.binary(max_size=5))
def test_base64_is_found_at_every_alignment(before, after):
    told = base64.b64encode(before + b"INV00000042" + after)
    assert Hit(1, Form.BASE64) in hits_of(MATCHER, told)
    told = base64.urlsafe_b64encode(before + b"a/b+c d?" + after)
    assert Hit(5, Form.BASE64) in hits_of(MATCHER, told)


@pytest.mark.parametrize("serial", ["INV00000042", "inv00000042", "Inv00000042"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-16"])
def test_text_is_found_in_any_case_and_encoding(serial, encoding):
    assert {hit.canary for hit in hits_of(MATCHER, b"#\x01" + serial.encode(encoding) + b"\x07")} == {1}


@pytest.mark.parametrize(
    "written",
    [
        "gw-Müller".encode("latin-1"),
        json.dumps({"x": "gw-Müller"}).encode(),
        quote("gw-Müller").encode(),
        quote("gw-Müller").lower().encode(),
        "gw-Müller".encode().hex().encode(),
        b"\\x" + "gw-Müller".encode().hex().upper().encode(),
        hashlib.sha256("gw-Müller".encode()).digest(),
        hashlib.md5("gw-Müller".encode()).hexdigest().encode(),
        hashlib.sha1("gw-müller".encode()).hexdigest().upper().encode(),
        "GW-MÜLLER".encode(),
    ],
)
def test_other_ways_of_writing_are_found(written):
    assert {hit.canary for hit in hits_of(MATCHER, b"  " + written + b"  ")} == {4}


def test_addresses_and_coordinates_have_their_own_forms():
    matcher = Matcher(["AA:BB:CC:DD:EE:01", "48.137154"])
    for told in (b"aabbccddee01", b"AA-BB-CC-DD-EE-01", b"\xaa\xbb\xcc\xdd\xee\x01", b"01:EE:DD:CC:BB:AA"):
        assert {hit.canary for hit in hits_of(matcher, told)} == {1}
    for told in (struct.pack("<d", 48.137154), struct.pack(">d", 48.137154), b"[11.5,48.137154]"):
        assert {hit.canary for hit in hits_of(matcher, told)} == {2}


def test_binary_and_base64_forms_must_match_in_case():
    [core] = [p for p in patterns("INV00000042") if p.form is Form.BASE64][:1]
    assert not hits_of(MATCHER, core.content.swapcase())


def test_neighbours_are_not_found():
    assert not hits_of(MATCHER, b"INV00000044 INV0000004 NV00000042 TAE104474")


def test_a_hit_behind_megabytes_of_zeros_and_over_the_edge_of_a_block():
    for size in (256 * 1024 - 5, PIECE - 5, PIECE, PIECE + 7):
        stream = Stream(MATCHER)
        content = bytes(size) + b"INV00000042" + bytes(PIECE)
        for start in range(0, len(content), PIECE):
            stream.feed(content[start : start + PIECE])
        assert dict(stream.hits) == {Hit(1, Form.TEXT): 1}


def test_a_double_that_ends_in_zeros_is_found_before_zeros():
    matcher = Matcher(["48.1250"])
    stream = Stream(matcher)
    content = struct.pack(">d", 48.125)
    stream.feed(content[:3])
    stream.feed(bytes(PIECE))
    assert dict(stream.hits) == {Hit(1, Form.BINARY): 1}


@pytest.mark.parametrize("canaries", [[], [""], ["abc"], ["INV00000042", "short"]])
def test_a_list_that_finds_nothing_or_everything_is_refused(canaries):
    with pytest.raises(InputError) as refused:
        Matcher(canaries)
    assert "short" not in str(refused.value).replace("shorter", "")


def test_an_empty_line_holds_its_number():
    assert {hit.canary for hit in hits_of(Matcher(["", "INV00000042"]), b"INV00000042")} == {2}


def test_no_form_is_listed_twice():
    for canary in SERIALS:
        listed = [(p.content if p.exact else fold(p.content), p.exact) for p in patterns(canary)]
        assert len(listed) == len(set(listed))
        assert all(isinstance(pattern, Pattern) for pattern in patterns(canary))
