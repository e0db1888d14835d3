"""SenML packs resolved into records that stand alone: RFC 8428, sections 4.1 to 4.6."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from telemetry.codecs.json_text import Refused
from telemetry.model.batch import Reason

VERSION: Final = 10
RELATIVE_BELOW_S: Final = 2.0**28  # section 4.5.3: smaller times are relative to now
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-:./_]*")  # section 4.5.1

# CBOR labels (section 6)
LABELS: Final[Mapping[int, str]] = {
    -1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs",
    0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s", 6: "t", 7: "ut", 8: "vd",
}  # fmt: skip
_VALUES: Final = ("v", "vs", "vb", "vd")
_KNOWN: Final = frozenset(LABELS.values())
_TEXTS: Final = ("bn", "bu", "n", "u")
_NUMBERS: Final = ("bt", "bv", "bs", "v", "s", "t")


@dataclass(frozen=True, slots=True)
class Record:
    """One resolved record.

    ``base``: the base name in force, ``own``: the record's own, ``name``: both together; valid by section 4.5.1
    or "". ``time_s``: seconds since 1970, None where neither the record nor its base says one. ``value``: number,
    text, boolean or bytes as text, or None. ``total``: the sum. ``extra``: labels that this version does not know.
    """

    base: str
    own: str
    unit: str
    time_s: float | None
    value: object
    total: float | None
    extra: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The resolved name, or "" where it is not one."""
        name = self.base + self.own
        return name if _NAME.fullmatch(name) else ""


@dataclass(slots=True)
class _Base:
    name: str = ""
    time: float | None = None
    unit: str = ""
    value: float | None = None
    total: float | None = None


def resolve(pack: object, now_s: float, max_records: int) -> list[Record] | Refused:
    """The records of ``pack``; ``now_s``: seconds since 1970 to which relative times refer.

    Refused as a whole: what is no pack, another version than up to 10, an unknown label that must be understood
    (it ends in ``_``), a label of the wrong type, more than one value in a record.
    """
    if not isinstance(pack, list) or not pack or not all(isinstance(item, dict) for item in pack):
        return Refused(Reason.MALFORMED, "not an array of records")
    if len(pack) > max_records:
        return Refused(Reason.TOO_MANY_READINGS, f"more than {max_records} records")
    base = _Base()
    records = []
    for item in pack:
        labelled = {LABELS.get(label, str(label)) if isinstance(label, int) else label: v for label, v in item.items()}
        wrong = _wrong(labelled) if len(labelled) == len(item) else Refused(Reason.DUPLICATE_KEY, "a label twice")
        if wrong is not None:
            return wrong
        records.append(_resolved(labelled, base, now_s))
    return records


def _wrong(item: Mapping[str, object]) -> Refused | None:
    for label in item:
        if label not in _KNOWN and label.endswith("_"):
            return Refused(Reason.MALFORMED, "a field that must be understood is unknown")
    version = item.get("bver", VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= VERSION:
        return Refused(Reason.MALFORMED, f"a version other than 1 to {VERSION}")
    if any(not isinstance(item[label], str) for label in _TEXTS if label in item):
        return Refused(Reason.MALFORMED, "a name or unit that is not text")
    if any(not _is_number(item[label]) for label in _NUMBERS if label in item):
        return Refused(Reason.MALFORMED, "a number that is none")
    if sum(label in item for label in _VALUES) > 1:
        return Refused(Reason.MALFORMED, "a record with two values")
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _resolved(item: Mapping[str, Any], base: _Base, now_s: float) -> Record:
    base.name = item.get("bn", base.name)
    base.unit = item.get("bu", base.unit)
    base.time = item.get("bt", base.time)
    base.value = item.get("bv", base.value)
    base.total = item.get("bs", base.total)
    time_s = None
    if "t" in item or base.time is not None:
        time_s = float(item.get("t", 0)) + float(base.time or 0)
        if time_s < RELATIVE_BELOW_S:
            time_s += now_s
    value = next((item[label] for label in _VALUES if label in item), None)
    total = _sum(item.get("s"), base.total)
    if "v" in item or (value is None and total is None):
        value = _sum(value, base.value)
    return Record(
        base=base.name,
        own=item.get("n", ""),
        unit=item.get("u", base.unit),
        time_s=time_s,
        value=value,
        total=total,
        extra=tuple(label for label in item if label not in _KNOWN),
    )


def _sum(own: float | None, base: float | None) -> float | None:
    """Own and base value together; one that is missing counts as zero, both missing as none (section 4.1)."""
    if own is None or base is None:
        return own if base is None else base
    return own + base
