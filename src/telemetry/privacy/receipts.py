"""Signed receipts of what an owner settled: the fields of ISO/IEC TS 27560:2023 as JSON in a compact JWS.

A receipt names nobody: owner, recipient, grant and sites stand in it by surrogate key. It is signed with Ed25519
(RFC 8037, named as in RFC 9864), so whoever holds the public key can check it without us. Pure: no clock, no I/O.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from telemetry.errors import KeystoreError, ReceiptInvalid
from telemetry.model.sharing import Grant, GrantState, RecipientKind
from telemetry.model.shown import shown_key
from telemetry.privacy.keys import SIGNING_KEY_BYTES

SCHEMA_VERSION: Final = "ISO/IEC TS 27560:2023"
CONTROLLER: Final = "urn:telemetry:operator"
_ALGORITHM: Final = "Ed25519"
_TYPE: Final = "consent-receipt+jws"
_INVALID: Final = "it was changed, or signed by an installation whose public key is another"


@dataclass(frozen=True, slots=True)
class ReceiptEvent:
    """One entry of a grant's life: when, and what became of it (``given``, ``changed``, ``withdrawn``)."""

    at: datetime
    state: str
    version: int
    policy: str


def receipt_of(
    grant: Grant,
    *,
    region: str,
    kind: RecipientKind,
    retention_days: Mapping[str, int],
    history: Sequence[Grant],
) -> dict[str, Any]:
    """The record of one version of a grant.

    ``history``: the versions before it, oldest first; ``region`` is where the owner's rows live and whose law
    holds; ``retention_days``: by data class, how long what is kept is stored.
    """
    terms = grant.terms
    owner, recipient = shown_key("owner", grant.owner_key), shown_key("recipient", grant.recipient_key)
    pii = {
        "classes": sorted(terms.classes),
        "fields": sorted(terms.fields),
        "sites": None if terms.sites is None else sorted(shown_key("site", site) for site in terms.sites),
        "device_kinds": None if terms.kinds is None else sorted(one.label for one in terms.kinds),
    }
    return {
        "record_id": f"{shown_key('grant', grant.grant_key)}/{grant.version}",
        "schema_version": SCHEMA_VERSION,
        "pii_principal_id": owner,
        "privacy_notice": grant.policy,
        "jurisdiction": region,
        "pii_controllers": [CONTROLLER],
        "purposes": [{"purpose": terms.purpose.value, "lawful_basis": "consent"}],
        "pii_information": pii,
        "recipient_third_parties": [{"party_id": recipient, "party_type": kind.value}],
        "processing": {
            "resolution": terms.resolution.value,
            "extremes": terms.extremes,
            "place": terms.place.value,
            "serials": terms.serial.value,
            "storage_location": region,
            "retention_days": dict(sorted(retention_days.items())),
            "history_s": None if terms.history is None else terms.history.total_seconds(),
            "data_from": _instant(terms.data_from),
            "valid_from": _instant(terms.start),
            "valid_until": _instant(terms.until),
        },
        "withdrawal_method": "telemetry grant withdraw",
        "events": [
            {"event_time": _instant(one.at), "event_state": one.state, "version": one.version, "policy": one.policy}
            for one in events_of([*history, grant])
        ],
    }


def events_of(versions: Sequence[Grant]) -> list[ReceiptEvent]:
    """What happened to a grant, from its versions, oldest first."""
    states = ["withdrawn" if one.state is GrantState.WITHDRAWN else "changed" for one in versions]
    if versions and versions[0].version == 1:
        states[0] = "given"
    return [
        ReceiptEvent(one.recorded_at, state, one.version, one.policy)
        for one, state in zip(versions, states, strict=True)
    ]


class ReceiptSigner:
    """Signs receipts. Its repr shows no key. Safe from any thread."""

    __slots__ = ("_key", "_kid")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SIGNING_KEY_BYTES:
            raise KeystoreError(f"the receipts' signing key has {SIGNING_KEY_BYTES} bytes, not {len(seed)}")
        self._key = OKPKey.import_key(_private_pem(seed))
        self._kid = self._key.thumbprint()

    def __repr__(self) -> str:
        return "<ReceiptSigner>"

    @property
    def public_key(self) -> dict[str, Any]:
        """The public half as a JWK (RFC 8037), to be handed out."""
        return {**self._key.as_dict(private=False), "kid": self._kid, "alg": _ALGORITHM, "use": "sig"}

    def sign(self, record: Mapping[str, Any]) -> str:
        """The record as a compact JWS; the same record gives the same bytes."""
        payload = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
        header = {"alg": _ALGORITHM, "typ": _TYPE, "kid": self._kid}
        return jws.serialize_compact(header, payload, self._key, algorithms=[_ALGORITHM])


def verify_receipt(receipt: str, public_key: Mapping[str, Any]) -> dict[str, Any]:
    """The record in a receipt that this key signed.

    Raises:
        ReceiptInvalid: changed, cut short, of another kind, or signed by another key.

    """
    try:
        key = OKPKey.import_key({name: str(public_key[name]) for name in ("kty", "crv", "x")})
        opened = jws.deserialize_compact(receipt.strip(), key, algorithms=[_ALGORITHM])
        record = json.loads(opened.payload)
    except (JoseError, ValueError, KeyError, TypeError):
        # Not chained: what came in may be anything.
        raise ReceiptInvalid("the receipt does not verify", remedy=_INVALID) from None
    if opened.headers().get("typ") != _TYPE or not isinstance(record, dict):
        raise ReceiptInvalid("this is signed, but no receipt", remedy=_INVALID)
    return record


def _private_pem(seed: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _instant(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
