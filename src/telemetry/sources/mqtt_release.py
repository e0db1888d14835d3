"""What was received and is not acknowledged yet: PUBACKs in the order received, memory by count and bytes.

No I/O, no clock. Sources: MQTT 5.0 (OASIS, 2019), sections 4.4 (delivery retry), 4.6 (PUBACKs in the order in
which the PUBLISHes came), 4.9 (flow control).
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

from mqtt5 import PubAckPacket

PACKET_ID_BITS: Final = 16
PACKET_ID_MASK: Final = 0xFFFF


class ReleaseQueue:
    """Every message from its arrival to its release.

    A token is ``epoch << 16 | packet id``; a message of QoS 0 has packet id 0, which the standard never uses
    (2.2.1), so its token frees memory and acknowledges nothing. Packet ids mean something within one connection
    only: after ``begin_epoch`` an older token still frees its memory, and no PUBACK comes of it.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.pending_bytes = 0
        self._order: deque[int] = deque()  # packet ids of this epoch, as received
        self._done: set[int] = set()  # those of them that may be acknowledged once they are first
        self._sizes: dict[int, int] = {}  # payload bytes by token, of every epoch
        self._sizes_qos0: deque[int] = deque()

    @property
    def pending_messages(self) -> int:
        """Messages handed over or about to be, of any epoch, whose token has not come back."""
        return len(self._sizes) + len(self._sizes_qos0)

    @property
    def unacknowledged(self) -> int:
        """PUBLISHes of this connection whose PUBACK has not been made."""
        return len(self._order)

    def begin_epoch(self) -> None:
        """A new connection: nothing received so far can be acknowledged any more."""
        self.epoch += 1
        self._order.clear()
        self._done.clear()

    def holds(self, packet_id: int) -> bool:
        """Whether this connection's packet id is taken: received, its token not back yet or its turn not come."""
        return (self.epoch << PACKET_ID_BITS | packet_id) in self._sizes or packet_id in self._done

    def receive(self, packet_id: int, size: int) -> int:
        """Remember a PUBLISH (packet id 0: QoS 0) of ``size`` payload bytes; returns its token."""
        token = self.epoch << PACKET_ID_BITS | packet_id
        self.pending_bytes += size
        if packet_id:
            self._order.append(packet_id)
            self._sizes[token] = size
        else:
            self._sizes_qos0.append(size)
        return token

    def discard(self, packet_id: int) -> None:
        """Remember a PUBLISH that nobody needs: it is acknowledged when its turn comes."""
        if packet_id:
            self._order.append(packet_id)
            self._done.add(packet_id)

    def forget(self, token: int) -> None:
        """Free the memory of a message of an earlier connection that was never handed over."""
        self.pending_bytes -= self._sizes.pop(token, 0)

    def release(self, tokens: Iterable[int]) -> bytes:
        """Free the messages of ``tokens``; returns the PUBACKs whose turn has come, ready to be written.

        Unknown and repeated tokens are ignored.
        """
        self.free(tokens)
        return self.due()

    def free(self, tokens: Iterable[int]) -> None:
        """As ``release``, for a client that makes its PUBACKs of ``due_ids`` itself."""
        epoch, sizes, done = self.epoch, self._sizes, self._done
        for token in tokens:
            packet_id = token & PACKET_ID_MASK
            if not packet_id:
                if self._sizes_qos0:
                    self.pending_bytes -= self._sizes_qos0.popleft()
                continue
            size = sizes.pop(token, None)
            if size is None:
                continue
            self.pending_bytes -= size
            if token >> PACKET_ID_BITS == epoch:
                done.add(packet_id)

    def due(self) -> bytes:
        """The PUBACKs of all that is done at the head of the order, as bytes."""
        return b"".join([PubAckPacket(packet_id).write() for packet_id in self.due_ids()])

    def due_ids(self) -> list[int]:
        """The packet ids of all that is done at the head of the order, once."""
        order, done = self._order, self._done
        due = []
        while order and order[0] in done:
            packet_id = order.popleft()
            done.discard(packet_id)
            due.append(packet_id)
        return due
