"""A serial seen once is scrubbed everywhere: in any case, with any separators, percent-encoded, among 100,000."""

import pickle
import random
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.privacy.identifiers import Scrubber
from telemetry.privacy.keys import BlindIndex
from telemetry.privacy.known import KnowingBlind, KnownIdentifiers

ALPHABET = string.ascii_letters + string.digits
identifiers = st.text(ALPHABET, min_size=4, max_size=24)
# What stands around it neither begins nor ends with what could be a part of an identifier of more letters.
around = st.text(string.ascii_letters + " .,:/_-{}\"'äß漢%\n", max_size=30)


def letters(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


@st.composite
def written(draw: st.DrawFn, identifier: str) -> str:
    """Somehow: each letter in some case, perhaps percent-encoded, with up to two separators between any two."""
    parts = []
    for character in identifier:
        one = draw(st.sampled_from([str.upper, str.lower]))(character)
        parts.append(draw(st.sampled_from([one, one, one, f"%{ord(one):02x}", f"%{ord(one):02X}"])))
        parts.append(draw(st.sampled_from(["", "", "", "-", ":", "_", " ", "%3A", ": ", "%2d%2D"])))
    return "".join(parts[:-1])


@given(st.data(), st.lists(identifiers, min_size=1, max_size=5), around, around)
def test_a_known_identifier_is_found_however_it_is_written(data, known, before, after):
    canary = data.draw(st.sampled_from(known))
    text = f"{before}|{data.draw(written(canary))}|{after}"
    found = KnownIdentifiers(known).replaced(text, "\0")
    assert "\0" in found
    assert all(letters(canary) not in letters(part) for part in found.split("\0"))


@given(st.lists(identifiers, max_size=5), around)
def test_a_text_without_a_known_identifier_stays_as_it_is(known, text):
    if not any(letters(one) in letters(text) for one in known):
        assert KnownIdentifiers(known).replaced(text, "\0") == text


@given(st.text(max_size=200), st.lists(st.text(max_size=9), max_size=5))
def test_no_text_makes_it_fail_and_every_identifier_is_found_as_it_is(text, known):
    found = KnownIdentifiers(known)
    found.replaced(text, "\0")
    for one in known:
        if letters(one):
            assert letters(one) not in letters(found.replaced(one, "\0"))


def test_among_a_hundred_thousand_the_one_is_found():
    rng = random.Random(7)
    many = [f"INV{rng.randrange(10**10):010d}" for _ in range(100_000)]
    known = KnownIdentifiers(many)
    for one in many[::997]:
        shown = f"{one[:5].lower()}-{one[5:9]}:{one[9:]}"
        assert known.replaced(f"device {shown} at gw/x/{quote(one)}/data", "*") == "device * at gw/x/*/data"
    assert known.replaced("device inv-0000 of 100000", "*") == "device inv-0000 of 100000"


def test_memory_is_bounded_and_the_newest_stay():
    known = KnownIdentifiers(capacity=10)
    known.add(f"SERIAL{number:04d}" for number in range(25))
    assert len(known) == 10
    assert known.replaced("SERIAL0014 SERIAL0015 SERIAL0024", "*") == "SERIAL0014 * *"


@pytest.mark.parametrize(
    ("known", "text", "scrubbed"),
    [
        (["7"], "device 7 of 17 in a7", "device * of 17 in a7"),
        (["a-1"], "a-1, a1, ba1 and a-12", "*, *, ba1 and a-12"),
        (["Müller"], "familie MÜLLER, m%C3%BCller", "familie *, *"),
        (["Straße 5"], "STRASSE-5", "*"),
        (["AB12"], "x%AB12", "x%*"),
        (["abcd"], "a...b...c...d", "a...b...c...d"),
        (["---", ""], "---", "---"),
        (["AA:BB:CC:DD:EE:FF"], "aabb.ccdd.eeff aa-bb-cc-dd-ee-ff AABBCCDDEEFF", "* * *"),
        (["INV0001", "INV00012"], "INV00012 INV0001", "* *"),
    ],
)
def test_examples(known, text, scrubbed):
    assert KnownIdentifiers(known).replaced(text, "*") == scrubbed


def test_what_is_known_cannot_be_read_out():
    known = KnownIdentifiers(["INV00000042"])
    held = [known._known, known._heads, known._lengths]
    assert "INV00000042" not in repr(known)
    assert "42" not in str([one for one in held if not isinstance(one, dict | set)])
    assert all(isinstance(one, int) for one in (*known._known, *known._heads, *known._lengths))
    with pytest.raises(TypeError):
        pickle.dumps(known)  # it holds a lock


def test_what_binding_looks_up_for_the_first_time_is_known_from_then_on():
    known = KnownIdentifiers()
    blind = BlindIndex(bytes(32))
    knowing = KnowingBlind(blind, known)
    assert knowing.serial("INV-roof") == blind.serial("INV-roof")
    assert knowing.gateway("gw-miller") == blind.gateway("gw-miller")
    assert Scrubber(known)("gw/GW_MILLER/inv.roof: refused") == "gw/<identifier>/<identifier>: refused"
