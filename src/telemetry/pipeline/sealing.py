"""Messages on their way to quarantine, sealed before they leave memory.

A quarantined message is sealed to the owner of the gateway that sent it, so that erasing the owner erases it too;
where no owner is known it is sealed to the service's own quarantine key. So is what comes from a site that changed
hands within the gateway's backfill limit: it may hold readings of who left, which are not for who came, and in a
message that cannot be read nobody can tell. One content key serves all messages of
one owner in one batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from telemetry.model.batch import QuarantinedMessage, RawMessage, Rejection
from telemetry.privacy.keys import BatchSealer, BlindIndex, Purpose, Sealer

SERVICE = 0  # stands in for the owner key where no owner is known


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


class QuarantineSealer:
    """Seals the rejected messages of batches. Used by one thread at a time.

    ``sealers`` maps owner keys to their public halves; SERVICE must be among them and serves where the owner's
    is missing (an owner erased a moment ago).
    """

    def __init__(self, sealers: Mapping[int, Sealer], blind: BlindIndex) -> None:
        self._sealers = sealers
        self._blind = blind

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
        batch = batches.get(owner_key)
        if batch is None:
            sealer = self._sealers[owner_key]
            batch = batches[owner_key] = sealer.batch(purpose=Purpose.QUARANTINE, subject_key=owner_key)
        # The reason is part of the digest: one message may hold readings that fail for different reasons.
        digest = self._blind.digest(
            "quarantine",
            rejection.reason.value.encode(),
            message.gateway.encode(),
            message.topic.encode(),
            message.payload,
        )
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
