"""What a recipient may see of an owner, in sentences. Pure; the combined view is the one that views serve (rule 19).

Sentences name nobody: owners, sites and grants appear by key, the recipient by its handle.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from telemetry.model.fields import CATALOGUE, FIELD_BY_NAME, FIELD_NAMES, FIELDS_OF_KIND, DataClass, DeviceKind
from telemetry.model.series import has_extremes
from telemetry.model.sharing import RESOLUTIONS, Grant, Keeping, PlaceSetting, Resolution, SerialSetting
from telemetry.model.shown import shown_key
from telemetry.privacy.combine import KindView, SiteView, Standing, combine, in_force, not_shared
from telemetry.privacy.granting import EVERY_SITE, finest_solar
from telemetry.privacy.location import CELL_RADIUS_KM, solar_warning_km

_MOMENT: Final = timedelta(microseconds=1)
_HOW_FINE: Final[Mapping[Resolution, str]] = {
    Resolution.RAW: "as measured",
    Resolution.PT1M: "by minutes",
    Resolution.PT15M: "by quarter hours",
    Resolution.PT30M: "by half hours",
    Resolution.PT1H: "by hours",
    Resolution.P1D: "by days",
    Resolution.P1M: "by months",
}
_SERIALS: Final[Mapping[SerialSetting, str]] = {
    SerialSetting.WITHHELD: "Devices have no lasting name",
    SerialSetting.PSEUDONYM: "Devices have a pseudonym that only this recipient sees",
    SerialSetting.REAL: "Devices are named by their real serial numbers",
}


@dataclass(frozen=True, slots=True)
class Situation:
    """All that an explanation needs. ``sites``: the owner's now; ``grants``: of this owner to this recipient.

    ``proposed``: they are not made yet.
    """

    owner_key: int
    handle: str
    now: datetime
    grants: Sequence[Grant]
    standing: Standing
    keeping: Keeping
    sites: Sequence[int]
    proposed: bool = False


def explain(situation: Situation) -> list[str]:
    """One sentence or a few on each point, the weightiest first."""
    owner, handle = shown_key("owner", situation.owner_key), situation.handle
    counting = in_force(situation.grants, situation.standing, situation.now)
    told = [f"{handle} and owner {owner}, as of {_at(situation.now)}:", *_denials(situation)]
    if not counting:
        told.append(f"{handle} sees nothing of this owner, not even that there is one.")
    for purpose in sorted({grant.terms.purpose for grant in counting}):
        told += _of_purpose(situation, [grant for grant in counting if grant.terms.purpose is purpose])
    if len({grant.terms.purpose for grant in counting}) > 1:
        told.append("Each request is for one purpose: what is granted for different purposes never adds up.")
    return told + _waiting(situation, counting)


def describe(grant: Grant) -> str:
    """One grant's own terms in a sentence."""
    terms = grant.terms
    what = ", ".join([*sorted(terms.classes), *sorted(terms.fields)])
    where = "all sites" if terms.sites is None else ", ".join(shown_key("site", site) for site in sorted(terms.sites))
    kinds = "" if terms.kinds is None else f", {_several(_kind(kind) for kind in sorted(terms.kinds))} only"
    extremes = ", with minimum and maximum" if terms.extremes else ""
    name = f"Grant {shown_key('grant', grant.grant_key)} (version {grant.version})" if grant.grant_key else "Proposed"
    return (
        f"{name} for {_words(terms.purpose)}: {what}"
        f" of {where}{kinds}, {_HOW_FINE[terms.resolution]}{extremes}; {_place(terms.place)},"
        f" serials {terms.serial}; {_reach(grant)}."
    )


def _denials(situation: Situation) -> list[str]:
    standing, told = situation.standing, []
    if standing.owner_erased:
        told.append("The owner is erased: nothing of the owner exists for anybody.")
    if standing.recipient_closed:
        told.append("The recipient is closed: no grant to it counts.")
    if any(one.lifted_us is None for one in standing.restrictions):
        told.append("Processing is restricted: nothing is shown to anybody but the owner.")
    elif standing.restrictions:
        told.append("What was measured during an earlier restriction stays unseen.")
    recipients = {None, *(grant.recipient_key for grant in situation.grants)}
    objected = sorted({one.purpose for one in standing.objections if one.recipient_key in recipients})
    return told + [f"The owner objected to {_words(purpose)}: no grant for it counts." for purpose in objected]


def _of_purpose(situation: Situation, grants: Sequence[Grant]) -> list[str]:
    by_text: dict[tuple[str, ...], list[int]] = {}
    for site in situation.sites or (EVERY_SITE,):
        view = combine(grants, site, situation.standing, situation.now + _MOMENT)
        by_text.setdefault(tuple(_site_view(view, situation)), []).append(site)
    told = []
    for text, sites in by_text.items():
        named = "all sites" if len(by_text) == 1 else _several(shown_key("site", site) for site in sites)
        opening = f"For {_words(grants[0].terms.purpose)}, of {named}:"
        told += [opening, *text] if text else [f"{opening[:-1]}: nothing, not even that there is one."]
    return [*told, *map(describe, grants)]


