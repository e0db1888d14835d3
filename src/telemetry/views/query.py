"""What is asked of a view. What is granted decides what is answered."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

from telemetry.errors import InputError
from telemetry.model.fields import FIELD_BY_NAME
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.privacy.combine import instant_us


class DayGrid(StrEnum):
    """On which days P1D and P1M lie (rule 10)."""

    UTC = "utc"
    SITE = "site"


class Way(StrEnum):
    """How somebody looked, as the owner sees it recorded."""

    VIEW = "view"
    STREAM = "stream"
    EXPORT = "export"
    PREVIEW = "preview"


@dataclass(frozen=True, slots=True)
class Query:
    """One request, for one purpose (rule 18).

    ``since`` and ``until``: windows that lie whole between both are shown, so no offset asked for shifts a window
    (rule 20). ``fields``: None for all. ``sites`` and ``devices``: names as a view gave them, None for all.
    ``grid``: None for the site's own days where they are granted, UTC's elsewhere. ``timezone`` formats times and
    does nothing else.

    Raises:
        InputError: an unknown field or time zone, an empty range, instants without a zone.

    """

    purpose: SharingPurpose
    since: datetime
    until: datetime
    resolution: Resolution = Resolution.PT15M
    fields: frozenset[str] | None = None
    sites: frozenset[str] | None = None
    devices: frozenset[str] | None = None
    grid: DayGrid | None = None
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        unknown = sorted((self.fields or frozenset()) - set(FIELD_BY_NAME))
        if unknown:
            raise InputError(f"the catalogue has no field {', '.join(unknown)}")
        if self.since.tzinfo is None or self.until.tzinfo is None:
            raise InputError("instants need a zone", remedy="write them as 2026-11-25T12:00:00Z")
        if not self.since < self.until:
            raise InputError("the range is empty", remedy="`since` lies before `until`")
        if not _ranges(self.since, self.until):
            raise InputError("the range is longer than 11 years, or far from now")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise InputError("this is no IANA time zone", remedy="such as Europe/Berlin") from None

    @property
    def range_us(self) -> tuple[int, int]:
        """Both ends, in µs."""
        return instant_us(self.since), instant_us(self.until)


_LONGEST_DAYS: Final = 11 * 366


def _ranges(since: datetime, until: datetime) -> bool:
    return (until - since).days <= _LONGEST_DAYS and since.year >= 1971 and until.year <= 2200


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer: of devices in the order of (site, device) those after one and up to another, at most so
    many, of at most so many sites; of windows those that start in a span of time.
    """

    after: tuple[str, str] | None = None
    through: tuple[str, str] | None = None
    at_most: int | None = None
    slice_us: tuple[int, int] | None = None
    at_most_sites: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is about all devices."""
        return (self.after, self.through, self.at_most, self.at_most_sites) == (None, None, None, None)


WHOLE: Final = Part()
