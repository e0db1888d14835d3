"""What a compiled plan promises, derived again from the settings, and told in sentences.

Written field by field, each with the settings and grants that admit it by name, and sharing nothing with
``privacy.compile``: a mistake there is found here before the plan is used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from telemetry.errors import PlanError
from telemetry.model.batch import Withheld
from telemetry.model.fields import CATALOGUE, DeviceKind, Field
from telemetry.model.sharing import DEFAULT_RETENTION_DAYS, RESOLUTIONS, Grant, Resolution
from telemetry.privacy.plan import DATA_CLASSES, NOT_KEPT, PlanClass
from telemetry.privacy.settled import LATER, OwnerPlan, OwnerSettings

Named = Callable[[str, int], str]
"""How a sentence calls a ``site`` or a ``grant`` by its key."""

_WINDOWS: Final[Mapping[Resolution, str]] = {
    Resolution.PT1M: "one minute",
    Resolution.PT15M: "15 minutes",
    Resolution.PT30M: "30 minutes",
    Resolution.PT1H: "one hour",
    Resolution.P1D: "one day",
    Resolution.P1M: "one month",
}


@dataclass(frozen=True, slots=True)
class Admission:
    """One reason why a field is kept: the owner's own use (``grant`` is None) or a grant, and how fine it asks."""

    grant: Grant | None
    resolution: Resolution


def admissions(settings: OwnerSettings, here: Sequence[Grant], field: Field) -> Iterator[Admission]:
    """Every reason to keep ``field`` where the grants ``here`` are in force."""
    keeping = settings.keeping
    if settings.erased or field.name in keeping.never:
        return
    if keeping.keeps(field.name):
        yield Admission(None, keeping.wished)
    for grant in here:
        if grant.terms.admits(field.name):
            yield Admission(grant, grant.terms.resolution)


def reaching(in_force: Sequence[Grant], site: int, kind: DeviceKind) -> list[Grant]:
    """Those of the grants that cover the site and the kind of device."""
    return [
        grant
        for grant in in_force
        if (grant.terms.sites is None or grant.terms.sites >= {site})
        and (grant.terms.kinds is None or grant.terms.kinds >= {kind})
    ]


def standing(settings: OwnerSettings, now: datetime) -> list[Grant]:
    """The grants that are in force at ``now``."""
    return [grant for grant in settings.grants if not obstacles(settings, grant, now)]


def obstacles(settings: OwnerSettings, grant: Grant, now: datetime) -> list[str]:
    """Why a grant admits nothing now; empty while it is in force."""
    terms = grant.terms
    expiry = settings.policies.get(grant.policy)
    against = {
        "it was withdrawn": grant.state.value != "active",
        "it has not begun": terms.start is not None and now < terms.start,
        "it has ended": terms.until is not None and now >= terms.until,
        "its policy has expired": grant.policy not in settings.policies or (expiry is not None and now >= expiry),
        "its recipient was closed": grant.recipient_key in settings.closed,
        "its purpose was objected to": any(
            purpose is terms.purpose and recipient in {None, grant.recipient_key}
            for purpose, recipient in settings.objections
        ),
    }
    return [reason for reason, stands in against.items() if stands]


def check_plan(settings: OwnerSettings, plan: OwnerPlan, now: datetime) -> None:
    """Hold a compiled plan to its promise, field by field.

    Raises:
        PlanError: naming the kind of device, the field and what is wrong with it.

    """
    expected = {(site, kind) for site in (*settings.sites, LATER) for kind in DeviceKind}
    if set(plan.classes) != expected:
        raise _broken("it does not have one class for each site and kind")
    in_force = standing(settings, now)
    held: set[tuple[tuple[int, ...], PlanClass]] = set()  # the same grants and the same class: looked at once
    for (site, kind), compiled in plan.classes.items():
        here = reaching(in_force, site, kind)
        case = (tuple(grant.grant_key for grant in here), compiled)
        if case in held:
            continue
        held.add(case)
        _check_class(settings, compiled, kind)
        for index, field in enumerate(CATALOGUE):
            if problem := _problem(settings, compiled, index, list(admissions(settings, here, field))):
                raise _broken(f"{kind.label} {field.name}: {problem}")


