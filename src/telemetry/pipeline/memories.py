"""What codecs remember, between batches: the newest in memory, sealed for the store with the batch that changed it.

A batch takes a turn: it decodes from the newest memories and leaves newer ones. It may be decoded again (the plan
changed, the store refused it and it is halved) while later batches have moved on: it then starts from what it
started from the first time and gives the same memories under the same versions, so that whatever order the writes
commit in, the newest version is the state after the newest batch.

A gateway that has just been enrolled may publish before this process has heard of it. What it says is then decoded
again under its key, but later batches may have come before that: so what is remembered of a name that has no key yet
is held for a moment, in memory only, and becomes that of the key.

Memory is bounded by the gateways there are, times the codecs they use, times CodecLimits.max_state_bytes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from telemetry.codecs.limits import CodecLimits
from telemetry.codecs.registry import CODEC_BY_NAME, DecodedBatch, decode_remembering
from telemetry.codecs.state import EMPTY, Memory, Standing, pack, unpack
from telemetry.errors import UnsealError
from telemetry.model.batch import CodecState, RawMessage
from telemetry.privacy.states import StateSealer

Place = tuple[int, str]
"""Gateway key and codec."""


@dataclass(frozen=True, slots=True, repr=False)
class Held:
    """One memory and its version, which grows with every change. ``gateway``: the name."""

    gateway: str
    version: int
    memory: Memory


@dataclass(frozen=True, slots=True, repr=False)
class Turn:
    """What a batch started from and what it left. ``started`` has every place it looked at."""

    started: Mapping[Place, Held] = field(default_factory=dict)
    left: Mapping[Place, Held] = field(default_factory=dict)

    def after(self, part: "Turn") -> "Turn":
        """The turn of this batch's next part, when ``part`` was the turn of those before it."""
        return Turn({**self.started, **part.started, **part.left}, self.left)


_FIRST_TURN: Final = Turn()
_NAMELESS_PLACES: Final = 64  # memories held of gateways without a key, and for how long
_NAMELESS_US: Final = 60_000_000


def _keyless(gateway: str, codec: str) -> Place:
    return 0, f"{codec}/{gateway}"


