"""docker-compose.yml and its files agree with the code and with each other.

Nothing is started here: no container engine is needed. tests/integration/test_compose_files.py runs the broker and
the database, where they are installed, with the very files that the containers would mount.
"""

import importlib.util
import json
import re
import stat
import subprocess
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from telemetry.config import Config, load_config
from telemetry.embedded import mosquitto, postgres_settings
from telemetry.observe.metrics import Metrics

TOP = Path(__file__).resolve().parents[2]
DOCKER = TOP / "docker"
STATE = "./docker/state/"
BROKER_CERTIFICATE, API_CERTIFICATE = SERVERS = ("tls/broker.crt", "api/api.crt")


def load_prepare():
    specification = importlib.util.spec_from_file_location("docker_prepare", DOCKER / "prepare.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


prepare = load_prepare()


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load((TOP / "docker-compose.yml").read_text())


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """What prepare.py writes, as docker/state."""
    folder = tmp_path_factory.mktemp("prepared") / "state"
    prepare.prepare(folder, ["broker.example.org", "192.0.2.7"])
    return folder


@pytest.fixture
def configuration(services, monkeypatch) -> Config:
    """The service's configuration as its container computes it."""
    return configured(services["telemetry"]["environment"], monkeypatch)


@pytest.fixture
def api_configuration(services, monkeypatch) -> Config:
    """The API's."""
    return configured(services["api"]["environment"], monkeypatch)


def configured(variables, monkeypatch) -> Config:
    for name, value in variables.items():
        monkeypatch.setenv(name, environment(value))
    return load_config()


@pytest.fixture(scope="module")
def broker_settings(state):
    text = (state / "data" / "broker" / mosquitto.CONFIG_FILE).read_text()
    return dict(line.split(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def dashboard():
    return json.loads((DOCKER / "grafana" / "dashboards" / "telemetry.json").read_text())


@pytest.fixture(scope="module")
def queries(dashboard):
    alerts = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())
    found = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def environment(value: str) -> str:
    """Resolve ${NAME:-default} to the default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def mounts(service) -> dict[str, str]:
    """Inside → outside of bind mounts."""
    parts = [volume.split(":") for volume in service.get("volumes", [])]
    return {part[1]: part[0] for part in parts if part[0].startswith(".")}


class TestFiles:
    def test_every_mounted_file_is_in_the_repository_or_written_by_prepare(self, compose, services, state):
        wanted = [outside for service in services.values() for outside in mounts(service).values()]
        wanted += [secret["file"] for secret in compose["secrets"].values()]
        assert len(wanted) > 12
        for path in wanted:
            found = state / path.removeprefix(STATE) if path.startswith(STATE) else TOP / path
            assert found.exists(), path

    def test_every_secret_volume_and_network_used_is_declared_and_every_declared_one_used(self, compose, services):
        for kind in ("secrets", "networks"):
            used = {name for service in services.values() for name in service.get(kind, [])}
            assert used == set(compose[kind])
        named = {v.split(":")[0] for s in services.values() for v in s.get("volumes", []) if v[0] not in "./"}
        assert named == set(compose["volumes"])

    def test_the_container_file_copies_only_what_exists_and_is_not_ignored(self):
        allowed = {line[1:] for line in (TOP / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Containerfile").read_text(), re.MULTILINE)
        sources = [source for line in copied for source in line.split()]
        assert sources
        for source in sources:
            assert (TOP / source).exists()
            assert source.split("/")[0] in allowed

    def test_the_container_file_copies_all_that_the_wheel_needs(self):
        copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DOCKER / "Containerfile").read_text(), re.MULTILINE)
        assert {"src", "sql", "device_sim"} <= {source for line in copied for source in line.split()}

    def test_what_prepare_writes_is_never_committed(self):
        for path in ("docker/state/secrets/pgpass", ".env"):
            ignored = subprocess.run(["git", "check-ignore", "-q", path], cwd=TOP, check=False)
            if ignored.returncode == 128:
                pytest.skip("not a git checkout")
            assert ignored.returncode == 0, path


class TestSecrets:
    def test_no_file_in_the_repository_holds_one(self, services):
        secret_like = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY", re.IGNORECASE)
        for service in services.values():
            for name, value in service.get("environment", {}).items():
                if secret_like.search(name):
                    folder = str(Path(value).parent)
                    assert folder == "/run/secrets" or mounts(service)[folder].startswith(STATE), name

    def test_all_that_prepare_writes_is_private(self, state):
        modes = {path.relative_to(state): stat.S_IMODE(path.stat().st_mode) for path in state.rglob("*")}
        assert {oct(mode) for path, mode in modes.items() if (state / path).is_dir()} == {"0o700"}
        assert {oct(mode) for path, mode in modes.items() if (state / path).is_file()} == {"0o600"}

    def test_a_second_run_changes_nothing(self, state):
        before = {path: path.read_bytes() for path in state.rglob("*") if path.is_file()}
        prepare.prepare(state, ["broker.example.org", "192.0.2.7"])
        assert {path: path.read_bytes() for path in state.rglob("*") if path.is_file()} == before

    def test_a_second_run_keeps_gateways_and_adds_names_to_the_certificate(self, tmp_path):
        prepare.prepare(tmp_path / "state")
        passwords = tmp_path / "state" / "data" / "broker" / mosquitto.PASSWORD_FILE
        passwords.write_text(mosquitto.with_user(passwords.read_text(), "gateway-1", "made-up"))
        authority = (tmp_path / "state" / "tls" / "ca.crt").read_bytes()
        prepare.prepare(tmp_path / "state", ["later.example.org"])
        assert mosquitto.password_matches(passwords.read_text(), "gateway-1", "made-up")
        for file in SERVERS:
            assert "later.example.org" in names_in(tmp_path / "state", file)
            assert_issued_by(authority, tmp_path / "state" / file)
        assert (tmp_path / "state" / "tls" / "ca.crt").read_bytes() == authority

    def test_the_authoritys_key_reaches_no_container(self, compose, services):
        outside = [path for service in services.values() for path in mounts(service).values()]
        outside += [secret["file"] for secret in compose["secrets"].values()]
        assert not [path for path in outside if path.rstrip("/") in {"./docker/state", "./docker"}]
        assert not [path for path in outside if "authority" in path]

    def test_the_broker_and_the_api_see_their_own_private_key_alone(self, services, state):
        seen = {}
        for name, service in services.items():
            folders = [state / path.removeprefix(STATE) for path in mounts(service).values() if path.startswith(STATE)]
            keys = {key.name for folder in folders for key in (folder, *folder.rglob("*")) if key.suffix == ".key"}
            seen |= {name: keys} if keys else {}
        assert seen == {"mosquitto": {"broker.key"}, "api": {"api.key"}}

    def test_only_the_migration_has_the_administrators_password(self, services):
        holders = {name for name, service in services.items() if "pgpass" in service.get("secrets", [])}
        assert holders == {"migrate"}

    def test_a_new_authority_issues_all_anew(self, tmp_path):
        prepare.prepare(tmp_path / "state")
        (tmp_path / "state" / "authority" / "ca.key").unlink()
        prepare.prepare(tmp_path / "state")
        for file in SERVERS:
            assert_issued_by((tmp_path / "state" / "tls" / "ca.crt").read_bytes(), tmp_path / "state" / file)


def assert_issued_by(authority: bytes, file: Path) -> None:
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))


def names_in(state: Path, file: str = BROKER_CERTIFICATE) -> list[str]:
    certificate = x509.load_pem_x509_certificate((state / file).read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


class TestContainers:
    def test_none_runs_as_root_or_gains_rights(self, services):
        for name, service in services.items():
            assert service["read_only"] is True, name
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            if name not in {"postgres", "prometheus"}:  # the images' own users, postgres by its entry point
                assert environment(service["user"]).split(":")[0] == str(prepare.SERVICE_UID)

    def test_the_image_itself_has_an_ordinary_user(self):
        users = re.findall(r"^USER (\S+)$", (DOCKER / "Containerfile").read_text(), re.MULTILINE)
        assert users[-1] == f"{prepare.SERVICE_UID}:{prepare.SERVICE_UID}"

    def test_the_image_has_a_python_that_the_package_allows(self):
        images = re.findall(r"^FROM python:3\.(\d+)-slim", (DOCKER / "Containerfile").read_text(), re.MULTILINE)
        assert images
        assert all(int(minor) >= 11 for minor in images)

    def test_only_mqtt_and_the_api_over_tls_and_grafana_are_published_and_only_here(self, services):
        published = {name: service["ports"] for name, service in services.items() if "ports" in service}
        assert {name: [environment(port) for port in ports] for name, ports in published.items()} == {
            "mosquitto": [f"127.0.0.1:{prepare.PORT}:{prepare.PORT}"],
            "api": ["127.0.0.1:8443:8443"],
            "grafana": ["127.0.0.1:3000:3000"],
        }

    def test_the_database_is_on_an_internal_network_with_its_users_only(self, compose, services):
        assert compose["networks"]["database"]["internal"] is True
        assert services["postgres"]["networks"] == ["database"]
        members = {name for name, service in services.items() if "database" in service["networks"]}
        assert members == {"postgres", "telemetry", "migrate", "api"}

    def test_the_api_reaches_out_by_a_network_of_its_own_and_not_the_broker(self, compose, services):
        assert services["api"]["networks"] == ["database", "metrics", "outward"]
        assert [name for name, service in services.items() if "outward" in service["networks"]] == ["api"]
        assert not (compose["networks"]["outward"] or {}).get("internal", False)
        assert compose["networks"]["metrics"]["internal"] is True

    def test_all_that_stay_up_are_watched(self, services):
        assert {name for name, service in services.items() if "healthcheck" not in service} == {"migrate"}

    def test_the_service_starts_after_the_migration_and_the_broker(self, services):
        conditions = {name: entry["condition"] for name, entry in services["telemetry"]["depends_on"].items()}
        assert conditions == {
            "migrate": "service_completed_successfully",
            "mosquitto": "service_healthy",
        }
        assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}

    def test_the_api_starts_after_the_migration(self, services):
        assert services["api"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}


class TestService:
    def test_its_environment_is_a_valid_configuration(self, configuration, services):
        assert configuration.embedded is False
        assert configuration.broker.tls
        assert (configuration.broker.host, configuration.broker.port) == ("mosquitto", prepare.PORT)
        assert configuration.broker.username == configuration.broker.client_id == prepare.WORKER
        assert configuration.database.dsn == "postgresql://postgres:5432/telemetry"
        assert configuration.broker.host in services

    def test_the_files_it_names_are_mounted(self, configuration, services):
        service = services["telemetry"]
        assert str(configuration.data_dir) in mounts(service)
        assert str(configuration.broker.ca_file) in mounts(service)
        assert str(configuration.broker.password_file) in [f"/run/secrets/{name}" for name in service["secrets"]]

    def test_health_and_metrics_are_asked_where_they_listen(self, configuration, services):
        assert (
            f"http://127.0.0.1:{configuration.observe.port}/healthz" in services["telemetry"]["healthcheck"]["test"][-1]
        )
        scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        assert scraped[0]["static_configs"][0]["targets"] == [f"telemetry:{configuration.observe.port}"]
        assert "metrics" in services["prometheus"]["networks"]
        assert "metrics" in services["telemetry"]["networks"]

    def test_its_data_is_where_the_broker_reads_passwords(self, configuration, services):
        data = mounts(services["telemetry"])[str(configuration.data_dir)]
        assert mounts(services["mosquitto"])["/mosquitto/config"] == f"{data}/broker"


class TestApi:
    def test_it_runs_the_image_of_the_service_within_bounds(self, services):
        api, service = services["api"], services["telemetry"]
        assert api["command"] == ["api"]
        assert {name: api[name] for name in ("image", "build", "user", "tmpfs", "logging")} == {
            name: service[name] for name in ("image", "build", "user", "tmpfs", "logging")
        }
        assert api["mem_limit"] == "1g"

    def test_its_environment_is_a_valid_configuration(self, api_configuration, services):
        assert api_configuration.embedded is False
        assert api_configuration.database.dsn == "postgresql://postgres:5432/telemetry"
        assert (api_configuration.api.address, api_configuration.observe.address) == ("0.0.0.0", "0.0.0.0")
        published = environment(services["api"]["ports"][0])
        assert published.endswith(f":{api_configuration.api.port}")
        assert api_configuration.api.cookie_secure
        assert (api_configuration.api.origin, api_configuration.api.trusted_proxies) == ("", ())

    def test_nothing_leaves_it_before_somebody_sets_that(self, api_configuration):
        assert api_configuration.mail.host == ""
        assert api_configuration.webhooks.enabled is False

    def test_what_its_comments_offer_is_a_valid_configuration(self, compose, services, monkeypatch):
        text = (TOP / "docker-compose.yml").read_text()
        offered = yaml.safe_load("\n".join(re.findall(r"^ *# (TELEMETRY_\w+: .+)$", text, re.MULTILINE)))
        config = configured(services["api"]["environment"] | offered, monkeypatch)
        assert config.mail.host
        assert config.webhooks.enabled
        assert config.api.trusted_proxies == ("172.30.0.2",)
        uncommented = yaml.safe_load(re.sub(r"^( *)# (secrets: |mail-password: )", r"\1\2", text, flags=re.MULTILINE))
        (secret,) = uncommented["services"]["api"]["secrets"]
        assert str(config.mail.password_file) == f"/run/secrets/{secret}"
        assert set(uncommented["secrets"]) - set(compose["secrets"]) == {secret}

    def test_the_files_it_names_are_mounted_and_it_writes_to_none(self, api_configuration, services, state):
        inside = mounts(services["api"])
        for path in (api_configuration.api.cert_file, api_configuration.api.key_file):
            assert (state / inside[str(path.parent)].removeprefix(STATE) / path.name).exists()
        service_data = mounts(services["telemetry"])[str(api_configuration.data_dir)]
        assert inside[f"{api_configuration.data_dir}/keys"] == f"{service_data}/keys"
        assert all(volume.endswith(":ro") for volume in services["api"]["volumes"])

    def test_its_certificate_names_what_users_call_it(self, state):
        assert names_in(state, API_CERTIFICATE) == [
            *("api", "localhost", "127.0.0.1", "broker.example.org", "192.0.2.7")
        ]

    def test_health_is_asked_where_it_listens_and_the_certificate_is_checked(self, api_configuration, services):
        check = services["api"]["healthcheck"]["test"][-1]
        compile(check, "healthcheck", "exec")
        assert f"'https://localhost:{api_configuration.api.port}/healthz'" in check
        (trusted,) = re.findall(r"cafile='([^']+)'", check)
        assert mounts(services["api"])[trusted] == f"{STATE}tls/ca.crt"

    def test_metrics_are_scraped_where_they_are(self, api_configuration, services):
        scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        targets = {entry["job_name"]: entry["static_configs"][0]["targets"] for entry in scraped}
        assert targets["api"] == [f"api:{api_configuration.api.metrics_port}"]

    def test_stopping_leaves_it_the_time_that_it_takes(self, api_configuration, services):
        assert int(services["api"]["stop_grace_period"].removesuffix("s")) > api_configuration.api.shutdown_s


class TestBroker:
    def test_it_loses_nothing_and_admits_nobody_unknown(self, broker_settings, configuration):
        expected = {
            "persistence": "true",
            "max_queued_messages": str(mosquitto.NO_LIMIT),
            "max_inflight_messages": "0",  # so that broker.receive_maximum alone bounds what is in flight
            "allow_anonymous": "false",
            "use_username_as_clientid": "true",
            "message_size_limit": str(configuration.broker.max_message_bytes),
            "listener": f"{prepare.PORT} 0.0.0.0",
            "tls_version": "tlsv1.2",
        }
        assert {name: broker_settings[name] for name in expected} == expected
        assert int(broker_settings["autosave_interval"]) <= 30

    def test_its_files_are_where_its_container_sees_them(self, broker_settings, services, state):
        inside = mounts(services["mosquitto"])
        for name in ("password_file", "acl_file", "certfile", "keyfile", "persistence_location"):
            path = Path(broker_settings[name])
            folder = next(f for f in (path, *path.parents) if str(f) in inside)
            outside = state / inside[str(folder)].removeprefix(STATE) / path.relative_to(folder)
            assert outside.exists(), name
        assert services["mosquitto"]["command"][-1] == "/mosquitto/config/mosquitto.conf"
        writable = [v for v in services["mosquitto"]["volumes"] if not v.endswith(":ro")]
        assert [v.split(":")[1] for v in writable] == [broker_settings["persistence_location"].rstrip("/")]

    def test_the_worker_and_the_probe_have_passwords_and_the_worker_its_topics(self, state, services):
        folder = state / "data" / "broker"
        assert mosquitto.users((folder / "passwords").read_text()) == (prepare.WORKER, prepare.PROBE)
        assert (folder / "acl").read_text() == mosquitto.acl_text([prepare.WORKER])
        assert f"gw/{prepare.PROBE}/committed" in services["mosquitto"]["healthcheck"]["test"]

    def test_its_certificate_names_what_clients_call_it(self, state, configuration):
        assert names_in(state) == [
            *(configuration.broker.host, "localhost", "127.0.0.1", "broker.example.org", "192.0.2.7")
        ]


class TestPostgres:
    def test_its_settings_are_those_of_the_embedded_one(self):
        text = (DOCKER / "postgresql.conf").read_text()
        found = dict(re.findall(r"^(\w+) = '?([^'#\n]*[^'#\s])?", text, re.MULTILINE))
        found["log_line_prefix"] += " "  # the pattern above cuts the blank at its end
        embedded = postgres_settings.settings_for(Path("socket"), None, {})
        own = {"listen_addresses", "port", "unix_socket_directories"}
        assert {name: value for name, value in found.items() if name not in own} == {
            name: value for name, value in embedded.items() if name not in own
        }

    def test_the_service_finds_it(self, services, configuration):
        assert "@" not in configuration.database.dsn  # no role, no password: they come from the keystore
        assert services["migrate"]["environment"]["PGPASSFILE"] == "/run/secrets/pgpass"
        assert services["migrate"]["environment"]["PGUSER"] == "postgres"

    def test_checksums_and_scram_as_embedded(self, services):
        arguments = services["postgres"]["environment"]["POSTGRES_INITDB_ARGS"].split()
        assert arguments == [
            *("--data-checksums", "--encoding=UTF8", "--locale=C"),
            *("--auth-local=scram-sha-256", "--auth-host=scram-sha-256"),
        ]


def sample_names() -> dict[str, set[str]]:
    """Every series that the service can expose, with its labels."""
    names = {}
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in suffixes:
            names[family.name + suffix] = {"le"} if suffix == "_bucket" else set()
    for metric in vars(Metrics()).values():
        for name in list(names):
            if getattr(metric, "_labelnames", ()) and name.startswith(f"{metric._name}"):
                names[name] |= set(metric._labelnames)
    return names


class TestDashboard:
    def test_it_asks_only_for_series_that_the_service_has(self, queries):
        asked = {name for query in queries for name in re.findall(r"\btelemetry_\w+", query)}
        assert len(asked) > 20
        assert asked - set(sample_names()) == set()

    def test_it_groups_only_by_labels_that_those_series_have(self, queries):
        for query in queries:
            for labels, name in re.findall(r"by \(([^)]*)\) \((?:rate|increase)\((telemetry_\w+)", query):
                assert set(labels.replace(" ", "").split(",")) <= sample_names()[name], query

    def test_both_processes_are_watched_and_each_under_its_name(self, queries):
        scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        assert {f'up{{job="{entry["job_name"]}"}} == 0' for entry in scraped} <= set(queries)
        assert len(scraped) == 2

    def test_what_the_api_has_none_of_is_asked_of_the_service_alone(self, queries):
        asked = [query for query in queries if "telemetry_broker_connected" in query]
        assert len(asked) == 2
        assert all('telemetry_broker_connected{job="telemetry"}' in query for query in asked)

    def test_labels_that_series_have_are_not_renamed_by_the_scrape(self, queries):
        assert any("by (job)" in query for query in queries)
        scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
        assert all(entry["honor_labels"] for entry in scraped)

    def test_every_way_a_reading_can_end_is_shown(self, queries):
        for end in ("stored", "duplicate", "withheld", "quarantined"):
            assert any(f"telemetry_readings_{end}_total" in query for query in queries)

    def test_it_and_its_datasource_are_provisioned(self, dashboard, services):
        provisioning = DOCKER / "grafana" / "provisioning"
        source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
        assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
        assert source["url"] == "http://prometheus:9090"
        provider = yaml.safe_load((provisioning / "dashboards" / "telemetry.yml").read_text())["providers"][0]
        assert provider["options"]["path"] in mounts(services["grafana"])

    def test_panels_have_numbers_of_their_own_and_do_not_overlap(self, dashboard):
        panels = dashboard["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)
        cells = [
            (x, y)
            for grid in (panel["gridPos"] for panel in panels)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        ]
        assert len(cells) == len(set(cells))
        assert max(x for x, _ in cells) < 24
