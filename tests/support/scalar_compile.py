"""Rules 5, 7 and 8 as plain loops over one device and one field: the reference that compiling must equal.

Written to be checked by eye against SEMANTICS.md and docs/decisions/0035; shares no code with src/telemetry/privacy.
"""

from collections.abc import Iterable
from datetime import datetime

from telemetry.model.fields import CATALOGUE, DeviceKind
from telemetry.model.sharing import Grant, Keeping

RANKS = {"raw": 0, "PT1M": 1, "PT15M": 2, "PT30M": 3, "PT1H": 4, "P1D": 5, "P1M": 6}


def scalar_kept(
    *,
    keeping: Keeping,
    grants: Iterable[Grant],
    policies: dict[str, datetime | None],
    closed: set[int],
    objections: set[tuple[str, int | None]],
    erased: bool,
    site: int,
    kind: DeviceKind,
    now: datetime,
) -> dict[str, int]:
    """Field → rank of the resolution it is kept at; fields that are not kept are absent. Site 0 is one to come."""
    kept: dict[str, int] = {}
    for field in CATALOGUE:
        wanted: list[int] = []

        # Rule 7: the owner's keeping settings.
        if keeping.classes is None or field.data_class in keeping.classes or field.name in keeping.fields:
            wanted.append(RANKS[keeping.wished.value])

        # Rule 7: some active grant.
        for grant in grants:
            terms = grant.terms
            if grant.state.value == "withdrawn":
                continue
            if terms.start is not None and terms.start > now:
                continue
            if terms.until is not None and terms.until <= now:
                continue
            if grant.policy not in policies:
                continue
            ends = policies[grant.policy]
            if ends is not None and ends <= now:
                continue
            if grant.recipient_key in closed:
                continue
            if (terms.purpose.value, None) in objections:
                continue
            if (terms.purpose.value, grant.recipient_key) in objections:
                continue
            if terms.sites is not None and site not in terms.sites:
                continue
            if terms.kinds is not None and kind not in terms.kinds:
                continue
            if field.name not in terms.fields and field.data_class not in terms.classes:
                continue
            wanted.append(RANKS[terms.resolution.value])

        # What the owner never wants kept, and rule 5: of an erased owner nothing is.
        if field.name in keeping.never or erased:
            continue

        # Rule 8: the finest, but never finer than keep.finest.
        if wanted:
            kept[field.name] = max(min(wanted), RANKS[keeping.finest.value])
    return kept
