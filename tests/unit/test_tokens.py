"""Rule 23: tokens. The scalar reference is `expected`: Python's hmac and base64, nothing of ours."""

import base64
import copy
import hmac
import itertools
import pickle
import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.errors import InputError, KeystoreError
from telemetry.privacy.tokens import (
    TOKEN_LETTERS,
    OwnerSecret,
    Tokenizer,
    TokenKind,
    parse_token,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz234567"
keys = st.integers(-(2**63), 2**63 - 1)
secret = st.binary(min_size=32, max_size=32)
kinds = st.sampled_from(TokenKind)


def expected(recipient: bytes, kind: str, epoch: int, owner: bytes, subject: int) -> str:
    """All letters but the check."""
    parts = [
        b"telemetry/token/1",
        kind.encode(),
        epoch.to_bytes(8, "big"),
        owner,
        subject.to_bytes(8, "big", signed=True),
    ]
    message = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    mac = hmac.new(recipient, message, "sha256").digest()[:16]
    return f"{kind}_" + base64.b32encode(mac).decode().rstrip("=").lower()


@given(
    secret, kinds, st.lists(st.tuples(keys, st.integers(0, 3)), max_size=30), st.lists(secret, min_size=4, max_size=4)
)
def test_rule_23_a_token_is_the_hmac_of_its_length_prefixed_parts(recipient, kind, subjects, owner_secrets):
    owners = {number: OwnerSecret(number + 7, value) for number, value in enumerate(owner_secrets)}
    tokenizer = Tokenizer(recipient, capacity=8)
    for _ in range(2):  # the second time from memory, as far as it reaches
        made = tokenizer.tokens(kind, [key for key, _ in subjects], [owner for _, owner in subjects], owners)
        assert [token[:-1] for token in made] == [
            expected(recipient, kind.value, owner + 7, owner_secrets[owner], key) for key, owner in subjects
        ]
        assert [str(parse_token(token)) for token in made] == made
        assert len(tokenizer) <= 8


def test_rule_23_another_epoch_recipient_owner_or_kind_gives_another_token():
    mine, theirs, owner = (secrets.token_bytes(32) for _ in range(3))
    one = Tokenizer(mine).token(TokenKind.DEVICE, 5, OwnerSecret(1, owner))
    others = [
        Tokenizer(theirs).token(TokenKind.DEVICE, 5, OwnerSecret(1, owner)),
        Tokenizer(mine).token(TokenKind.DEVICE, 5, OwnerSecret(2, owner)),
        Tokenizer(mine).token(TokenKind.DEVICE, 5, OwnerSecret(1, theirs)),
        Tokenizer(mine).token(TokenKind.DEVICE, 6, OwnerSecret(1, owner)),
        Tokenizer(mine).token(TokenKind.SITE, 5, OwnerSecret(1, owner)),
    ]
    assert len({parse_token(token).bits for token in [one, *others]}) == 6


def test_rule_23_a_new_epoch_is_not_answered_from_the_memory_of_the_old_one():
    tokenizer, owner = Tokenizer(bytes(32)), secrets.token_bytes(32)
    before = tokenizer.token(TokenKind.DEVICE, 5, OwnerSecret(1, owner))
    assert tokenizer.token(TokenKind.DEVICE, 5, OwnerSecret(2, owner)) != before
    assert tokenizer.token(TokenKind.DEVICE, 5, OwnerSecret(1, owner)) == before
    assert parse_token(tokenizer.token(TokenKind.SITE, 5, OwnerSecret(1, owner))).kind is TokenKind.SITE


@pytest.mark.parametrize("kind", TokenKind)
def test_every_wrong_letter_is_noticed(kind):
    token = Tokenizer(secrets.token_bytes(32)).token(kind, 1, OwnerSecret(1, secrets.token_bytes(32)))
    start = len(kind.value) + 1
    for place in range(start, start + TOKEN_LETTERS):
        for letter in LETTERS.replace(token[place], ""):
            with pytest.raises(InputError):
                parse_token(token[:place] + letter + token[place + 1 :])


@given(keys, kinds)
def test_every_exchange_of_two_letters_is_noticed(key, kind):
    token = Tokenizer(b"r" * 32).token(kind, key, OwnerSecret(1, b"o" * 32))
    start = len(kind.value) + 1
    for one, other in itertools.combinations(range(start, start + TOKEN_LETTERS), 2):
        swapped = list(token)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        if token[one] != token[other]:
            with pytest.raises(InputError):
                parse_token("".join(swapped))


def test_a_token_of_one_kind_does_not_pass_as_the_other():
    token = Tokenizer(bytes(32)).token(TokenKind.DEVICE, 1, OwnerSecret(1, bytes(32)))
    with pytest.raises(InputError):
        parse_token(token.replace("dev_", "site_"))


@pytest.mark.parametrize(
    "change", [str.upper, lambda t: t + "a", lambda t: t[:-1], lambda t: "x" + t, lambda _: "", str.title]
)
def test_a_token_has_one_spelling(change):
    token = Tokenizer(bytes(32)).token(TokenKind.SITE, 1, OwnerSecret(1, bytes(32)))
    with pytest.raises(InputError, match=r"^[^']*$"):
        parse_token(change(token))


@given(st.text(max_size=40))
def test_no_text_makes_parsing_fail_otherwise_and_none_is_quoted(text):
    read, told = "", ""
    try:
        read = str(parse_token(text))
    except InputError as error:
        told = str(error)
    assert read == text or (told and (len(text) < 12 or text not in told))


def test_a_token_has_one_length():
    token = Tokenizer(bytes(32)).token(TokenKind.DEVICE, 1, OwnerSecret(1, bytes(32)))
    for letters in [token[4:] + letter for letter in LETTERS] + [token[4:end] for end in range(4, len(token) - 1)]:
        with pytest.raises(InputError):
            parse_token(f"dev_{letters}")
    for letters in itertools.product("aq", repeat=5):
        with pytest.raises(InputError):
            parse_token("dev_" + "".join(letters))


def test_spare_bits_that_are_set_are_refused():
    kind, accepted = TokenKind.DEVICE, 0
    token = Tokenizer(bytes(32)).token(kind, 1, OwnerSecret(1, bytes(32)))
    for last, check in itertools.product(LETTERS, LETTERS):
        try:
            parse_token(token[:-2] + last + check)
        except InputError:
            continue
        accepted += 1
    assert accepted == 8  # the last letter holds three bits


def test_secrets_show_nowhere():
    secret = bytes(range(32))
    for holder in (Tokenizer(secret), OwnerSecret(1, secret)):
        assert repr(holder) == f"<{type(holder).__name__}>"
        assert not hasattr(holder, "__dict__")
        for take_out in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                take_out(holder)


def test_what_is_wrong_with_a_key_is_said():
    with pytest.raises(KeystoreError, match="32 bytes"):
        Tokenizer(bytes(31))
    with pytest.raises(KeystoreError, match="32 bytes"):
        OwnerSecret(1, bytes(33))
    with pytest.raises(KeystoreError, match="missing"):
        Tokenizer(bytes(32)).tokens(TokenKind.DEVICE, [1], [2], {3: OwnerSecret(1, bytes(32))})
