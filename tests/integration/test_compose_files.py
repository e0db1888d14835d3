"""The containers' own files given to the real broker, database and API, without containers."""

import asyncio
import importlib.util
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

import aiomqtt
import asyncpg
import httpx
import pytest
import yaml

from telemetry.api.service import serve
from telemetry.config import load_config
from telemetry.embedded.broker import find_mosquitto
from telemetry.embedded.broker_probe import free_port
from telemetry.embedded.postgres_files import find_binaries
from telemetry.embedded.process import unprivileged_account
from telemetry.store.keystore import FileKeystore, role_password
from telemetry.store.migrate import ROLES, migrate
from tests.support.postgres import temporary_postgres

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


@pytest.fixture
def api_service():
    return yaml.safe_load((TOP / "docker-compose.yml").read_text())["services"]["api"]


@pytest.fixture
def container(tmp_path, api_service):
    """The API's mounts below a folder, as links to what prepare.py wrote; keys as `telemetry migrate` makes them."""
    state, root = tmp_path / "state", tmp_path / "root"
    prepare.prepare(state)
    FileKeystore(state / "data" / "keys").create()
    for volume in api_service["volumes"]:
        outside, inside, _ = volume.split(":")
        (root / inside[1:]).parent.mkdir(parents=True, exist_ok=True)
        (root / inside[1:]).symlink_to(state / outside.removeprefix("./docker/state/"))
    return root


@pytest.fixture
async def api(container, api_service, monkeypatch):
    """`telemetry api` with compose's environment, in this process; yields what to replace in addresses."""
    variables = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", v) for name, v in api_service["environment"].items()}
    ports = {port: free_port("127.0.0.1") for port in ("8443", "9465")}
    for name, value in variables.items():
        moved = f"{container}{value}" if value.startswith("/") else value.replace("0.0.0.0", "127.0.0.1")
        monkeypatch.setenv(name, str(ports.get(moved, moved)))
    keystore = FileKeystore(container / "var/lib/telemetry/keys")
    async with temporary_postgres() as postgres:
        passwords = {role: role_password(keystore, role) for role in ROLES}
        await migrate(lambda database: asyncpg.connect(postgres.dsn(database)), passwords)
        serving = asyncio.create_task(serve(load_config(), lambda database: postgres.dsn(database, "")))
        try:
            for port in ports.values():
                await listening(port, serving)
            yield ports
        finally:
            try:
                if not serving.done():
                    os.kill(os.getpid(), signal.SIGTERM)
                await serving
            finally:
                for number in (signal.SIGINT, signal.SIGTERM):
                    asyncio.get_running_loop().remove_signal_handler(number)


async def listening(port: int, serving: asyncio.Task) -> None:
    for _ in range(1000):
        if serving.done():
            serving.result()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise AssertionError("nothing listens")


async def test_the_api_answers_over_tls_that_the_authority_vouches_for(api, container):
    trusted = ssl.create_default_context(cafile=container / "etc/telemetry/tls/ca.crt")
    async with httpx.AsyncClient(base_url=f"https://localhost:{api['8443']}", verify=trusted) as asking:
        ready = await asking.get("/readyz")  # with the keystore's password, at the database
        assert (ready.status_code, ready.json()) == (200, {"ready": True})
        assert (await asking.get("/api/v1/fleet")).status_code == 401
    async with httpx.AsyncClient(base_url=f"https://localhost:{api['8443']}") as stranger:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await stranger.get("/readyz")
    async with httpx.AsyncClient() as scraper:
        metrics = await scraper.get(f"http://127.0.0.1:{api['9465']}/metrics")
    assert 'telemetry_api_requests_total{method="GET",route="/readyz",status="200"} 1.0' in metrics.text


async def test_the_apis_health_check_succeeds_and_fails_with_another_authority(api, container, api_service, tmp_path):
    check = api_service["healthcheck"]["test"][-1]
    assert api_service["healthcheck"]["test"][:3] == ["CMD", "python", "-c"]
    check = check.replace("8443", str(api["8443"])).replace("/etc/telemetry", f"{container}/etc/telemetry")

    def ended(program: str) -> int:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode

    assert await asyncio.to_thread(ended, check) == 0
    prepare.prepare(tmp_path / "other")
    other = check.replace(str(container / "etc/telemetry/tls"), str(tmp_path / "other" / "tls"))
    assert other != check
    assert await asyncio.to_thread(ended, other) != 0