def _check_class(settings: OwnerSettings, compiled: PlanClass, kind: DeviceKind) -> None:
    if compiled.withhold is not (Withheld.ERASED if settings.erased else None):
        raise _broken(f"{kind.label}: it must withhold the readings of erased owners and of no others")
    if len(compiled.keep) != len(CATALOGUE) or len(compiled.kept_resolution) != len(CATALOGUE):
        raise _broken(f"{kind.label}: it was made for another catalogue")
    days = dict(zip(DATA_CLASSES, compiled.retention_days, strict=True))
    for data_class, kept_days in days.items():
        if kept_days != settings.keeping.retention_days.get(data_class, DEFAULT_RETENTION_DAYS):
            raise _broken(f"{kind.label}: {data_class} would be kept for {kept_days} days")


def _problem(settings: OwnerSettings, compiled: PlanClass, index: int, reasons: Sequence[Admission]) -> str:
    """What is wrong with one field of one class; empty if nothing is."""
    kept, rank = compiled.keep[index], compiled.kept_resolution[index]
    if not reasons:
        return "kept, though no setting and no grant admits it" if kept or rank != NOT_KEPT else ""
    if kept != 1 or rank == NOT_KEPT:
        return "not kept, though a setting or a grant admits it"
    asked, allowed = min(each.resolution.rank for each in reasons), settings.keeping.finest.rank
    if rank < allowed:
        return "kept finer than the owner allows at all"
    if rank < asked:
        return "kept finer than anybody asked for"
    return "kept coarser than somebody was granted" if rank > max(asked, allowed) else ""


def _broken(what: str) -> PlanError:
    return PlanError(f"a compiled plan breaks its promise: {what}", remedy="report it; the plan before stays in force")


def explain_plan(settings: OwnerSettings, plan: OwnerPlan, now: datetime, *, named: Named | None = None) -> list[str]:
    """Why each field is kept, at what resolution and until when, in sentences; without any name of the owner's."""
    call = named or (lambda what, key: f"{what} {key}")
    if settings.erased:
        return ["The owner was erased: every reading is withheld."]
    in_force = standing(settings, now)
    sentences = []
    for site in settings.sites:
        cases: dict[tuple[PlanClass, tuple[Grant, ...]], list[DeviceKind]] = {}
        for kind in DeviceKind:
            case = (plan.classes[site, kind], tuple(reaching(in_force, site, kind)))
            cases.setdefault(case, []).append(kind)
        for (compiled, here), alike in cases.items():
            whose = "every kind" if len(alike) == len(DeviceKind) else ", ".join(kind.label for kind in alike)
            sentences.append(f"At {call('site', site)}, for devices of {whose}:")
            sentences += _class_sentences(settings, here, compiled, call)
    for grant in settings.grants:
        if reasons := obstacles(settings, grant, now):
            sentences.append(f"{_grant_name(grant, call)} admits nothing: {', '.join(reasons)}.")
    if plan.next_change is not None:
        sentences.append(f"This changes by time at {_instant(plan.next_change)}.")
    sentences.append("Readings as they arrive are kept for the hot retention only; what is not kept is never written.")
    return sentences


def _class_sentences(settings: OwnerSettings, here: Sequence[Grant], compiled: PlanClass, call: Named) -> Iterator[str]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for index, field in enumerate(CATALOGUE):
        if not compiled.keep[index]:
            why = "it must never be kept" if field.name in settings.keeping.never else "no setting and no grant asks"
            groups.setdefault(("is not kept", f"because {why}"), []).append(field.name)
            continue
        window = _WINDOWS[RESOLUTIONS[compiled.kept_resolution[index]]]
        days = compiled.retention_days[DATA_CLASSES.index(field.data_class)]
        reasons = [_reason(each, call) for each in admissions(settings, here, field)]
        key = (f"is kept in windows of {window}, each for {days} days,", *reasons)
        groups.setdefault(key, []).append(field.name)
    for (what, *reasons), fields in groups.items():
        verb = what if len(fields) == 1 else what.replace("is ", "are ", 1)
        yield f"{', '.join(fields)} {verb} {' and '.join(reasons)}."


def _reason(admission: Admission, call: Named) -> str:
    if admission.grant is None:
        return "for the owner's own use"
    until = admission.grant.terms.until
    end = "until it is withdrawn" if until is None else f"until {_instant(until)}"
    return f"for {_grant_name(admission.grant, call)} at {admission.resolution} {end}"


def _grant_name(grant: Grant, call: Named) -> str:
    return f"{call('grant', grant.grant_key)} ({grant.terms.purpose})"


def _instant(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
