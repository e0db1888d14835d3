"""Names of countries, regions and time zones, checked against the lists that the time-zone database carries."""

import re
from functools import cache
from importlib.resources import files
from typing import Final
from zoneinfo import available_timezones

from telemetry.errors import InputError

DEFAULT_TIMEZONE: Final = "UTC"
_REGION: Final = re.compile(r"([A-Z]{2})-[A-Z0-9]{1,3}")


@cache
def countries() -> frozenset[str]:
    """The codes of ISO 3166-1, two letters each (iso3166.tab of the IANA time-zone database)."""
    lines = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8").splitlines()
    return frozenset(line.partition("\t")[0] for line in lines if line and not line.startswith("#"))


def checked_place(country: str, region: str, timezone: str) -> tuple[str | None, str | None, str]:
    """Country (from the region where it is left out), region and time zone, each None or the default where "".

    Raises:
        InputError: a code that does not exist, or a region of another country. The values are not repeated.

    """
    if region and not (match := _REGION.fullmatch(region)):
        raise InputError("a region is an ISO 3166-2 code", remedy="write it like DE-BY or US-CA")
    of_region = match[1] if region and match else ""
    if country and of_region and country != of_region:
        raise InputError("the region is in another country", remedy="a region begins with its country's code")
    country = country or of_region
    if country and country not in countries():
        raise InputError("there is no such country code in ISO 3166-1", remedy="two capital letters, like DE or US")
    if timezone and timezone not in available_timezones():
        raise InputError("there is no such time zone", remedy="an IANA name like Europe/Berlin")
    return country or None, region or None, timezone or DEFAULT_TIMEZONE
