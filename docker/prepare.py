"""Write what docker-compose.yml mounts and must not be committed: passwords, certificates, the broker's files.

    .venv/bin/python docker/prepare.py [--host NAME_OR_ADDRESS ...]

Everything goes below docker/state/ (0700), the number of the user that owns it into .env. Run it again at any
time: what exists stays, so that gateways keep their credentials, the broker's configuration is brought up to date,
and certificates that soon expire, or lack a name given by --host, are made anew.
"""

import argparse
import datetime as dt
import ipaddress
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from telemetry.config import BrokerConfig
from telemetry.embedded.mosquitto import (
    ACL_FILE,
    CONFIG_FILE,
    PASSWORD_FILE,
    Listener,
    acl_text,
    mosquitto_config,
    password_matches,
    update_file,
    with_user,
)

HERE = Path(__file__).resolve().parent
SERVICE_UID = 10_001  # as in Containerfile, where root prepares
PORT = 8883
WORKER = "telemetry-worker"
PROBE = "telemetry-probe"
LOCAL = ("localhost", "127.0.0.1")
BROKER_NAMES, API_NAMES = ("mosquitto", *LOCAL), ("api", *LOCAL)
FOLDERS = ("secrets", "tls", "api", "authority", "data", "data/keys", "data/broker", "data/broker/state")
AUTHORITY_DAYS, SERVER_DAYS, RENEW_DAYS = 3650, 397, 30


def prepare(
    state: Path,
    hosts: Sequence[str] = (),
    *,
    inside: str = "/mosquitto",
    address: str = "0.0.0.0",
    port: int = PORT,
) -> None:
    """Bring ``state`` up to date. ``inside`` is where the broker's container sees its files."""
    for name in (".", *FOLDERS):
        (state / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("postgres", "broker", "grafana", "probe"):
        _once(state / "secrets" / f"{name}-password", secrets.token_urlsafe(32) + "\n")
    _passfile(state / "secrets")
    _certificates(state, hosts)
    _broker(state, Listener(port, address, None, f"{inside}/tls/broker.crt", f"{inside}/tls/broker.key"), inside)


def _once(path: Path, text: str) -> None:
    update_file(path, lambda old: old or text)


def _passfile(folder: Path) -> None:
    """The administrator's password as libpq's clients read it, the probe's as mosquitto_sub does."""
    password = _read(folder / "postgres-password")
    update_file(folder / "pgpass", lambda _: f"postgres:5432:*:postgres:{password}\n")
    update_file(folder / "mosquitto_sub", lambda _: f"-u {PROBE}\n-P {_read(folder / 'probe-password')}\n")


def _broker(state: Path, listener: Listener, inside: str) -> None:
    folder = state / "data" / "broker"
    wanted = {
        WORKER: _read(state / "secrets" / "broker-password"),
        PROBE: _read(state / "secrets" / "probe-password"),
    }

    def users(text: str) -> str:
        for user, password in wanted.items():
            if not password_matches(text, user, password):
                text = with_user(text, user, password)
        return text

    size = BrokerConfig().max_message_bytes
    config = mosquitto_config([listener], directory=f"{inside}/config", max_message_bytes=size)
    update_file(folder / PASSWORD_FILE, users)
    update_file(folder / ACL_FILE, lambda _: acl_text([WORKER]))
    update_file(folder / CONFIG_FILE, lambda _: config)


def _certificates(state: Path, hosts: Sequence[str]) -> None:
    """An authority of our own for ten years, and from it certificates for 13 months, in folders of their own: the
    broker and the API each see their own key alone.
    """
    now = dt.datetime.now(dt.UTC)
    servers = {state / "tls" / "broker": BROKER_NAMES, state / "api" / "api": API_NAMES}
    authority_file, key_file = state / "tls" / "ca.crt", state / "authority" / "ca.key"
    if not (authority_file.exists() and key_file.exists()):
        _authority(authority_file, key_file, now)
        for server in servers:
            server.with_suffix(".crt").unlink(missing_ok=True)
    for server, names in servers.items():
        if not _is_good(server.with_suffix(".crt"), [*names, *hosts], now):
            _server(authority_file, key_file, server, [*names, *hosts], now)


def _authority(authority_file: Path, key_file: Path, now: dt.datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "telemetry broker authority")])
    made = (
        _builder(name, name, key, now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(key_file, key, authority_file, made)


def _server(authority_file: Path, key_file: Path, server: Path, hosts: Sequence[str], now: dt.datetime) -> None:
    """Write ``server``.crt and ``server``.key."""
    authority = x509.load_pem_x509_certificate(authority_file.read_bytes())
    signing = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(signing, ec.EllipticCurvePrivateKey):
        raise SystemExit(f"{key_file} is not the key that this program wrote")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"telemetry {server.name}")])
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    certificate = (
        _builder(name, authority.subject, key, now, SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signing, hashes.SHA256())
    )
    _write_pair(server.with_suffix(".key"), key, server.with_suffix(".crt"), certificate)


def _is_good(file: Path, hosts: Sequence[str], now: dt.datetime) -> bool:
    if not file.exists():
        return False
    certificate = x509.load_pem_x509_certificate(file.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    lasts = certificate.not_valid_after_utc - now > dt.timedelta(days=RENEW_DAYS)
    return lasts and all(_name(host) in list(names) for host in hosts)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))  # a gateway's clock may be behind
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_pair(
    key_file: Path, key: ec.EllipticCurvePrivateKey, certificate_file: Path, certificate: x509.Certificate
) -> None:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    update_file(key_file, lambda _: pem)
    update_file(certificate_file, lambda _: certificate.public_bytes(serialization.Encoding.PEM).decode())


def _read(file: Path) -> str:
    return file.read_text().strip()


def _give_away(state: Path) -> tuple[int, int]:
    """Containers never run as root: what root prepares belongs to the image's own user."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    for path in (state, *state.rglob("*")):
        os.chown(path, SERVICE_UID, SERVICE_UID, follow_symlinks=False)
    return SERVICE_UID, SERVICE_UID


def main() -> None:
    """Prepare docker/state/ and .env."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--host", action="append", default=[], help="name or address under which gateways and users of the API connect"
    )
    state = HERE / "state"
    prepare(state, parser.parse_args().host)
    uid, gid = _give_away(state)
    keep = [line for line in _lines(HERE.parent / ".env") if not line.startswith(("TELEMETRY_UID=", "TELEMETRY_GID="))]
    (HERE.parent / ".env").write_text("\n".join([*keep, f"TELEMETRY_UID={uid}", f"TELEMETRY_GID={gid}", ""]))
    print(f"prepared {state.relative_to(HERE.parent)}; now: docker compose up --build")


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


if __name__ == "__main__":
    main()
