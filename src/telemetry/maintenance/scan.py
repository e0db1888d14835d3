"""Searches everything this service has written for strings that must not be there.

``scan`` takes places and canaries and reports which canary (by its number, never its text) is where, what was
searched, and what could not be. A scan that cannot see a place says so: nothing is clean that was not read.
"""

import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from telemetry.maintenance.canaries import Form
from telemetry.maintenance.matcher import Hit, Matcher

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Canary ``canary`` (its number, from 1) stands ``count`` times at ``place`` in the form ``form``."""

    place: str
    canary: int
    form: Form
    count: int


@dataclass(frozen=True, slots=True)
class Searched:
    """A place that was read, and how many of its bytes."""

    place: str
    size_bytes: int
    parts: int


@dataclass(frozen=True, slots=True)
class Skipped:
    """What was not read. ``intended``: the caller excluded it; otherwise the scan is incomplete."""

    place: str
    reason: str
    intended: bool


@dataclass(frozen=True, slots=True)
class ScanReport:
    """The outcome. ``control``: was the planted token found in every place? None where none was planted."""

    canaries: int
    patterns: int
    seconds: float
    findings: tuple[Finding, ...]
    searched: tuple[Searched, ...]
    skipped: tuple[Skipped, ...]
    control: bool | None = None

    @property
    def complete(self) -> bool:
        """Was everything read that was not excluded on purpose?"""
        return bool(self.searched) and all(skipped.intended for skipped in self.skipped)

    @property
    def clean(self) -> bool:
        """Nothing found, everything read, and the positive control did not fail."""
        return not self.findings and self.complete and self.control is not False

    @property
    def identifiers_found(self) -> int:
        """How many different canaries were found anywhere."""
        return len({finding.canary for finding in self.findings})

    def to_json(self) -> Mapping[str, Any]:
        """The report as JSON takes it."""
        return asdict(self) | {
            "complete": self.complete,
            "clean": self.clean,
            "identifiers_found": self.identifiers_found,
        }


@dataclass
class Collector:
    """Takes in what places find while they are read. Labels that hold a canary are hidden and reported."""

    matcher: Matcher
    progress: Progress | None = None
    control: int = 0  # the number of the planted token; 0 without
    controlled: set[str] = field(default_factory=set)
    hits: Counter[tuple[str, Hit]] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)

    def label(self, place: str, part: str) -> str:
        """``place: part``, or a finding and a stand-in where the part's own name holds a canary."""
        found = Counter(self.matcher.search(part.encode("utf-8", "surrogateescape")))
        if not found:
            return f"{place}: {part}"
        hidden = f"{place}: (a name that holds a canary)"
        self.add(place, hidden, found, 0)
        return hidden

    def add(self, place: str, label: str, found: Mapping[Hit, int], size_bytes: int) -> None:
        """Account for a part that was read."""
        for hit, count in found.items():
            if hit.canary == self.control:
                self.controlled.add(place)
            else:
                self.hits[label, hit] += count
        self.sizes[place] += size_bytes
        self.parts[place] += 1
        if self.progress is not None:
            self.progress(place, size_bytes)

    def skip(self, label: str, reason: str, *, intended: bool = False) -> None:
        """Account for what was not read."""
        self.skipped.append(Skipped(label, reason, intended))


class Place(Protocol):
    """Something that can be searched, by one task. Raises nothing for what it holds: that is collected."""

    @property
    def label(self) -> str: ...

    async def search(self, collector: Collector, token: str | None) -> None:
        """Read everything into ``collector``; plant ``token`` first, so that it must be found, and remove it."""
        ...


async def scan(
    places: Sequence[Place],
    canaries: Sequence[str],
    *,
    self_test: bool = False,
    digests: bool = True,
    progress: Progress | None = None,
) -> ScanReport:
    """Search ``places`` for every form of ``canaries``; an empty string among them holds its number only.

    ``self_test`` plants a random token in each place, which the scan must find. ``progress`` is called with a
    place and the bytes read since the last call, from any thread.

    Raises:
        InputError: there is no canary, or one too short to mean anything.

    """
    started = time.monotonic()
    token = f"control-{secrets.token_hex(12)}" if self_test else None
    matcher = Matcher([*canaries, token] if token else canaries, digests=digests)
    collector = Collector(matcher, progress, control=len(canaries) + 1 if token else 0)
    for place in places:
        collector.parts[place.label] += 0
        await place.search(collector, token)
    findings = [Finding(label, hit.canary, hit.form, count) for (label, hit), count in collector.hits.items()]
    return ScanReport(
        canaries=sum(map(bool, canaries)),
        patterns=matcher.size,
        seconds=round(time.monotonic() - started, 3),
        findings=tuple(sorted(findings, key=lambda found: (found.place, found.canary, found.form))),
        searched=tuple(
            Searched(label, collector.sizes[label], parts) for label, parts in collector.parts.items() if parts
        ),
        skipped=tuple(collector.skipped),
        control=all(place.label in collector.controlled for place in places) if token else None,
    )
