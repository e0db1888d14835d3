"""Attacks on tokens, each with a positive control: it must succeed where serials are hashed without a key."""

import hashlib
import hmac
import random
import secrets

import pytest

from telemetry.model.identity import new_key
from telemetry.privacy.tokens import OwnerSecret, Tokenizer, TokenKind, parse_token

DEVICES, DEVICES_A_HOME = 100_000, 3


def serial(number: int) -> str:
    """A made-up maker's: model, year, week, running number. Little entropy, as in the field."""
    return f"INV{2015 + number % 10}{number // 10 % 52:02d}{number:07d}"


class World:
    """Devices of many owners, as two recipients see them."""

    def __init__(self, devices: int) -> None:
        self.serials = [serial(number) for number in range(devices)]
        self.keys = [new_key() for _ in range(devices)]
        self.owners = [number // DEVICES_A_HOME for number in range(devices)]
        self.secrets = {owner: secrets.token_bytes(32) for owner in set(self.owners)}
        self.recipients = [secrets.token_bytes(32) for _ in range(2)]

    def tokens(self, recipient: int, *, epoch: int = 1) -> list[str]:
        owners = {owner: OwnerSecret(epoch, secret) for owner, secret in self.secrets.items()}
        return Tokenizer(self.recipients[recipient]).tokens(TokenKind.DEVICE, self.keys, self.owners, owners)


@pytest.fixture(scope="module")
def world() -> World:
    return World(DEVICES)


def unkeyed(serials: list[str]) -> list[bytes]:
    return [hashlib.sha256(one.encode()).digest()[:16] for one in serials]


def parts(tokens: list[str]) -> set[str]:
    """What a token might share with another one: its letters without kind and check, and each half of them."""
    letters = [token[len("dev_") : -1] for token in tokens]
    return {*letters, *(one[::-1] for one in letters), *(one[:13] for one in letters), *(one[13:] for one in letters)}


def test_attack_join_the_tokens_of_two_recipients(world: World):
    assert not parts(world.tokens(0)) & parts(world.tokens(1))
    # The control: the same join over hashes without a key finds every device.
    assert len(set(unkeyed(world.serials)) & set(unkeyed(world.serials[::-1]))) == DEVICES


def test_attack_join_the_tokens_of_two_epochs(world: World):
    before = parts(world.tokens(0, epoch=1))
    assert not before & parts(world.tokens(0, epoch=2))
    assert before == parts(world.tokens(0, epoch=1))  # the control


def guesses(recipient: bytes, candidates: list[bytes], devices: list[int]) -> set[bytes]:
    """What somebody computes who holds a recipient's key, every serial there is, and even all device keys.

    The construction is known, the owners' secrets are not: they are guessed as empty, zero, or the recipient's key.
    """
    found = {hmac.digest(recipient, serial, "sha256")[:16] for serial in candidates}
    for secret in (b"", bytes(32), recipient):
        head = [b"telemetry/token/1", b"dev", (1).to_bytes(8, "big"), secret]
        start = b"".join(len(part).to_bytes(4, "big") + part for part in head) + (8).to_bytes(4, "big")
        subjects = [key.to_bytes(8, "big", signed=True) for key in devices]
        subjects += [hashlib.sha256(serial).digest()[:8] for serial in candidates]
        found |= {hmac.digest(recipient, start + subject, "sha256")[:16] for subject in subjects}
    return found


@pytest.mark.parametrize("space", [30_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_attack_a_dictionary_of_every_serial_with_a_leaked_recipients_key(space: int):
    world = World(3_000)
    tokens = {parse_token(token).bits for token in world.tokens(0)}
    candidates = [serial(number).encode() for number in range(space)]
    assert set(world.serials) <= {one.decode() for one in candidates}
    assert not tokens & guesses(world.recipients[0], candidates, world.keys)
    # The controls: hashes without a key give up every serial; and with an owner's secret the same guess succeeds.
    dictionary = {hashlib.sha256(one).digest()[:16] for one in candidates}
    assert len(dictionary & set(unkeyed(world.serials))) == len(world.serials)
    insider = Tokenizer(world.recipients[0]).token(TokenKind.DEVICE, world.keys[0], OwnerSecret(1, world.secrets[0]))
    assert parse_token(insider).bits in tokens


def test_attack_the_owners_secret_does_not_help_without_the_recipients_key():
    world, rng = World(300), random.Random(1)
    tokens = {parse_token(token).bits for token in world.tokens(0)}
    for wrong in (world.recipients[1], bytes(32), rng.randbytes(32)):
        owners = {owner: OwnerSecret(1, secret) for owner, secret in world.secrets.items()}
        made = Tokenizer(wrong).tokens(TokenKind.DEVICE, world.keys, world.owners, owners)
        assert not tokens & {parse_token(token).bits for token in made}
