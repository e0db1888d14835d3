"""Import of owners, sites and gateways from CSV: all of it or nothing.

One row per gateway (or per site, where it has none yet). ``owner`` and ``site`` are labels that hold rows together
within the file and are not stored: rows of one owner label are one owner, rows of one (owner, site) one home.

Errors name lines and columns, never values.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from telemetry.errors import InputError
from telemetry.model.identity import DAY_US, DEFAULT_BACKFILL_US, DEFAULT_DEVICE_LIMIT, Enrolment
from telemetry.store.administration import Administration
from telemetry.store.registration import (
    DEFAULT_REGION,
    IssuedGateway,
    NewGateway,
    NewOwner,
    NewSite,
    OwnerRef,
)

REQUIRED: Final = ("owner", "owner_name", "site", "site_name")
OPTIONAL: Final = (
    *("owner_email", "region", "site_address", "latitude", "longitude"),
    *("site_country", "site_region", "site_timezone"),
    *("gateway", "enrolment", "device_limit", "backfill_days"),
)
NEW_NAME: Final = "new"  # in column `gateway`: a gateway with a random name
_MOST_ERRORS: Final = 20
_WRITE_EVERY: Final = 1_000  # rows: about 10 MB of sealed values in memory

_Number = TypeVar("_Number", int, float)
Progress = Callable[[int], None]
"""Called with how many more rows are done."""


@dataclass(frozen=True, slots=True)
class ImportRow:
    """One line, checked. Labels are (owner,) and (owner, site)."""

    line: int
    owner_label: str = field(repr=False)
    site_label: str = field(repr=False)
    owner: NewOwner
    site: NewSite
    gateway: NewGateway | None


@dataclass(frozen=True, slots=True)
class Imported:
    """What was added. Credentials are given once."""

    owners: int
    sites: int
    gateways: list[IssuedGateway]


def read_import(path: Path) -> list[ImportRow]:
    """Parse and check the whole file.

    Raises:
        InputError: with the first 20 mistakes, each by line and column.

    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restkey="", restval="", strict=True)
            _check_header(reader.fieldnames or ())
            return _check_rows(reader)
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}") from error
    except UnicodeDecodeError:
        raise InputError("the file is not UTF-8", remedy="save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise InputError(f"the file is not CSV: {error}") from None


async def run_import(
    administration: Administration, rows: list[ImportRow], progress: Progress = lambda _more: None
) -> Imported:
    """Write all rows in one transaction.

    Raises:
        InputError: a gateway's name is taken, by line; nothing was written.

    """
    names = {row.gateway.name: row.line for row in rows if row.gateway and row.gateway.name}
    taken = await administration.known_names(list(names))
    _raise_if([f"line {line}: the gateway exists already" for name, line in names.items() if name in taken])
    owners: dict[str, OwnerRef] = {}
    sites: dict[tuple[str, str], int] = {}
    issued: list[IssuedGateway] = []
    async with administration.registering() as registration:
        for number, row in enumerate(rows, start=1):
            owner = owners.get(row.owner_label)
            if owner is None:
                owner = owners[row.owner_label] = registration.owner(row.owner)
            site_label = (row.owner_label, row.site_label)
            if site_label not in sites:
                sites[site_label] = registration.site(owner, row.site)
            if row.gateway:
                issued.append(registration.gateway(owner, sites[site_label], row.gateway))
            if number % _WRITE_EVERY == 0:
                await administration.write(registration)
                progress(_WRITE_EVERY)
    progress(len(rows) % _WRITE_EVERY)
    return Imported(len(owners), len(sites), issued)


def _check_header(names: "tuple[str, ...] | list[str] | object") -> None:
    header = list(names) if isinstance(names, list | tuple) else []
    allowed = f"columns are {', '.join(REQUIRED)} and, where wanted, {', '.join(OPTIONAL)}"
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise InputError(f"line 1: missing {', '.join(missing)}", remedy=allowed)
    for place, name in enumerate(header, start=1):
        if name not in REQUIRED + OPTIONAL:
            raise InputError(f"line 1: column {place} is not known", remedy=allowed)
        if name in header[: place - 1]:
            raise InputError(f"line 1: column {name} occurs twice", remedy=allowed)


def _check_rows(reader: "csv.DictReader[str]") -> list[ImportRow]:
    rows: list[ImportRow] = []
    errors: list[str] = []
    first: dict[tuple[str, ...], ImportRow] = {}
    names: set[str] = set()
    for values in reader:
        if "" in values:
            errors.append(f"line {reader.line_num}: more values than columns")
            continue
        try:
            row = _row(reader.line_num, values)
            _check_against(row, first, names)
        except InputError as error:
            errors.append(f"line {reader.line_num}: {error}")
            if len(errors) >= _MOST_ERRORS:
                break
        else:
            rows.append(row)
    _raise_if(errors)
    if not rows:
        raise InputError("the file has no rows")
    return rows


def _row(line: int, values: Mapping[str, str]) -> ImportRow:
    text = {name: value.strip() for name, value in values.items()}
    for name in ("owner", "site"):
        if not text[name]:
            raise InputError(f"{name} is empty")
    return ImportRow(
        line=line,
        owner_label=text["owner"],
        site_label=text["site"],
        owner=NewOwner(text["owner_name"], text.get("owner_email", ""), text.get("region") or DEFAULT_REGION),
        site=NewSite(
            text["site_name"],
            text.get("site_address", ""),
            _number(text, "latitude", float),
            _number(text, "longitude", float),
            *(text.get(name, "") for name in ("site_country", "site_region", "site_timezone")),
        ),
        gateway=_gateway(text),
    )


def _gateway(text: Mapping[str, str]) -> NewGateway | None:
    name = text.get("gateway", "")
    if not name:
        return None
    days = _number(text, "backfill_days", float)
    limit = _number(text, "device_limit", int)
    try:
        enrolment = Enrolment(text.get("enrolment") or Enrolment.AUTO)
    except ValueError:
        raise InputError("enrolment is neither auto nor known") from None
    if days is not None and not 0 <= days < 2**62 / DAY_US:
        raise InputError("backfill_days is out of range")
    return NewGateway(
        name="" if name == NEW_NAME else name,
        enrolment=enrolment,
        device_limit=DEFAULT_DEVICE_LIMIT if limit is None else limit,
        backfill_us=DEFAULT_BACKFILL_US if days is None else round(days * DAY_US),
    )


def _number(text: Mapping[str, str], name: str, kind: Callable[[str], _Number]) -> _Number | None:
    value = text.get(name, "")
    if not value:
        return None
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{name} is not a number") from None


def _check_against(row: ImportRow, first: dict[tuple[str, ...], ImportRow], names: set[str]) -> None:
    owner = first.setdefault((row.owner_label,), row)
    if owner.owner != row.owner:
        raise InputError(f"says something else about its owner than line {owner.line}")
    site = first.setdefault((row.owner_label, row.site_label), row)
    if site.site != row.site:
        raise InputError(f"says something else about its site than line {site.line}")
    if row.gateway and row.gateway.name:
        if row.gateway.name in names:
            raise InputError("the gateway occurs twice in the file")
        names.add(row.gateway.name)


def _raise_if(errors: list[str]) -> None:
    if errors:
        more = f"; and {len(errors) - _MOST_ERRORS} more" if len(errors) > _MOST_ERRORS else ""
        raise InputError("; ".join(errors[:_MOST_ERRORS]) + more, remedy="nothing was imported")
