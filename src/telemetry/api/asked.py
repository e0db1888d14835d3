"""What query parameters are, and the query of a view that they make."""

import re
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Final
from zoneinfo import available_timezones

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from telemetry.access.principal import Principal
from telemetry.errors import InvalidRequest
from telemetry.model.fields import FIELD_BY_NAME, FIELD_NAMES
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.views.query import DayGrid, Query

_RFC3339: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")
_NAMES: Final = r"^[A-Za-z0-9_/-]{1,100}(,[A-Za-z0-9_/-]{1,100}){0,199}$"


def _rfc3339(value: object) -> object:
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("an instant as RFC 3339 has it, with a zone: 2026-11-25T12:00:00Z (a + is %2B here)")
    return value


Instant = Annotated[AwareDatetime, BeforeValidator(_rfc3339)]
NameList = Annotated[str, StringConstraints(pattern=_NAMES, max_length=4000)]
FieldList = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,64}(,[a-z0-9_]{1,64}){0,199}$", max_length=4000)]
TimeZone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+/-]{1,64}$")]
Cursor = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{40,2000}$")]


class Purposed(BaseModel):
    """For what."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    purpose: SharingPurpose | None = Field(
        None, description="what for; may be left out where the token is bound to one purpose"
    )


class Formatted(Purposed):
    """How times are written."""

    tz: TimeZone = Field("UTC", description="IANA time zone in which times are written; it changes nothing else")


class Narrowed(Formatted):
    """What to look at."""

    resolution: Resolution = Field(Resolution.PT15M, description="as fine as this; what is granted may be coarser")
    fields: FieldList | None = Field(None, description="fields of the catalogue with commas between; all without")
    sites: NameList | None = Field(None, description="only these sites")
    devices: NameList | None = Field(None, description="only these devices")
    grid: DayGrid | None = Field(None, description="days of UTC or of the site; without, the site's own where granted")


class Ranged(Narrowed):
    """What to look at, from when to when."""

    since: Instant = Field(
        alias="from", description="from this instant on (RFC 3339)", examples=["2026-11-24T00:00:00Z"]
    )
    until: Instant = Field(
        alias="to", description="up to this instant, which is not in it", examples=["2026-11-25T00:00:00Z"]
    )


def purpose_of(principal: Principal, asked: SharingPurpose | None) -> SharingPurpose:
    """The one purpose of a request.

    Raises:
        InvalidRequest: none is named and the token is not bound to exactly one, or it is bound to others.

    """
    bound = principal.purposes
    if asked is None:
        if bound is not None and len(bound) == 1:
            return next(iter(bound))
        raise InvalidRequest("a request is for one purpose", where="query.purpose", remedy="name it")
    if bound is not None and asked not in bound:
        raise InvalidRequest("the token is not for this purpose", where="query.purpose", remedy="name one of its own")
    return asked


def zone_of(name: str) -> str:
    """A time zone that is known. Raises InvalidRequest."""
    if name not in _zones():
        raise InvalidRequest("this is no IANA time zone", where="query.tz", remedy="such as Europe/Berlin")
    return name


def query_of(principal: Principal, asked: Ranged) -> Query:
    """What a view is asked. Raises as ``view_query``."""
    return view_query(principal, asked, (asked.since, asked.until))


def view_query(principal: Principal, asked: Narrowed, between: tuple[datetime, datetime]) -> Query:
    """What a view is asked, of a range.

    Raises:
        InvalidRequest: an unknown field or time zone, an empty range, no purpose.
        InputError: a range that is too long.

    """
    fields = names_of(asked.fields)
    if fields is not None and not fields <= set(FIELD_BY_NAME):
        raise InvalidRequest("the catalogue has no such field", where="query.fields")
    if not between[0] < between[1]:
        raise InvalidRequest("the range is empty", where="query.to", remedy="it lies after `from`")
    return Query(
        purpose=purpose_of(principal, asked.purpose),
        since=between[0],
        until=between[1],
        resolution=asked.resolution,
        fields=fields,
        sites=names_of(asked.sites),
        devices=names_of(asked.devices),
        grid=asked.grid,
        timezone=zone_of(asked.tz),
    )


def field_count(query: Query) -> int:
    """How many fields a query asks for."""
    return len(FIELD_NAMES if query.fields is None else query.fields)


def said(query: Query, *, ranged: bool = True) -> dict[str, Any]:
    """A query in one way of writing, for binding a cursor to it. How times are written does not belong to it."""
    return {
        "purpose": query.purpose,
        "range": query.range_us if ranged else None,
        "resolution": query.resolution,
        "fields": _sorted(query.fields),
        "sites": _sorted(query.sites),
        "devices": _sorted(query.devices),
        "grid": query.grid,
    }


def names_of(text: str | None) -> frozenset[str] | None:
    """A list with commas between; None for all."""
    return None if text is None else frozenset(text.split(","))


def _sorted(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


def rfc3339(instant: datetime) -> str:
    """With Z for UTC."""
    return instant.isoformat().replace("+00:00", "Z")
