"""What owners do, each call as a plan (``wire``)."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Unpack
from urllib.parse import quote

import polars as pl

from telemetry.client.reading import ExportForm, What, export_of, pages
from telemetry.client.results import Device, rows_of_arrow, rows_of_series
from telemetry.client.settled import (
    ConnectionCode,
    Me,
    OwnDevice,
    OwnGrant,
    OwnGrants,
    OwnSite,
    Proposed,
    Read,
    Received,
    Recipient,
    Settled,
    Terms,
)
from telemetry.client.wire import ARROW, Plan, Request, get, instant


@dataclass(frozen=True, slots=True)
class Preview:
    """What a recipient sees, or would see: ``rows`` as its own ``series`` has them, and the same in sentences.

    ``error_km``: how precisely the series would tell the place, to be confirmed before it can be granted.
    """

    rows: pl.DataFrame
    devices: tuple[Device, ...]
    sees: tuple[str, ...]
    error_km: float | None


@dataclass(frozen=True, slots=True)
class _Preview:
    series: list[dict[str, Any]]
    devices: tuple[Device, ...]
    sees: tuple[str, ...]
    error_km: float | None = None


@dataclass(frozen=True, slots=True)
class _Sites:
    sites: tuple[OwnSite, ...]


@dataclass(frozen=True, slots=True)
class _Devices:
    devices: tuple[OwnDevice, ...]


@dataclass(frozen=True, slots=True)
class _Recipients:
    recipients: tuple[Recipient, ...]


@dataclass(frozen=True, slots=True)
class _Versions:
    versions: tuple[OwnGrant, ...]


@dataclass(frozen=True, slots=True)
class _Requests:
    requests: tuple[Received, ...]


@dataclass(frozen=True, slots=True)
class _Reads:
    reads: tuple[Read, ...]


@dataclass(frozen=True, slots=True)
class _Receipt:
    receipt: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Values:
    values: list[dict[str, Any]]


def me() -> Plan[Me]:
    """Whose home, and what may be done for it."""
    return (yield get("/me")).as_(Me)


def sites() -> Plan[tuple[OwnSite, ...]]:
    """The owner's homes."""
    return (yield get("/me/sites")).as_(_Sites).sites


def devices() -> Plan[tuple[OwnDevice, ...]]:
    """All devices, with their real serials."""
    return (yield get("/me/devices")).as_(_Devices).devices


def recipients() -> Plan[tuple[Recipient, ...]]:
    """Who may be granted something."""
    replies = yield from pages(get("/me/recipients", limit=1000))
    return tuple(one for reply in replies for one in reply.as_(_Recipients).recipients)


def grants() -> Plan[OwnGrants]:
    """Grants that are not withdrawn, and in sentences what each recipient sees by them."""
    return (yield get("/me/grants")).as_(OwnGrants)


def grant(
    recipient: str, terms: Terms, *, confirm_solar_km: float | None = None, policy: str | None = None
) -> Plan[Settled]:
    """Grant something. In force when this returns.

    Raises:
        SolarUnconfirmed: the series would tell the place better than is granted; confirm its ``error_km``.
        Conflict: it cannot be granted so.
        NotFound: there is no such recipient.

    """
    body = {"recipient": recipient} | _terms(terms, confirm_solar_km, policy)
    return (yield Request("POST", "/me/grants", body=body)).as_(Settled)


def change(
    grant: OwnGrant, terms: Terms, *, confirm_solar_km: float | None = None, policy: str | None = None
) -> Plan[Settled]:
    """Settle all terms of a grant anew. Raises Changed where somebody did since ``grant`` was read."""
    path, body = f"/me/grants/{quote(grant.grant, safe='')}", _terms(terms, confirm_solar_km, policy)
    headers = {"If-Match": f'"{grant.version}"'}
    return (yield Request("PUT", path, body=body, headers=headers)).as_(Settled)


def withdraw(grant: str) -> Plan[Settled]:
    """Withdraw a grant for good. In force when this returns."""
    return (yield Request("DELETE", f"/me/grants/{quote(grant, safe='')}")).as_(Settled)


def history(grant: str) -> Plan[tuple[OwnGrant, ...]]:
    """Every version of a grant, in the order recorded."""
    return (yield get(f"/me/grants/{quote(grant, safe='')}/history")).as_(_Versions).versions


