"""What looks like an identifier does not get through the last net, in any case, place or separators."""

import re
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from telemetry.privacy.identifiers import COORDINATES, DIGITS, EMAIL, IP, KNOWN, MAC, SERIAL, Scrubber, scrub

SEPARATORS = ("", "-", ":", ".", "_", " ", "/", "%3A", ", ")
WORDS = st.text(string.ascii_letters + " .,:-/_()[]{}\"'\n", max_size=30)
HEX_PAIRS = st.lists(st.integers(0, 255).map("{:02x}".format), min_size=6, max_size=6)


def canonical(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


@st.composite
def variants(draw: st.DrawFn, identifier: str) -> str:
    """The identifier in some case with some separators between some of its characters."""
    separator = draw(st.sampled_from(SEPARATORS))
    cased = [draw(st.sampled_from([str.upper, str.lower]))(character) for character in identifier]
    return "".join(
        character + (separator if draw(st.booleans()) and index < len(cased) - 1 else "")
        for index, character in enumerate(cased)
    )


@given(st.data())
@settings(deadline=None)
def test_no_known_identifier_survives_in_any_position_case_or_separators(data: st.DataObject) -> None:
    known = data.draw(st.lists(st.text(string.ascii_letters + string.digits, min_size=4, max_size=20), min_size=1))
    canary = data.draw(st.sampled_from(known))
    text = data.draw(WORDS) + data.draw(variants(canary)) + data.draw(WORDS)
    left = re.sub(r"<[a-z]+>", "\0", scrub(text, known))
    assert all(canonical(canary) not in canonical(part) for part in left.split("\0"))


@given(WORDS, HEX_PAIRS, st.sampled_from([":", "-", ".", "_", " "]), st.booleans(), WORDS)
@settings(deadline=None)
def test_no_mac_address_survives(before: str, pairs: list[str], separator: str, upper: bool, after: str) -> None:
    mac = separator.join(pairs)
    mac = mac.upper() if upper else mac
    scrubbed = scrub(f"{before} ({mac}) {after}")
    assert mac not in scrubbed
    assert "".join(pairs[3:]) not in canonical(scrubbed), "the half that is the device's own"


@given(WORDS, st.ip_addresses().map(str).filter(lambda address: len(address) > len("::1")), WORDS)
@settings(deadline=None)
def test_no_ip_address_survives(before: str, address: str, after: str) -> None:
    for text in (f"{before} {address} {after}", f"[{address}]:8883", f"peer={address}.", f"({address})"):
        assert address not in scrub(text)


@given(st.floats(-89, 89), st.floats(-179, 179), st.integers(3, 8), st.sampled_from([",", ", ", "; ", " ", "/"]))
@settings(deadline=None)
def test_no_pair_of_coordinates_survives(latitude: float, longitude: float, places: int, between: str) -> None:
    one, other = f"{latitude:.{places}f}", f"{longitude:.{places}f}"
    scrubbed = scrub(f"site at {one}{between}{other}")
    assert one not in scrubbed
    assert other not in scrubbed


@given(st.text(string.digits, min_size=7, max_size=20), WORDS)
@settings(deadline=None)
def test_no_long_run_of_digits_survives(digits: str, after: str) -> None:
    assert digits not in scrub(f"number {digits} {after}")
    assert digits not in scrub(f"INV{digits}")


@given(st.text(max_size=200))
@settings(deadline=None)
def test_scrubbing_twice_changes_nothing_more(text: str) -> None:
    assert scrub(scrub(text)) == scrub(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("device INV00000042 refused", f"device {SERIAL} refused"),
        ("portal HQ2132QYAB4 is gone", f"portal {SERIAL} is gone"),
        ("shellypro3em-a8032ab12345", f"shellypro3em-{MAC}"),
        ("src aabb.ccdd.eeff", f"src {MAC}"),
        ("owner someone+solar@example.org asked", f"owner {EMAIL} asked"),
        ("connect 192.0.2.17:8883 failed", f"connect {IP}:8883 failed"),
        ("from 2001:db8::17 and fe80::1%eth0", f"from {IP} and {IP}"),
        ('{"latitude": 52.5, "longitude": 13.4}', f'{{"{COORDINATES}, "{COORDINATES}}}'),
        ("at 52°31'12\"N 13°24'18\"E", f"at {COORDINATES} {COORDINATES}"),
        ("meter 123456789", f"meter {DIGITS}"),
    ],
)
def test_what_a_placeholder_stands_for(text: str, expected: str) -> None:
    assert scrub(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "the plan's current version is 7 (reload the plan and apply it again)",
        "ac_voltage_l1_v is out of range: 2 values",
        "2026-05-01T12:00:00Z batch of 2000 messages in 12.5 ms",
        "broker.port must be below 65536",
        "std::vector at 12:34:56",
        "PT15M, P1D; SunSpec model 101; MQTT 5",
    ],
)
def test_plain_text_stays(text: str) -> None:
    assert scrub(text) == text


def test_known_names_of_two_letters_go_as_words_only() -> None:
    assert scrub("pv on the pvlib roof", ["pv"]) == f"{KNOWN} on the pvlib roof"


def test_a_scrubber_does_not_show_what_it_knows() -> None:
    assert "INV00000042" not in repr(Scrubber(["INV00000042"]))


@pytest.mark.parametrize("filler", ["a", "1", "a1", ":", "a.", "1.1", "-", "°", "ab:", "@", "%41"])
def test_long_texts_take_no_more_than_linear_time(filler: str) -> None:
    """A quadratic pattern would take minutes here, and the suite's patience with it."""
    assert isinstance(scrub(filler * 100_000, ["INV00000042"]), str)
