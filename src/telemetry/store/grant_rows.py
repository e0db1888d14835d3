"""Grants as rows of consent.grant_version and back."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from telemetry.model.fields import DeviceKind
from telemetry.model.sharing import RESOLUTIONS, Grant, GrantState, GrantTerms

_COLUMNS: Final = (
    "purpose",
    "classes",
    "fields",
    "sites",
    "kinds",
    "resolution",
    "serial",
    "place",
    "extremes",
    "history",
    "data_from",
    "start",
    "until",
    "grant_key",
    "version",
    "owner_key",
    "recipient_key",
    "state",
    "epoch",
    "policy",
    "recorded_at",
)


def grant_of(row: Mapping[str, Any]) -> Grant:
    """A row of ``consent.grant_version`` or ``consent.active_grant``. Equal rows give one object."""
    return _grant(tuple(tuple(v) if isinstance(v, list) else v for v in map(row.__getitem__, _COLUMNS)))


@lru_cache(maxsize=16_384)
def _grant(values: tuple[Any, ...]) -> Grant:
    row = dict(zip(_COLUMNS, values, strict=True))
    terms = GrantTerms(
        purpose=row["purpose"],
        classes=frozenset(row["classes"]),
        fields=frozenset(row["fields"]),
        sites=None if row["sites"] is None else frozenset(row["sites"]),
        kinds=None if row["kinds"] is None else frozenset(DeviceKind(kind) for kind in row["kinds"]),
        resolution=RESOLUTIONS[row["resolution"]],
        serial=row["serial"],
        place=row["place"],
        extremes=row["extremes"],
        history=row["history"],
        data_from=row["data_from"],
        start=row["start"],
        until=row["until"],
    )
    return Grant(
        grant_key=row["grant_key"],
        version=row["version"],
        owner_key=row["owner_key"],
        recipient_key=row["recipient_key"],
        state=GrantState(row["state"]),
        terms=terms,
        epoch=row["epoch"],
        policy=row["policy"],
        recorded_at=row["recorded_at"],
    )


def row_of(grant: Grant, confirmed_km: float | None) -> tuple[Any, ...]:
    """The arguments of the statement ``add_version``."""
    terms = grant.terms
    return (
        grant.grant_key,
        grant.version,
        grant.owner_key,
        grant.recipient_key,
        grant.state.value,
        terms.purpose.value,
        None if terms.sites is None else sorted(terms.sites),
        None if terms.kinds is None else sorted(int(kind) for kind in terms.kinds),
        sorted(one.value for one in terms.classes),
        sorted(terms.fields),
        terms.resolution.rank,
        terms.serial.value,
        terms.place.value,
        terms.extremes,
        terms.history,
        terms.data_from,
        terms.start,
        terms.until,
        grant.epoch,
        grant.policy,
        confirmed_km,
        grant.recorded_at,
    )
