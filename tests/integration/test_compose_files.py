"""The containers' own files given to the real broker and the real database, without containers."""

import asyncio
import importlib.util
import os
import shutil
import ssl
import subprocess
import tempfile
from pathlib import Path

import aiomqtt
import pytest
import yaml

from telemetry.embedded.broker import find_mosquitto
from telemetry.embedded.broker_probe import free_port
from telemetry.embedded.postgres_files import find_binaries
from telemetry.embedded.process import unprivileged_account

TOP = Path(__file__).resolve().parents[2]
needs_mosquitto = pytest.mark.skipif(find_mosquitto() is None, reason="mosquitto is not installed")


def load_prepare():
    specification = importlib.util.spec_from_file_location("docker_prepare", TOP / "docker" / "prepare.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


prepare = load_prepare()


@pytest.fixture
async def broker():
    """mosquitto, started with what prepare.py wrote; yields (folder, port)."""
    top = Path(tempfile.mkdtemp(prefix="tcf-"))
    top.chmod(0o711)
    state, port = top / "state", free_port("127.0.0.1")
    prepare.prepare(state, inside=str(top), address="127.0.0.1", port=port)
    (top / "config").symlink_to(state / "data" / "broker")
    (top / "tls").symlink_to(state / "tls")
    account = unprivileged_account(("mosquitto",))
    if account:
        for path in (state, *state.rglob("*")):
            os.chown(path, account.uid, account.gid)
    process = subprocess.Popen(
        [find_mosquitto(), "-c", top / "config" / "mosquitto.conf"],
        user=account.uid if account else None,
        group=account.gid if account else None,
        stderr=subprocess.PIPE,
    )
    try:
        for _ in range(500):
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            except OSError:
                assert process.poll() is None, process.stderr.read()
                await asyncio.sleep(0.02)
        yield state, port
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(top)


def client(state: Path, port: int, user: str, password: str) -> aiomqtt.Client:
    return aiomqtt.Client(
        "localhost",
        port,
        username=user,
        identifier=user,
        password=password,
        protocol=aiomqtt.ProtocolVersion.V5,
        tls_context=ssl.create_default_context(cafile=state / "tls" / "ca.crt"),
    )


@needs_mosquitto
async def test_the_worker_gets_in_over_tls_and_only_with_its_password(broker):
    state, port = broker
    password = (state / "secrets" / "broker-password").read_text().strip()
    async with client(state, port, prepare.WORKER, password) as worker:
        await worker.subscribe("gw/#", qos=1)
    with pytest.raises(aiomqtt.MqttError):
        async with client(state, port, prepare.WORKER, "wrong"):
            pass


@needs_mosquitto
@pytest.mark.skipif(shutil.which("mosquitto_sub") is None, reason="mosquitto's command line clients are missing")
async def test_the_brokers_health_check_succeeds_and_fails_without_the_password(broker):
    state, port = broker
    compose = yaml.safe_load((TOP / "docker-compose.yml").read_text())
    command = compose["services"]["mosquitto"]["healthcheck"]["test"][1:]
    replaced = {"/mosquitto/tls/ca.crt": str(state / "tls" / "ca.crt"), str(prepare.PORT): str(port)}
    command = [replaced.get(part, part) for part in command]

    def check(folder: Path) -> int:
        environment = {"PATH": os.environ["PATH"], "XDG_CONFIG_HOME": str(folder)}
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    assert await asyncio.to_thread(check, state / "secrets") == 0
    assert await asyncio.to_thread(check, state / "tls") != 0


@pytest.mark.parametrize(
    ("setting", "value"), [("log_min_messages", "log"), ("max_wal_size", "8192"), ("log_line_prefix", "%m [%p] ")]
)
def test_postgresql_reads_its_file(setting, value, tmp_path):
    # `-C` prints a setting and starts nothing, which root may do as well
    (tmp_path / "postgresql.auto.conf").touch()
    binary = find_binaries(None) / "postgres"
    command = [binary, "-C", setting, "-D", tmp_path, f"--config-file={TOP / 'docker' / 'postgresql.conf'}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.stdout.removesuffix("\n"), ended.stderr) == (value, "")
