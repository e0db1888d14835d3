"""A stand-in for the service: what it received it reports as committed, on the topic gateways wait for."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator

import aiomqtt


class CommittingService:
    """Stands in for the service: subscribes, remembers, and reports as committed what it did not lose at first."""

    def __init__(self, port: int, *, lose: float = 0.0, wait_s: float = 0.1) -> None:
        self.got: dict[str, dict[int, list[bytes]]] = defaultdict(lambda: defaultdict(list))
        self.order: dict[str, list[int]] = defaultdict(list)
        self.streams: dict[str, str] = {}
        self.status: list[tuple[str, str]] = []
        self.content_types: set[str | None] = set()
        self._port, self._lose, self._wait_s = port, lose, wait_s
        self._dropped: set[tuple[str, int]] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["CommittingService"]:
        ready = asyncio.Event()
        task = asyncio.create_task(self._run(ready))
        await asyncio.wait_for(ready.wait(), 20)
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self, ready: asyncio.Event) -> None:
        while True:
            with contextlib.suppress(aiomqtt.MqttError):
                async with aiomqtt.Client(
                    "127.0.0.1", self._port, identifier="service", protocol=aiomqtt.ProtocolVersion.V5
                ) as client:
                    await client.subscribe("gw/+/readings", qos=1)
                    await client.subscribe("gw/+/status", qos=1)
                    ready.set()
                    speaker = asyncio.create_task(self._speak(client))
                    try:
                        async for message in client.messages:
                            self._receive(message)
                    finally:
                        speaker.cancel()
            await asyncio.sleep(0.05)

    def _receive(self, message: aiomqtt.Message) -> None:
        _, gateway, what = str(message.topic).split("/")
        payload = bytes(message.payload)  # type: ignore[arg-type]
        if what == "status":
            self.status.append((gateway, json.loads(payload)["state"]))
            return
        properties = dict(message.properties.UserProperty)  # type: ignore[union-attr]
        sequence = int(properties["seq"])
        self.streams[gateway] = properties["stream"]
        self.content_types.add(getattr(message.properties, "ContentType", None))
        # every third message's first arrival vanishes, as if a broker had lost it after its acknowledgement
        if sequence % 3 == 0 and self._lose and (gateway, sequence) not in self._dropped:
            self._dropped.add((gateway, sequence))
            return
        self.got[gateway][sequence].append(payload)
        self.order[gateway].append(sequence)

    async def _speak(self, client: aiomqtt.Client) -> None:
        while True:
            await asyncio.sleep(self._wait_s)
            for gateway, have in self.got.items():
                highest = max(have, default=0)
                missing = [n for n in range(1, highest + 1) if n not in have]
                mark = {
                    "stream": self.streams[gateway],
                    "sequence": missing[0] - 1 if missing else highest,
                    "highest": highest,
                    "missing": [[n, n] for n in missing],
                }
                await client.publish(f"gw/{gateway}/committed", json.dumps(mark))
