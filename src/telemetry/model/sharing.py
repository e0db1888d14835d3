"""What an owner settles: recipients, grants and keeping settings. The rules are in SEMANTICS.md, 7 to 9 and 18 to 24.

Everything here is frozen, knows no serial, name or place, and refuses what is unknown.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from telemetry.model.fields import FIELD_BY_NAME, DataClass, DeviceKind


class RecipientKind(StrEnum):
    """Who may be granted something. Each is enabled and disabled on its own (SHARE-2)."""

    INSTALLER = "installer"
    ENERGY_PARTNER = "energy_partner"
    SERVICE_PROVIDER = "service_provider"
    API_DEVELOPER = "api_developer"
    PRODUCT_IMPROVEMENT = "product_improvement"


class SharingPurpose(StrEnum):
    """What for. A request is for one purpose; grants of different purposes never add up (rule 18)."""

    MAINTENANCE = "maintenance"
    MONITORING = "monitoring"
    WARRANTY = "warranty"
    BILLING = "billing"
    GRID_SERVICES = "grid_services"
    ENERGY_ADVICE = "energy_advice"
    APPLICATION = "application"
    PRODUCT_IMPROVEMENT = "product_improvement"


class Resolution(StrEnum):
    """How fine in time, from finest to coarsest: ISO 8601 durations, and the gateway's own."""

    RAW = "raw"
    PT1M = "PT1M"
    PT15M = "PT15M"
    PT30M = "PT30M"
    PT1H = "PT1H"
    P1D = "P1D"
    P1M = "P1M"

    @property
    def rank(self) -> int:
        """0 for the finest. What tables hold; every window lies whole in one of each coarser resolution."""
        return _RANKS[self]

    @property
    def minutes(self) -> int | None:
        """The window's length where it is fixed: None for raw and P1M."""
        return _MINUTES.get(self)


RESOLUTIONS: Final[tuple[Resolution, ...]] = tuple(Resolution)
_RANKS: Final = {resolution: rank for rank, resolution in enumerate(Resolution)}
_MINUTES: Final = {
    Resolution.PT1M: 1,
    Resolution.PT15M: 15,
    Resolution.PT30M: 30,
    Resolution.PT1H: 60,
    Resolution.P1D: 1440,
}


class SerialSetting(StrEnum):
    """How a device is named to the recipient, from least to most."""

    WITHHELD = "withheld"
    PSEUDONYM = "pseudonym"
    REAL = "real"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return _SERIAL_RANKS[self]


_SERIAL_RANKS: Final = {setting: rank for rank, setting in enumerate(SerialSetting)}


class PlaceSetting(StrEnum):
    """How precise a place, from least to most. Cells are H3 cells of that resolution, as labels (rule 24)."""

    WITHHELD = "withheld"
    COUNTRY = "country"
    REGION = "region"
    CELL4 = "cell4"
    CELL5 = "cell5"
    CELL6 = "cell6"
    CELL7 = "cell7"
    EXACT = "exact"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return _PLACE_RANKS[self]

    @property
    def cell(self) -> int | None:
        """The H3 resolution of a cell setting."""
        return int(self.value[4:]) if self.value.startswith("cell") else None


_PLACE_RANKS: Final = {setting: rank for rank, setting in enumerate(PlaceSetting)}


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


FieldName = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]


def _check_fields(fields: frozenset[str] | None) -> None:
    unknown = sorted((fields or frozenset()) - set(FIELD_BY_NAME))
    if unknown:
        raise ValueError(f"the catalogue has no field {', '.join(unknown)}")


class GrantTerms(_Settings):
    """What one grant allows. ``None`` for sites and kinds: all of them, later ones included.

    ``history``: how far back of now, None without that limit; never before ``data_from`` (None: the grant's own
    start, rule 18). ``extremes``: minimum and maximum of windows too (rule 14). ``until``: None for open-ended.
    The class ``alert`` at ``raw`` is what rule 21 calls real time.
    """

    purpose: SharingPurpose
    classes: frozenset[DataClass] = frozenset()
    fields: frozenset[FieldName] = frozenset()
    sites: frozenset[int] | None = None
    kinds: frozenset[DeviceKind] | None = None
    resolution: Resolution = Resolution.PT15M
    serial: SerialSetting = SerialSetting.WITHHELD
    place: PlaceSetting = PlaceSetting.WITHHELD
    extremes: bool = False
    history: timedelta | None = None
    data_from: AwareDatetime | None = None
    start: AwareDatetime | None = None
    until: AwareDatetime | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_fields(self.fields)
        if not self.classes and not self.fields:
            raise ValueError("a grant names at least one class or field")
        if self.sites is not None and not self.sites:
            raise ValueError("a grant for certain sites names at least one")
        if self.kinds is not None and not self.kinds:
            raise ValueError("a grant for certain kinds of device names at least one")
        if self.history is not None and self.history < timedelta(0):
            raise ValueError("history is not negative")
        if self.until is not None and self.start is not None and self.until <= self.start:
            raise ValueError("until lies after start")
        return self

    def admits(self, field: str) -> bool:
        """Whether the grant names the field or its class."""
        return field in self.fields or FIELD_BY_NAME[field].data_class in self.classes


class GrantState(StrEnum):
    """Of a grant's newest version."""

    ACTIVE = "active"
    WITHDRAWN = "withdrawn"


class Grant(_Settings):
    """One version of a grant as stored. ``data_from`` and ``start`` of the terms are filled in.

    ``epoch`` is the token epoch of (owner, recipient) that it belongs to (rule 23).
    """

    grant_key: int
    version: int
    owner_key: int
    recipient_key: int
    state: GrantState
    terms: GrantTerms
    epoch: int
    policy: str
    recorded_at: AwareDatetime

    def active(self, now: datetime) -> bool:
        """Whether it is in force at ``now``."""
        terms = self.terms
        begun = terms.start is None or terms.start <= now
        return self.state is GrantState.ACTIVE and begun and (terms.until is None or now < terms.until)


DEFAULT_RETENTION_DAYS: Final = 3 * 366
MAX_RETENTION_DAYS: Final = 10 * 366


class Keeping(_Settings):
    """What may be stored of an owner at all (rules 7 to 9). The default keeps every field at 15 minutes.

    ``wished``: the resolution the owner wants kept for the own use. ``finest``: what no grant may go beyond.
    ``classes`` and ``fields``: what is kept for the owner's own use, None for all; a field that a grant admits is
    kept as well, unless ``never`` names it. ``retention_days``: by class, the default where absent.
    """

    wished: Resolution = Resolution.PT15M
    finest: Resolution = Resolution.PT15M
    classes: frozenset[DataClass] | None = None
    fields: frozenset[FieldName] = frozenset()
    never: frozenset[FieldName] = frozenset()
    retention_days: dict[DataClass, Annotated[int, Field(ge=1, le=MAX_RETENTION_DAYS)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _check_fields(self.fields | self.never)
        if self.finest is Resolution.RAW:
            raise ValueError("raw readings are kept for the hot retention only; the finest is PT1M")
        if self.wished.rank < self.finest.rank:
            raise ValueError("the resolution wished is finer than the finest that may be kept")
        return self

    def keeps(self, field: str) -> bool:
        """Whether the field is kept for the owner's own use."""
        if field in self.never:
            return False
        return self.classes is None or field in self.fields or FIELD_BY_NAME[field].data_class in self.classes


class MemberRight(StrEnum):
    """What a member of the household may do beside the owner."""

    SEE = "see"  # the own home's data
    SHARE = "share"  # set grants
    RIGHTS = "rights"  # exercise the owner's rights