def _site_view(view: SiteView, situation: Situation) -> list[str]:
    if not view.kinds:
        return []
    told, by_text = [], dict[tuple[str, ...], list[DeviceKind]]()
    for kind, one in view.kinds.items():
        by_text.setdefault(tuple(_kind_view(kind, one, situation.keeping)), []).append(kind)
    for text, kinds in by_text.items():
        told += [f"{_upper(_several(_kind(kind) for kind in kinds))}: {text[0]}", *text[1:]]
    serials = {one.serial for one in view.kinds.values()}
    told += [
        f"{_SERIALS[serial]}{_of_kinds(view, serial, serials)}." for serial in sorted(serials, key=lambda s: s.rank)
    ]
    told.append(f"{_upper(_place(view.place))}.")
    error = solar_warning_km(finest_solar(view.kinds), view.place)
    if error is not None:
        known = "whoever agrees confirms that" if situation.proposed else "the owner confirmed that"
        told.append(f"The solar curve itself tells where the site is within about {error:g} km; {known}.")
    return told


def _of_kinds(view: SiteView, serial: SerialSetting, serials: set[SerialSetting]) -> str:
    if len(serials) == 1:
        return ""
    return f" ({_several(_kind(kind) for kind, one in view.kinds.items() if one.serial is serial)})"


def _kind_view(kind: DeviceKind, view: KindView, keeping: Keeping) -> list[str]:
    own = FIELDS_OF_KIND[kind]
    by_rank: dict[int, set[str]] = {}
    for name in own & view.fields.keys() - keeping.never:
        finest = view.finest(name)
        if finest is not None:
            by_rank.setdefault(finest.rank, set()).add(name)
    parts = [part for rank, names in sorted(by_rank.items()) for part in _at_rank(rank, names, view, own, keeping)]
    told = [f"{'; '.join(parts) or 'that they exist, and no value'}."]
    if view.real_time_alerts:
        told.append("Alerts come in real time, with their instant.")
    if never := keeping.never & own & view.fields.keys():
        told.append(f"Granted but never kept, so not shown: {_fields(never, own)}.")
    told.append(_missing({field.name for field in not_shared(kind, view)}, own))
    return told


def _at_rank(rank: int, names: set[str], view: KindView, own: frozenset[str], keeping: Keeping) -> list[str]:
    how = _HOW_FINE[RESOLUTIONS[rank]]
    if rank < keeping.finest.rank:
        how += f" while it is new (what is kept is {keeping.finest} or coarser)"
    wide = {name for name in names if any(span.extremes for span in view.fields[name])}
    plain = names - wide
    if wide and not any(has_extremes(FIELD_BY_NAME[name]) for name in plain):
        return [f"{_fields(names, own)} {how}, power with minimum and maximum"]
    parts = [f"{_fields(plain, own)} {how}"] if plain else []
    return [*parts, f"{_fields(wide, own)} {how}, with minimum and maximum"] if wide else parts


def _missing(names: set[str], own: frozenset[str]) -> str:
    if not names:
        return "Nothing of them is withheld."
    whole: list[str] = []
    part: list[str] = []
    for data_class in DataClass:
        of_class = {field.name for field in CATALOGUE if field.data_class is data_class} & own
        if of_class and of_class & names:
            (whole if of_class <= names else part).append(data_class.value)
    rest = [f"the rest of {_several(part)}"] if part else []
    return f"Not shared: {', '.join([*whole, *rest])}."


def _waiting(situation: Situation, counting: Sequence[Grant]) -> list[str]:
    told = []
    for grant in situation.grants:
        if grant in counting:
            continue
        name, terms = shown_key("grant", grant.grant_key), grant.terms
        if terms.until is not None and terms.until <= situation.now:
            told.append(f"Grant {name} ended at {_at(terms.until)}.")
        elif grant.policy in situation.standing.expired_policies:
            told.append(f"Grant {name} was given under notice {grant.policy}, which has expired: it needs new consent.")
        elif terms.start is not None and terms.start > situation.now:
            told.append(f"Not yet in force: {describe(grant)}")
        else:
            told.append(f"Stands, but is denied: {describe(grant)}")
    return told


def _fields(names: Iterable[str], of: frozenset[str]) -> str:
    """Classes by name where all that such a device can report of them is meant, single fields otherwise."""
    names, told = set(names), []
    for data_class in DataClass:
        whole = {field.name for field in CATALOGUE if field.data_class is data_class} & of
        if whole and whole <= names:
            told.append(data_class.value)
            names -= whole
    return ", ".join([*told, *(name for name in FIELD_NAMES if name in names)])


def _place(place: PlaceSetting) -> str:
    if place.cell is not None:
        return (
            f"place as a cell of about {CELL_RADIUS_KM[place.cell]:.2g} km radius, or coarser where too few sites are"
        )
    return f"place {place}" if place in {PlaceSetting.WITHHELD, PlaceSetting.EXACT} else f"place as {place}"


def _reach(grant: Grant) -> str:
    terms = grant.terms
    back = f"data from {_at(terms.data_from)} on" if terms.data_from else "data from its start on"
    if terms.history is not None:
        back += f", at most {_span(terms.history)} back"
    until = f"until {_at(terms.until)}" if terms.until else "until withdrawn"
    start = f"in force from {_at(terms.start)} " if terms.start else "in force "
    return f"{back}; {start}{until}" + (f", under notice {grant.policy}" if grant.policy else "")


def _span(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours / 24:g} days" if hours >= 48 else f"{hours:g} hours"


def _at(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _kind(kind: DeviceKind) -> str:
    words = {
        DeviceKind.BATTERY: "batteries",
        DeviceKind.JUNCTION_BOX: "junction boxes",
        DeviceKind.EV_CHARGER: "EV chargers",
    }
    return words.get(kind, f"{kind.label}s")


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _several(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
