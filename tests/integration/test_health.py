"""Health over real sockets: its answers, and that a stalled event loop and silent clients are borne."""

import asyncio
import json
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
import pytest_asyncio

from telemetry import health
from telemetry.errors import ConfigurationError
from telemetry.health import HealthServer, Heartbeat, Readiness
from telemetry.observe import Observer

SERIAL = "INV00000042"


class Parts:
    """What the probes find."""

    def __init__(self):
        self.broken = {}

    def probe(self, name):
        async def ask():
            if (error := self.broken.get(name)) is not None:
                raise error

        return ask


@pytest.fixture
def parts():
    return Parts()


@pytest_asyncio.fixture
async def server(parts, monkeypatch):
    monkeypatch.setattr(health, "_REMEMBERED_S", 0.0)
    observer, heartbeat = Observer(), Heartbeat()
    beating = asyncio.create_task(heartbeat.run())
    readiness = Readiness(
        {name: parts.probe(name) for name in ("database", "broker", "plan")}, asyncio.get_running_loop()
    )
    running = HealthServer(observer.metrics.registry, heartbeat, readiness)
    yield running
    await asyncio.to_thread(running.close)
    beating.cancel()


def get(server, path, method="GET"):
    asked = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


async def test_metrics_are_those_of_the_observer(server):
    status, page = await asyncio.to_thread(get, server, "/metrics")
    assert status == 200
    assert b"telemetry_readings_stored_total 0.0" in page
    assert b"python_info" not in page
    assert await asyncio.to_thread(get, server, "/metrics", "HEAD") == (200, b"")


async def test_ready_only_while_every_part_is(server, parts):
    status, told = await asyncio.to_thread(get, server, "/readyz")
    assert (status, json.loads(told)["ready"]) == (200, True)
    parts.broken["database"] = OSError(f"no route to {SERIAL}")
    status, told = await asyncio.to_thread(get, server, "/readyz")
    assert status == 503
    assert json.loads(told)["parts"] == {"database": "not usable", "broker": "ok", "plan": "ok"}
    assert SERIAL.encode() not in told


async def test_alive_until_the_event_loop_stalls(server, monkeypatch):
    assert (await asyncio.to_thread(get, server, "/healthz"))[0] == 200
    monkeypatch.setattr(health, "_STALL_S", 0.6)
    answers = []

    def ask():
        while server._heartbeat.silence_s() < 0.7:
            time.sleep(0.05)
        answers.append(get(server, "/healthz"))

    asker = threading.Thread(target=ask)
    asker.start()
    asker.join()  # the loop does nothing else meanwhile
    status, told = answers[0]
    assert status == 503
    assert json.loads(told)["alive"] is False


async def test_readiness_answers_while_the_event_loop_stalls(server, monkeypatch):
    monkeypatch.setattr(health, "_PROBE_LIMIT_S", -0.8)
    answers = []
    asker = threading.Thread(target=lambda: answers.append(get(server, "/readyz")))
    asker.start()
    asker.join()
    assert answers[0][0] == 503
    assert json.loads(answers[0][1])["parts"]["broker"] == "the event loop does not answer"


async def test_unknown_paths_and_methods_are_refused(server):
    assert (await asyncio.to_thread(get, server, f"/{SERIAL}"))[0] == 404
    status, page = await asyncio.to_thread(get, server, "/metrics", "POST")
    assert status == 501
    assert SERIAL.encode() not in page


async def test_clients_that_say_nothing_cannot_occupy_it(server, monkeypatch):
    monkeypatch.setattr(health._Handler, "timeout", 0.3)
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(12)]
    while True:  # until the places of the silent ones are free again
        try:
            assert (await asyncio.to_thread(get, server, "/healthz"))[0] == 200
        except OSError:
            await asyncio.sleep(0.1)
        else:
            break
    for one in silent:
        one.close()


async def test_a_port_in_use_is_told(server):
    with pytest.raises(ConfigurationError, match=r"observe\.port"):
        HealthServer(server._registry, server._heartbeat, server._readiness, port=server.port)
