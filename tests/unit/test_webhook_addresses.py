"""Addresses that a webhook may have: https on the public internet, however it is written."""

import base64
import hashlib
import hmac
import ipaddress

import pytest

from telemetry.deliver.address import is_public, parse, resolve
from telemetry.deliver.sealing import WebhookSealer
from telemetry.deliver.webhook import new_secret, shown_secret, signature
from telemetry.errors import AddressRefused, DeliveryUnavailable, KeystoreError, UnsealError

GOOD = "https://hooks.example.invalid/a/b?c=d"


def test_an_address_has_its_parts():
    target = parse(GOOD)
    assert (target.scheme, target.host, target.port, target.path) == ("https", "hooks.example.invalid", 443, "/a/b?c=d")
    assert (target.authority, parse("https://a.example.invalid:8443").authority) == (
        "hooks.example.invalid",
        "a.example.invalid:8443",
    )
    assert "example" not in repr(target)


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example.invalid/",
        "ftp://hooks.example.invalid/",
        "https://user:pass@hooks.example.invalid/",
        "https://@hooks.example.invalid/",
        "https://hooks.example.invalid/#part",
        "https://hooks.example.invalid:22/",
        "https://hooks.example.invalid:99999/",
        "https:///path",
        "https://intranet/",
        "https://10.0.0.1/",
        "https://172.16.9.9/",
        "https://192.168.1.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:10.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fe80::1%25eth0]/",
        "https://[fc00::1]/",
        "https://[fec0::1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:7f00:1::]/",
        "https://[ff02::1]/",
        "https://hooks.example.invalid/a b",
        "https://hooks.example.invalid/\r\nX: y",
        "https://hööks.example.invalid/",
        "https://hooks.example.invalid/" + "a" * 2048,
        "",
    ],
)
@pytest.mark.parametrize("loopback", [False, True])
def test_what_is_not_public_is_refused(url, loopback):
    with pytest.raises(AddressRefused) as told:
        parse(url, loopback=loopback)
    assert "example" not in str(told.value)


OWN = [
    "http://127.0.0.1:9/",
    "http://localhost:9/x",
    "https://localhost/",
    "https://localhost./",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://017700000001/",
    "https://[::1]/",
    "https://[::1]:9/",
]


@pytest.mark.parametrize("url", OWN)
def test_loopback_is_refused_unless_it_is_allowed(url):
    parse(url, loopback=True)
    with pytest.raises(AddressRefused):
        parse(url)


@pytest.mark.parametrize("text", ["93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "1.1.1.1"])
def test_public_addresses_are_public(text):
    assert is_public(ipaddress.ip_address(text))
    parse(f"https://[{text}]/" if ":" in text else f"https://{text}/")


async def test_a_name_that_leads_inside_is_refused(monkeypatch):
    import asyncio

    found = [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", ("10.0.0.7", 443))]

    async def getaddrinfo(*_args, **_more):
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    with pytest.raises(AddressRefused):
        await resolve(parse(GOOD))
    del found[1]
    assert await resolve(parse(GOOD)) == ["93.184.215.14"]
    found.clear()
    with pytest.raises(DeliveryUnavailable):
        await resolve(parse(GOOD))


async def test_a_name_that_is_not_known_is_unavailable():
    with pytest.raises(DeliveryUnavailable):
        await resolve(parse(GOOD))  # .invalid never is: RFC 2606


def test_a_signature_is_that_of_standard_webhooks():
    """The example of the specification's reference libraries."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    assert signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )
    mac = hmac.new(secret, b"a.1." + body, hashlib.sha256).digest()
    assert signature(secret, "a", 1, body) == "v1," + base64.b64encode(mac).decode()


def test_a_secret_has_256_bits_and_is_shown_with_its_prefix():
    secret = new_secret()
    assert len(secret) == 32
    assert base64.b64decode(shown_secret(secret).removeprefix("whsec_")) == secret


class TestSealing:
    def test_it_opens_as_what_was_sealed_and_for_its_webhook_alone(self):
        sealer, secret = WebhookSealer(bytes(32)), new_secret()
        sealed = sealer.seal(GOOD, secret, webhook_key=5)
        assert sealer.open(sealed, webhook_key=5) == (GOOD, secret)
        assert GOOD.encode() not in sealed
        for other, key in ((sealer, 6), (WebhookSealer(b"\1" * 32), 5)):
            with pytest.raises(UnsealError):
                other.open(sealed, webhook_key=key)
        for at in range(0, len(sealed), 7):
            changed = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
            with pytest.raises(UnsealError):
                sealer.open(changed, webhook_key=5)

    def test_its_length_tells_little(self):
        sealer = WebhookSealer(bytes(32))
        assert len({len(sealer.seal("x" * n, bytes(32), webhook_key=1)) for n in range(1, 65)}) == 1

    def test_a_key_of_another_length_is_refused(self):
        with pytest.raises(KeystoreError):
            WebhookSealer(bytes(16))