def receipt(grant: str, version: int | None = None) -> Plan[str]:
    """The signed receipt of a version, the newest without: a compact JWS."""
    return (yield get(f"/me/grants/{quote(grant, safe='')}/receipt", version=version)).as_(_Receipt).receipt


def preview(
    recipient: str,
    purpose: str,
    since: datetime,
    until: datetime,
    *,
    resolution: str = "PT15M",
    terms: Terms | None = None,
    grant: str | None = None,
) -> Plan[Preview]:
    """What a recipient sees now, or would see with ``terms`` (in place of ``grant``, where one is named)."""
    body: dict[str, Any] = {
        "recipient": recipient,
        "purpose": purpose,
        "from": instant(since),
        "to": instant(until),
        "resolution": resolution,
    }
    body |= {} if terms is None else {"terms": terms.sent()}
    body |= {} if grant is None else {"grant": grant}
    told = (yield Request("POST", "/me/preview", body=body)).as_(_Preview)
    return Preview(rows_of_series(told.series), told.devices, told.sees, told.error_km)


def access_requests() -> Plan[tuple[Received, ...]]:
    """Open requests, with what each recipient would see if it were accepted as asked."""
    return (yield get("/me/access-requests")).as_(_Requests).requests


def accept(request: str, terms: Terms | None = None, *, confirm_solar_km: float | None = None) -> Plan[Settled]:
    """Grant what was asked, or with ``terms`` less."""
    path = f"/me/access-requests/{quote(request, safe='')}/accept"
    return (yield Request("POST", path, body=_terms(terms, confirm_solar_km, None))).as_(Settled)


def decline(request: str) -> Plan[None]:
    """Put a request away. Its recipient is not told."""
    yield Request("POST", f"/me/access-requests/{quote(request, safe='')}/decline")


def look_at_invitation(code: str) -> Plan[Proposed]:
    """What an invitation proposes, in sentences. Nothing is agreed to. Raises NotFound for one that does not count."""
    return (yield Request("POST", "/me/invitations/look", body={"code": code})).as_(Proposed)


def accept_invitation(code: str, terms: Terms | None = None, *, confirm_solar_km: float | None = None) -> Plan[Settled]:
    """Grant what an invitation proposes, or with ``terms`` less."""
    body = {"code": code} | _terms(terms, confirm_solar_km, None)
    return (yield Request("POST", "/me/invitations/accept", body=body)).as_(Settled)


def connection_code() -> Plan[ConnectionCode]:
    """A code to be told to one recipient, by which it asks. It works once, for an hour."""
    return (yield Request("POST", "/me/connection-codes")).as_(ConnectionCode)


def reads(*, recipient: str | None = None) -> Plan[tuple[Read, ...]]:
    """Who looked, newest first."""
    replies = yield from pages(get("/me/reads", recipient=recipient, limit=1000))
    return tuple(one for reply in replies for one in reply.as_(_Reads).reads)


def series(since: datetime, until: datetime, **what: Unpack[What]) -> Plan[pl.DataFrame]:
    """The home's own windows, as fine as they are kept; columns as a recipient's ``series`` has them."""
    replies = yield from pages(replace(get("/me/series", from_=since, to=until, **what), accept=ARROW))
    return pl.concat([rows_of_arrow(reply.body) for reply in replies])


def latest() -> Plan[pl.DataFrame]:
    """The last window of each field: site, device, field, start, end, value, coverage."""
    told = (yield get("/me/latest")).as_(_Values)
    rows = rows_of_series(told.values)
    return rows.select("site", "device", "field", "start", "end", "value", "coverage")


def export(
    into: str | Path | BinaryIO, since: datetime, until: datetime, form: ExportForm = "parquet", **what: Unpack[What]
) -> Plan[None]:
    """All of the home's own data in [since, until), streamed into a file; see a recipient's ``export``."""
    yield from export_of(into, since, until, form, what, path="/me/export")


def _terms(terms: Terms | None, confirm_solar_km: float | None, policy: str | None) -> dict[str, Any]:
    told = {
        "terms": None if terms is None else terms.sent(),
        "confirm_solar_km": confirm_solar_km,
        "policy": policy,
    }
    return {name: value for name, value in told.items() if value is not None}