class Memories:
    """The newest memory of each place. One thread at a time. ``learns``: without it nothing is changed by a turn."""

    def __init__(self, sealer: StateSealer, *, learns: bool = True) -> None:
        self._sealer = sealer
        self._learns = learns
        self._newest: dict[Place, Held] = {}
        self._nameless: dict[Place, Held] = {}  # by (0, codec and name): of gateways without a key

    def load(self, states: Iterable[CodecState]) -> int:
        """Take over what was stored; how many states are of no use (another key, an older revision of the codec)."""
        useless = 0
        for state in states:
            held = self._opened(state)
            if held is None:
                useless += 1
            else:
                self._newest[state.gateway_key, state.codec] = held
        return useless

    def _opened(self, state: CodecState) -> Held | None:
        row = CODEC_BY_NAME.get(state.codec)
        if row is None or row.keeps is None:
            return None
        try:
            packed = self._sealer.open(
                state.sealed, gateway_key=state.gateway_key, codec=state.codec, version=state.version
            )
        except UnsealError:
            return None
        known = unpack(packed, row.keeps.revision)
        return None if known is None else Held(known[0], state.version, known[1])

    def decode(
        self,
        messages: Sequence[RawMessage],
        gateway_keys: Sequence[int | None],
        limits: CodecLimits,
        again: Turn | None = None,
    ) -> tuple[DecodedBatch, Turn]:
        """Decode ``messages``, of the gateways with these keys (0: remember nothing of it, None: nobody has heard
        of it yet), from the newest memories or, ``again``, from those that the first time started from.
        """
        before = again or _FIRST_TURN
        key_of: dict[str, int | None] = {}
        started: dict[Place, Held] = {}
        latest_us = max((message.received_us for message in messages), default=0)

        def recall(gateway: str, codec: str) -> Memory:
            if not key_of:  # nobody asks in a batch of formats without memory
                key_of.update((message.gateway, key) for message, key in zip(messages, gateway_keys, strict=True))
            key = key_of[gateway]
            place, keyless = (key or 0, codec), _keyless(gateway, codec)
            held = before.started.get(place) or before.started.get(keyless)
            if held is None and key:
                held = self._newer(self._newest.get(place), self._nameless.pop(keyless, None))
            elif held is None and key is None:
                held = self._nameless.get(keyless)
                held = held if held and latest_us - held.version <= _NAMELESS_US else None
            held = held or Held(gateway, 0, EMPTY)
            started[keyless if key is None else place] = held
            return held.memory

        batch = decode_remembering(messages, limits, recall)
        left = self._left(batch, key_of, started, before, messages) if batch.memories else {}
        return batch, Turn(started, left)

    def _left(
        self,
        batch: DecodedBatch,
        key_of: Mapping[str, int | None],
        started: Mapping[Place, Held],
        before: Turn,
        messages: Sequence[RawMessage],
    ) -> dict[Place, Held]:
        if not self._learns:
            return {}
        left: dict[Place, Held] = {}
        latest_us = max(message.received_us for message in messages)
        for (gateway, codec), memory in batch.memories.items():
            key = key_of[gateway]
            if key is None:
                keyless = _keyless(gateway, codec)
                self._hold(keyless, Held(gateway, max(started[keyless].version + 1, latest_us), memory))
            if not key:
                continue
            place = (key, codec)
            first = before.left.get(place)
            # By time of receipt, so that a worker that takes over is ahead of what the one before still commits.
            version = first.version if first else max(started[place].version + 1, latest_us)
            left[place] = Held(gateway, version, memory)
            newest = self._newest.get(place)
            if newest is None or newest.version < version:
                self._newest[place] = left[place]
        return left

    @staticmethod
    def _newer(one: Held | None, other: Held | None) -> Held | None:
        if one is None or other is None:
            return one or other
        return max(one, other, key=lambda held: held.version)

    def _hold(self, place: Place, held: Held) -> None:
        """Keep what a gateway without a key left, until it has one."""
        self._nameless.pop(place, None)
        self._nameless[place] = held
        while len(self._nameless) > _NAMELESS_PLACES:
            del self._nameless[next(iter(self._nameless))]

    def seal(self, turn: Turn, gateway_keys: Iterable[int]) -> list[CodecState]:
        """What a batch left, for the store, of those gateways only."""
        wanted = set(gateway_keys)
        return [
            CodecState(key, codec, held.version, self._sealed(key, codec, held))
            for (key, codec), held in sorted(turn.left.items())
            if key in wanted
        ]

    def _sealed(self, gateway_key: int, codec: str, held: Held) -> bytes:
        keeps = CODEC_BY_NAME[codec].keeps
        assert keeps is not None  # noqa: S101 - only codecs that keep something leave something
        packed = pack(held.memory, held.gateway, keeps.revision)
        return self._sealer.seal(packed, gateway_key=gateway_key, codec=codec, version=held.version)

    def gateways(self) -> list[int]:
        """The keys of the gateways that anything is remembered of."""
        return list({key for key, _ in self._newest})

    def forget(self, gateway_keys: Iterable[int]) -> list[tuple[str, str]]:
        """Forget all that is remembered of these gateways; of which (gateway, codec) anything was."""
        gone = set(gateway_keys)
        places = [place for place in self._newest if place[0] in gone]
        return [(self._newest.pop(place).gateway, place[1]) for place in places]

    def standing(self, changed: Turn | None = None) -> dict[tuple[str, str], tuple[Standing, ...]]:
        """What is to be published to gateways again and again, by (gateway, codec), as of the newest memories; only
        for those that a turn has ``changed``. Nothing is an answer too.
        """
        found: dict[tuple[str, str], tuple[Standing, ...]] = {}
        for place in self._newest if changed is None else changed.left:
            keeps, newest = CODEC_BY_NAME[place[1]].keeps, self._newest.get(place)
            if keeps is not None and newest is not None:
                found[newest.gateway, place[1]] = tuple(keeps.standing(newest.memory))
        return found
