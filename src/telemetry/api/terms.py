"""Terms of sharing as they come and go over HTTP: keys as shown, durations in seconds."""

from datetime import timedelta
from typing import Annotated, Any, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from telemetry.api.asked import Instant
from telemetry.model.fields import FIELD_BY_NAME, KIND_BY_LABEL, DataClass
from telemetry.model.sharing import (
    FieldName,
    GrantTerms,
    PlaceSetting,
    Resolution,
    SerialSetting,
    SharingPurpose,
)
from telemetry.model.shown import key_shown, shown_key

MAX_HISTORY_S: Final = 11 * 366 * 86_400
SiteKey = Annotated[str, Field(pattern=r"^s_[0-9a-f]{16}$", examples=["s_00c0ffee00c0ffee"])]
KindLabel = Annotated[str, Field(json_schema_extra={"enum": sorted(KIND_BY_LABEL)}, examples=["inverter"])]


def check_lists(model: type[BaseModel], values: Any, *of_fields: str) -> None:
    """Refuse what stands twice in a list, and in ``of_fields`` what the catalogue has not, without repeating it."""
    for name in model.model_fields:
        given = values.get(name) if isinstance(values, dict) else None
        if not isinstance(given, list):
            continue
        texts = [one for one in given if isinstance(one, str)]
        if len(set(texts)) < len(texts):
            raise ValueError(f"{name}: an entry stands twice")
        if name in of_fields and not set(texts) <= set(FIELD_BY_NAME):
            raise ValueError(f"{name}: the catalogue has no such field")


class TermsAsked(BaseModel):
    """What may be seen. At least one class or field; what is left out is as little as there is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    purpose: SharingPurpose = Field(description="what for; purposes never add up")
    classes: frozenset[DataClass] = Field(frozenset(), description="whole classes of fields, later fields included")
    fields: frozenset[FieldName] = Field(frozenset(), description="single fields of the catalogue")
    kinds: frozenset[KindLabel] | None = Field(None, description="of devices; all without")
    resolution: Resolution = Field(Resolution.PT15M, description="how fine in time")
    serial: SerialSetting = Field(SerialSetting.WITHHELD, description="how devices are named")
    place: PlaceSetting = Field(PlaceSetting.WITHHELD, description="how precise a place")
    extremes: bool = Field(default=False, description="minimum and maximum of windows too")
    history_s: int | None = Field(None, ge=0, le=MAX_HISTORY_S, description="how far back of now; no limit without")
    data_from: Instant | None = Field(None, description="no earlier data; the grant's own start without")
    start: Instant | None = Field(None, description="in force from then on; at once without")
    until: Instant | None = Field(None, description="in force until then; until withdrawn without")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        check_lists(cls, values, "fields")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kinds is not None and not self.kinds <= set(KIND_BY_LABEL):
            raise ValueError("kinds: there is no such kind of device")
        try:
            _ = self.terms
        except ValidationError as error:
            told = [one["msg"].removeprefix("Value error, ") for one in error.errors(include_input=False)]
            raise ValueError("; ".join(told)) from None
        return self

    @property
    def terms(self) -> GrantTerms:
        """As they are kept."""
        given = {name: getattr(self, name) for name in TermsAsked.model_fields}
        history = given.pop("history_s")
        kinds = None if self.kinds is None else frozenset(KIND_BY_LABEL[kind] for kind in self.kinds)
        sites = None if self.site_keys is None else frozenset(self.site_keys)
        span = None if history is None else timedelta(seconds=history)
        return GrantTerms(**given | {"kinds": kinds, "sites": sites, "history": span})

    @property
    def site_keys(self) -> frozenset[int] | None:
        """Sites that are named: none, unless an owner asks."""
        return None


class OwnTermsAsked(TermsAsked):
    """Terms that an owner settles: sites by their own keys."""

    sites: frozenset[SiteKey] | None = Field(None, description="only these; all of the home's without")

    @property
    def site_keys(self) -> frozenset[int] | None:
        """As they are kept."""
        return None if self.sites is None else frozenset(key_shown("site", site) for site in self.sites)


class TermsShown(BaseModel):
    """Terms as they are kept."""

    model_config = ConfigDict(extra="forbid")
    purpose: SharingPurpose
    classes: list[str]
    fields: list[str]
    sites: list[str] | None = Field(description="null: all, later ones included")
    kinds: list[str] | None = Field(description="null: all")
    resolution: Resolution
    serial: SerialSetting
    place: PlaceSetting
    extremes: bool
    history_s: float | None = Field(description="null: without that limit")
    data_from: AwareDatetime | None
    start: AwareDatetime | None
    until: AwareDatetime | None


def terms_shown(terms: GrantTerms) -> dict[str, Any]:
    """As TermsShown."""
    return {
        "purpose": terms.purpose,
        "classes": sorted(terms.classes),
        "fields": sorted(terms.fields),
        "sites": None if terms.sites is None else [shown_key("site", site) for site in sorted(terms.sites)],
        "kinds": None if terms.kinds is None else sorted(kind.label for kind in terms.kinds),
        "resolution": terms.resolution,
        "serial": terms.serial,
        "place": terms.place,
        "extremes": terms.extremes,
        "history_s": None if terms.history is None else terms.history.total_seconds(),
        "data_from": terms.data_from,
        "start": terms.start,
        "until": terms.until,
    }
