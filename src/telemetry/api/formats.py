"""Forms of an answer: JSON by column or by row, CSV, Parquet, Arrow. Times are in the zone asked for, RFC 3339."""

import io
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, TypeVar
from zoneinfo import ZoneInfo

import orjson
import polars as pl
from fastapi import Response

from telemetry.api.asked import rfc3339
from telemetry.errors import NotAcceptable
from telemetry.views.fleet import FleetPage
from telemetry.views.view import View
from telemetry.views.visible import Granted


class Form(StrEnum):
    """How rows are written."""

    COLUMNS = "columns"
    ROWS = "rows"
    CSV = "csv"
    PARQUET = "parquet"
    ARROW = "arrow"


JSON: Final = "application/json"
MEDIA_TYPES: Final[Mapping[Form, str]] = {
    Form.COLUMNS: JSON,
    Form.ROWS: JSON,
    Form.CSV: "text/csv",
    Form.PARQUET: "application/vnd.apache.parquet",
    Form.ARROW: "application/vnd.apache.arrow.stream",
}
_SERIES: Final = ("site", "device", "field", "resolution", "grid")
_EXTREMES: Final = ("lowest", "highest")


_Form = TypeVar("_Form", bound=StrEnum)


def negotiated(accept: str | None, form: _Form | None, offered: Mapping[_Form, str]) -> _Form:
    """The form asked for: ``format`` wins over Accept (RFC 9110, 12.5.1).

    Raises:
        NotAcceptable: none that is offered.

    """
    if form is not None:
        if form not in offered:
            raise NotAcceptable("this address has no such form", remedy=f"one of {', '.join(offered)}")
        return form
    best = max(offered, key=lambda each: _weight(accept or "*/*", offered[each]))
    if _weight(accept or "*/*", offered[best]) <= 0:
        raise NotAcceptable("no accepted form can be given", remedy=f"accept one of {', '.join(_once(offered))}")
    return best


def _once(offered: Mapping[Any, str]) -> list[str]:
    return list(dict.fromkeys(offered.values()))


def _weight(accept: str, media_type: str) -> float:
    """The weight that Accept gives a type: that of the most specific range."""
    kind = media_type.partition("/")[0]
    found = (-1, 0.0)
    for each in accept.split(","):
        name, *parameters = (part.strip().lower() for part in each.split(";"))
        rank = {media_type: 2, f"{kind}/*": 1, "*/*": 0}.get(name, -1)
        if rank > found[0]:
            found = rank, _quality(parameters)
    return found[1]


def _quality(parameters: list[str]) -> float:
    for each in parameters:
        if each.startswith("q="):
            try:
                return min(1.0, max(0.0, float(each[2:])))
            except ValueError:
                return 0.0
    return 1.0


def as_json(what: object) -> bytes:
    """JSON. Floats are written as the shortest text that reads as the same number; instants as RFC 3339."""
    return orjson.dumps(what, option=orjson.OPT_UTC_Z)


def json_response(what: object, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON."""
    return Response(as_json(what), media_type=JSON, headers=dict(headers or {}))


def times_as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """Every instant as RFC 3339, with Z for UTC and as many decimals as it needs."""
    made = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.Datetime):
            zone = "Z" if kind.time_zone == "UTC" else "%:z"
            made.append(pl.col(name).dt.strftime(f"%Y-%m-%dT%H:%M:%S%.f{zone}"))
    return frame.with_columns(made)


def _tuples(frame: pl.DataFrame, *names: str) -> Iterator[tuple[Any, ...]]:
    """Rows as tuples, column by column: many times as fast as row by row."""
    return zip(*(frame[name].to_list() for name in names), strict=True)


def devices_of(view: View) -> list[dict[str, Any]]:
    """The devices of a view, each with what is shared of it and what is not."""
    shared: dict[str, list[dict[str, str]]] = {}
    for device, field, resolution in _tuples(view.shared, "device", "field", "resolution"):
        shared.setdefault(device, []).append({"field": field, "resolution": resolution})
    withheld: dict[str, list[str]] = {}
    for device, field in _tuples(view.not_shared, "device", "field"):
        withheld.setdefault(device, []).append(field)
    return [
        row | {"shared": shared.get(row["device"], []), "not_shared": withheld.get(row["device"], [])}
        for row in times_as_text(view.devices).iter_rows(named=True)
    ]


def sites_of(page: FleetPage) -> list[dict[str, Any]]:
    """The sites of a page, each with what is shared of each kind of device there and what is not."""
    shared: dict[tuple[str, str], list[dict[str, str]]] = {}
    for site, kind, field, resolution in _tuples(page.shared, "site", "kind", "field", "resolution"):
        shared.setdefault((site, kind), []).append({"field": field, "resolution": resolution})
    withheld: dict[tuple[str, str], list[str]] = {}
    for site, kind, field in _tuples(page.not_shared, "site", "kind", "field"):
        withheld.setdefault((site, kind), []).append(field)
    made = []
    for row in times_as_text(page.sites).iter_rows(named=True):
        row["kinds"] = [
            {
                "kind": kind,
                "shared": shared.get((row["site"], kind), []),
                "not_shared": withheld.get((row["site"], kind), []),
            }
            for kind in row["kinds"]
        ]
        made.append(row)
    return made


def written(instant: datetime | None, timezone: str) -> str | None:
    """RFC 3339 in this zone."""
    return None if instant is None else rfc3339(instant.astimezone(ZoneInfo(timezone)))


def grant_of(name: str, granted: Granted, timezone: str) -> dict[str, Any]:
    """A grant without keys: its sites are those that are seen under it."""
    terms = granted.grant.terms
    return {
        "grant": name,
        "purpose": terms.purpose,
        "sites": list(granted.sites),
        "all_sites": terms.sites is None,
        "kinds": None if terms.kinds is None else sorted(kind.label for kind in terms.kinds),
        "classes": sorted(terms.classes),
        "fields": sorted(terms.fields),
        "resolution": terms.resolution,
        "serial": terms.serial,
        "place": terms.place,
        "extremes": terms.extremes,
        "history_s": None if terms.history is None else int(terms.history.total_seconds()),
        "data_from": written(terms.data_from, timezone),
        "start": written(terms.start, timezone),
        "until": written(terms.until, timezone),
    }


def series_of(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows by series: one entry a device, field, resolution and grid, with a list for each column."""
    grouped = times_as_text(rows).group_by(_SERIES, maintain_order=True).agg(pl.all())
    made = []
    for row in grouped.iter_rows(named=True):
        for name in _EXTREMES:
            if all(value is None for value in row[name]):
                del row[name]
        made.append(row)
    return made


def rows_of(rows: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows one by one."""
    return times_as_text(rows).rows(named=True)


def as_csv(rows: pl.DataFrame, *, header: bool = True) -> bytes:
    """RFC 4180, with names of columns in the first line; nothing where there is no value."""
    text = times_as_text(rows).write_csv(include_header=header, line_terminator="\r\n")
    return text.encode()


def as_table(rows: pl.DataFrame, form: Form) -> bytes:
    """CSV, Parquet or an Arrow stream."""
    if form is Form.CSV:
        return as_csv(rows)
    into = io.BytesIO()
    if form is Form.PARQUET:
        rows.write_parquet(into)
    else:
        rows.write_ipc_stream(into)
    return into.getvalue()


def tables(offered: Mapping[Form, str]) -> dict[int | str, dict[str, Any]]:
    """For ``responses=`` of a route: what it offers besides JSON."""
    schema = {"schema": {"type": "string", "format": "binary"}}
    return {200: {"content": {kind: schema for kind in offered.values() if kind != JSON}}}
