"""Messages on their way to quarantine, sealed before they leave memory.

A quarantined message is sealed to the owner of the gateway that sent it, so that erasing the owner erases it too;
where no owner is known it is sealed to the service's own quarantine key. So is what comes from a site that changed
hands within the gateway's backfill limit: it may hold readings of who left, which are not for who came, and in a
message that cannot be read nobody can tell. One content key serves all messages of
one owner in one batch.

A gateway that sends nothing but poison must not fill the disk: beyond a number of payload bytes an hour its further
messages are counted, by gateway, reason and hour, and their payloads are not kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from telemetry.model.batch import QuarantinedMessage, RawMessage, Rejection
from telemetry.privacy.keys import BatchSealer, BlindIndex, Purpose, Sealer

SERVICE = 0  # stands in for the owner key where no owner is known
OVER_QUOTA: Final = "payload not kept: this gateway's quarantine quota of the hour is used up"
DEFAULT_QUOTA_BYTES: Final = 16 * 2**20
_HOUR_US: Final = 3600 * 1_000_000
_REMEMBERED: Final = 4096  # digests: a message that comes again takes no room in the table, and none of the quota


@dataclass(frozen=True, slots=True)
class Senders:
    """Gateway key and owner key of every message, int64[m]; 0 where nobody has enrolled the gateway, and the owner key
    where the message may be an earlier owner's.
    """

    gateway_key: npt.NDArray[np.int64]
    owner_key: npt.NDArray[np.int64]


class SealedContent(msgspec.Struct, array_like=True, frozen=True):
    """What a sealed quarantine payload opens to (MessagePack array)."""

    gateway: str
    topic: str
    content_type: str | None
    received_us: int
    sequence: int
    stream: str
    payload: bytes

    def message(self, token: int = 0) -> RawMessage:
        """The message as it came, for another try."""
        return RawMessage(
            gateway=self.gateway,
            topic=self.topic,
            payload=self.payload,
            token=token,
            received_us=self.received_us,
            content_type=self.content_type,
        )


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(SealedContent)


def open_content(plaintext: bytes) -> SealedContent:
    """The content of an opened quarantine payload."""
    return _DECODER.decode(plaintext)


class Quota:
    """How many payload bytes of each gateway may still be kept this hour (of receipt). One thread at a time."""

    def __init__(self, bytes_per_hour: int) -> None:
        self._limit = bytes_per_hour
        self._hour = -1
        self._used: dict[int, int] = {}
        self._known: dict[bytes, None] = {}

    def admits(self, gateway_key: int, message: RawMessage, digest: bytes) -> bool:
        """Whether this message's payload is kept; counts it. All unknown gateways share one quota."""
        hour = message.received_us // _HOUR_US
        if hour > self._hour:
            self._hour = hour
            self._used.clear()
        if digest in self._known:
            return True
        used = self._used.get(gateway_key, 0) + len(message.payload)
        if used > self._limit:
            return False
        self._used[gateway_key] = used
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[digest] = None
        return True


class QuarantineSealer:
    """Seals the rejected messages of batches. Used by one thread at a time.

    ``sealers`` maps owner keys to their public halves; SERVICE must be among them and serves where the owner's
    is missing (an owner erased a moment ago). ``quota_bytes``: payload bytes kept per gateway and hour.
    """

    def __init__(
        self, sealers: Mapping[int, Sealer], blind: BlindIndex, *, quota_bytes: int = DEFAULT_QUOTA_BYTES
    ) -> None:
        self._sealers = sealers
        self._blind = blind
        self._quota = Quota(quota_bytes)

    def seal(
        self,
        messages: Sequence[RawMessage],
        rejections: Sequence[Rejection],
        senders: Senders,
        codec_of_message: Mapping[int, str],
    ) -> list[QuarantinedMessage]:
        """One QuarantinedMessage per rejection."""
        batches: dict[int, BatchSealer] = {}
        return [
            self._seal_one(
                messages[rejection.message],
                rejection,
                (int(senders.gateway_key[rejection.message]), int(senders.owner_key[rejection.message])),
                codec_of_message.get(rejection.message, "native-json"),
                batches,
            )
            for rejection in rejections
        ]

    def _seal_one(
        self,
        message: RawMessage,
        rejection: Rejection,
        sender: tuple[int, int],
        codec: str,
        batches: dict[int, BatchSealer],
    ) -> QuarantinedMessage:
        gateway_key, owner_key = sender
        if owner_key not in self._sealers:
            owner_key = SERVICE
        digest = self._digest(message, rejection)
        if not self._quota.admits(gateway_key, message, digest):
            return self._unkept(message, rejection, sender, codec)
        batch = batches.get(owner_key)
        if batch is None:
            sealer = self._sealers[owner_key]
            batch = batches[owner_key] = sealer.batch(purpose=Purpose.QUARANTINE, subject_key=owner_key)
        content = SealedContent(
            message.gateway,
            message.topic,
            message.content_type,
            message.received_us,
            message.sequence,
            message.stream,
            message.payload,
        )
        return QuarantinedMessage(
            gateway_key=gateway_key or None,
            owner_key=owner_key or None,
            reason=rejection.reason,
            codec=codec,
            readings=rejection.readings,
            size_bytes=len(message.payload),
            digest=digest,
            sealed=batch.seal(_ENCODER.encode(content), bound=digest),
            detail=rejection.detail,
        )

    def _digest(self, message: RawMessage, rejection: Rejection) -> bytes:
        """The reason is part of it: one message may hold readings that fail for different reasons."""
        return self._blind.digest(
            "quarantine",
            rejection.reason.value.encode(),
            message.gateway.encode(),
            message.topic.encode(),
            message.payload,
        )

    def _unkept(
        self, message: RawMessage, rejection: Rejection, sender: tuple[int, int], codec: str
    ) -> QuarantinedMessage:
        """One row for all messages of a gateway, reason and hour whose payload is not kept; ``seen`` counts them."""
        gateway_key, owner_key = sender
        hour = message.received_us // _HOUR_US
        digest = self._blind.digest(
            "quarantine-unkept",
            rejection.reason.value.encode(),
            gateway_key.to_bytes(8, signed=True),
            hour.to_bytes(8, signed=True),
        )
        return QuarantinedMessage(
            gateway_key=gateway_key or None,
            owner_key=owner_key or None,
            reason=rejection.reason,
            codec=codec,
            readings=rejection.readings,
            size_bytes=len(message.payload),
            digest=digest,
            sealed=b"",
            detail=OVER_QUOTA,
        )
