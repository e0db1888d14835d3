"""Receipts: the fields of ISO/IEC TS 27560, signed; whatever was changed is refused."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from joserfc import jws
from joserfc.jwk import OKPKey

from telemetry.errors import KeystoreError, ReceiptInvalid
from telemetry.model.sharing import Grant, GrantState, GrantTerms, RecipientKind
from telemetry.privacy.receipts import ReceiptSigner, receipt_of, verify_receipt

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
TERMS = GrantTerms(
    purpose="maintenance",
    classes=["production", "alert"],
    fields=["temperature_c"],
    sites=[7, -2],
    kinds=[1],
    resolution="PT15M",
    serial="pseudonym",
    place="cell5",
    history=timedelta(days=30),
    data_from=NOON - timedelta(days=9),
    start=NOON,
    until=NOON + timedelta(days=365),
)
FIRST = Grant(
    grant_key=1,
    version=1,
    owner_key=2,
    recipient_key=3,
    state=GrantState.ACTIVE,
    terms=TERMS,
    epoch=1,
    policy="2026-11",
    recorded_at=NOON,
)
ENDED = FIRST.model_copy(
    update={"version": 2, "state": GrantState.WITHDRAWN, "recorded_at": NOON + timedelta(days=1), "policy": "2026-12"}
)


@pytest.fixture(scope="module")
def signer() -> ReceiptSigner:
    return ReceiptSigner(bytes(range(32)))


def record(grant=FIRST, history=()):
    return receipt_of(
        grant,
        region="eu-1",
        kind=RecipientKind.INSTALLER,
        retention_days={"production": 1098, "alert": 30},
        history=history,
    )


def test_the_whole_record():
    assert record(ENDED, [FIRST]) == {
        "record_id": "c_0000000000000001/2",
        "schema_version": "ISO/IEC TS 27560:2023",
        "pii_principal_id": "o_0000000000000002",
        "privacy_notice": "2026-12",
        "jurisdiction": "eu-1",
        "pii_controllers": ["urn:telemetry:operator"],
        "purposes": [{"purpose": "maintenance", "lawful_basis": "consent"}],
        "pii_information": {
            "classes": ["alert", "production"],
            "fields": ["temperature_c"],
            "sites": ["s_0000000000000007", "s_fffffffffffffffe"],
            "device_kinds": ["inverter"],
        },
        "recipient_third_parties": [{"party_id": "r_0000000000000003", "party_type": "installer"}],
        "processing": {
            "resolution": "PT15M",
            "extremes": False,
            "place": "cell5",
            "serials": "pseudonym",
            "storage_location": "eu-1",
            "retention_days": {"alert": 30, "production": 1098},
            "history_s": 2592000.0,
            "data_from": "2026-10-24T12:00:00+00:00",
            "valid_from": "2026-11-02T12:00:00+00:00",
            "valid_until": "2027-11-02T12:00:00+00:00",
        },
        "withdrawal_method": "telemetry grant withdraw",
        "events": [
            {
                "event_time": "2026-11-02T12:00:00+00:00",
                "event_state": "given",
                "version": 1,
                "policy": "2026-11",
            },
            {
                "event_time": "2026-11-03T12:00:00+00:00",
                "event_state": "withdrawn",
                "version": 2,
                "policy": "2026-12",
            },
        ],
    }


def test_a_receipt_verifies_with_the_public_key_alone(signer):
    receipt = signer.sign(record())
    assert receipt.count(".") == 2
    assert set(signer.public_key) == {"kty", "crv", "x", "kid", "alg", "use"}  # and not the private d
    assert verify_receipt(receipt, signer.public_key) == record()
    assert verify_receipt(receipt + "\n", signer.public_key) == record()


def test_the_same_record_gives_the_same_receipt(signer):
    assert signer.sign(record()) == signer.sign(dict(reversed(record().items())))


def test_every_changed_character_is_noticed(signer):
    receipt = signer.sign(record())
    for position in range(0, len(receipt), 7):
        other = "A" if receipt[position] != "A" else "B"
        changed = receipt[:position] + other + receipt[position + 1 :]
        with pytest.raises(ReceiptInvalid):
            verify_receipt(changed, signer.public_key)


def test_a_changed_field_is_noticed(signer):
    header, payload, signature = signer.sign(record()).split(".")
    opened = json.loads(base64.urlsafe_b64decode(payload + "=="))
    opened["processing"]["resolution"] = "P1D"
    forged = base64.urlsafe_b64encode(json.dumps(opened).encode()).rstrip(b"=").decode()
    with pytest.raises(ReceiptInvalid):
        verify_receipt(f"{header}.{forged}.{signature}", signer.public_key)


def test_another_installations_key_and_other_ways_to_sign_are_refused(signer):
    receipt = signer.sign(record())
    with pytest.raises(ReceiptInvalid):
        verify_receipt(receipt, ReceiptSigner(bytes(32)).public_key)
    payload = json.dumps(record()).encode()
    key = OKPKey.generate_key("Ed25519")
    untyped = jws.serialize_compact({"alg": "Ed25519"}, payload, key, algorithms=["Ed25519"])
    with pytest.raises(ReceiptInvalid, match="no receipt"):
        verify_receipt(untyped, key.as_dict(private=False))
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode() + "." + receipt.split(".")[1] + "."
    for text in (unsigned, "", "a.b.c", "canary", "é"):
        with pytest.raises(ReceiptInvalid) as refusal:
            verify_receipt(text, signer.public_key)
        assert "canary" not in str(refusal.value)
    with pytest.raises(ReceiptInvalid):
        verify_receipt(receipt, {"kty": "OKP"})


def test_a_signer_shows_no_key_and_takes_no_other_length(signer):
    assert repr(signer) == "<ReceiptSigner>"
    with pytest.raises(KeystoreError):
        ReceiptSigner(b"short")
