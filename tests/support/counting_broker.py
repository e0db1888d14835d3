"""An MQTT 5 server that counts how many messages a client leaves unacknowledged, and refuses some."""

import asyncio
from typing import Self

import mqtt5


class CountingBroker:
    """Announces ``receive_maximum``, answers each PUBLISH after a while, and refuses the first ``refuse_first``.

    It answers when a client has been quiet for ``patience_s``, so that a client shows how far it would go.
    """

    def __init__(self, *, receive_maximum: int = 65_535, refuse_first: int = 0, patience_s: float = 0.05) -> None:
        self.most_unacknowledged = 0
        self.accepted = 0
        self.port = 0
        self._receive_maximum, self._refuse, self._patience_s = receive_maximum, refuse_first, patience_s
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: list[int] = []
        buffer = b""
        try:
            while True:
                try:
                    data = await asyncio.wait_for(reader.read(65_536), self._patience_s)
                except TimeoutError:
                    for packet_id in waiting:
                        writer.write(self._answer(packet_id))
                    waiting.clear()
                    continue
                if not data:
                    return
                buffer += data
                while True:
                    try:
                        packet, size = mqtt5.read(memoryview(buffer))
                    except IndexError:
                        break
                    buffer = buffer[size:]
                    if isinstance(packet, mqtt5.ConnectPacket):
                        writer.write(mqtt5.ConnAckPacket(receive_max=self._receive_maximum).write())
                    elif isinstance(packet, mqtt5.PublishPacket) and packet.packet_id is not None:
                        if packet.topic.endswith("/status"):
                            writer.write(mqtt5.PubAckPacket(packet.packet_id).write())
                            continue
                        waiting.append(packet.packet_id)
                        self.most_unacknowledged = max(self.most_unacknowledged, len(waiting))
        finally:
            writer.close()

    def _answer(self, packet_id: int) -> bytes:
        if self._refuse:
            self._refuse -= 1
            return mqtt5.PubAckPacket(packet_id, reason_code=mqtt5.PubAckReasonCode.QUOTA_EXCEEDED).write()
        self.accepted += 1
        return mqtt5.PubAckPacket(packet_id).write()
