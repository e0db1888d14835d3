"""What answers look like, for the OpenAPI document. Answers themselves are written from frames."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from telemetry.model.sharing import PlaceSetting, Resolution, SerialSetting, SharingPurpose
from telemetry.views.query import DayGrid

Coverage = Literal["none", "partial", "full"]


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SharedField(_Shown):
    """A field that is shared, and how fine it is served."""

    field: str = Field(examples=["ac_power_w"])
    resolution: Resolution


class DeviceShown(_Shown):
    """One device as it is shown. ``device`` may hold a slash."""

    site: str
    device: str
    kind: str = Field(examples=["inverter"])
    serial: str | None = Field(description="null where it is not granted")
    place: str | None = Field(description="a country, a region or an H3 cell; null where withheld")
    latitude: float | None
    longitude: float | None
    last_seen: datetime | None = Field(description="end of the last window in this answer")
    shared: list[SharedField]
    not_shared: list[str] = Field(description="fields of this kind of device that are not granted")


class KindShown(_Shown):
    """What is shared of one kind of device at a site."""

    kind: str = Field(examples=["inverter"])
    shared: list[SharedField]
    not_shared: list[str] = Field(description="fields of this kind of device that are not granted")


class SiteShown(_Shown):
    """One site as it is shown."""

    site: str
    place: str | None = Field(description="a country, a region or an H3 cell; null where withheld")
    latitude: float | None
    longitude: float | None
    kinds: list[KindShown]
    devices: int = Field(ge=0, description="how many are seen")
    last_seen: datetime | None = Field(description="end of the last window shown, if in the last 35 days")
    alerts_open: int | None = Field(ge=0, description="null where alerts are granted of no device there")


class FleetPage(_Shown):
    """Sites in the order of their names."""

    purpose: SharingPurpose
    sites: list[SiteShown]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class DevicePage(_Shown):
    """Devices in the order of their names."""

    purpose: SharingPurpose
    devices: list[DeviceShown]
    next: str | None = Field(description="cursor of the next page; null on the last one")


class SeriesShown(_Shown):
    """One series: columns of equal length. Minimum and maximum only where granted and kept."""

    site: str
    device: str
    field: str
    resolution: Resolution = Field(description="served: the coarser of asked and granted")
    grid: DayGrid
    start: list[datetime]
    end: list[datetime] = Field(description="of the window; a raw reading's own instant")
    value: list[float | None]
    coverage: list[Coverage | None] = Field(description="how much of the window was measured; null for raw readings")
    lowest: list[float | None] | None = None
    highest: list[float | None] | None = None


class SeriesRow(_Shown):
    """One window of one field."""

    site: str
    device: str
    field: str
    resolution: Resolution
    grid: DayGrid
    start: datetime
    end: datetime
    value: float | None
    coverage: Coverage | None
    lowest: float | None
    highest: float | None


class SeriesPage(_Shown):
    """A page of series, by devices. ``series`` by column, or ``rows`` with ``format=rows``."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    purpose: SharingPurpose | None = Field(description="null where an owner looks at the own data")
    resolution: Resolution = Field(description="as asked; each series states the one served")
    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to")
    tz: str
    devices: list[DeviceShown]
    series: list[SeriesShown] | None = None
    rows: list[SeriesRow] | None = None
    next: str | None = Field(description="cursor of the next page; null on the last one")


class ChangesPage(_Shown):
    """What is new or corrected."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    purpose: SharingPurpose
    resolution: Resolution
    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to")
    tz: str
    devices: list[DeviceShown] = Field(description="all that are seen; what is there of others is to be dropped")
    series: list[SeriesShown]
    renewed: list[str] = Field(description="devices of which what was there before is to be dropped")
    next: str = Field(description="cursor for the next question")


class GrantShown(_Shown):
    """A grant as the recipient may know it."""

    grant: str
    purpose: SharingPurpose
    sites: list[str] = Field(description="those that are seen under it")
    all_sites: bool = Field(description="all sites of the owner, later ones included")
    kinds: list[str] | None = Field(description="null for all")
    classes: list[str]
    fields: list[str]
    resolution: Resolution
    serial: SerialSetting
    place: PlaceSetting
    extremes: bool
    history_s: int | None = Field(description="how far back of now, in seconds; null without that limit")
    data_from: datetime
    start: datetime
    until: datetime | None


class GrantPage(_Shown):
    """Grants in force, in the order of their names."""

    purpose: SharingPurpose
    grants: list[GrantShown]
    next: str | None = Field(description="cursor of the next page; null on the last one")
