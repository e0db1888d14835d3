"""What owners send and are answered, for validation and for the OpenAPI document."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from telemetry.api.asked import Instant
from telemetry.api.terms import OwnTermsAsked, TermsShown, check_lists
from telemetry.model.requests import RequestReason
from telemetry.model.sharing import GrantState, Keeping, MemberRight, RecipientKind, Resolution, SharingPurpose
from telemetry.views.query import Way

RecipientName = Annotated[
    str,
    Field(
        pattern=r"^([a-z0-9][a-z0-9-]{2,63}|r_[0-9a-f]{16})$",
        description="a handle, or a key (r_…)",
        examples=["example-installer"],
    ),
]
ConfirmedKm = Annotated[
    float | None, Field(ge=0, le=50_000, description="`error_km` of a solar-unconfirmed problem: it is known")
]
Policy = Annotated[
    str | None,
    Field(pattern=r"^[a-z0-9.-]{1,32}$", description="version of the privacy notice consented to; the newest without"),
]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid")


class GrantAsked(_Asked):
    """A grant to be made."""

    recipient: RecipientName
    terms: OwnTermsAsked
    confirm_solar_km: ConfirmedKm = None
    policy: Policy = None


class GrantChange(_Asked):
    """All terms of a grant, as they shall be. Recipient and purpose stay."""

    terms: OwnTermsAsked
    confirm_solar_km: ConfirmedKm = None
    policy: Policy = None


class Acceptance(_Asked):
    """How a request is accepted: as it was asked, or with ``terms`` that show less."""

    terms: OwnTermsAsked | None = None
    confirm_solar_km: ConfirmedKm = None
    policy: Policy = None


InvitationCode = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$", description="what the installer handed over")]


class InvitationAsked(_Asked):
    """An invitation that somebody holds."""

    code: InvitationCode


class InvitationAcceptance(Acceptance):
    """How an invitation is accepted."""

    code: InvitationCode


class PreviewAsked(_Asked):
    """What a recipient sees, or would see. ``terms``: of a grant that is not made; with ``grant`` instead of that one.

    What a proposed grant would show is told as if it had been in force since before the range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    recipient: RecipientName
    purpose: SharingPurpose
    since: Instant = Field(alias="from")
    until: Instant = Field(alias="to")
    resolution: Resolution = Resolution.PT15M
    fields: frozenset[Annotated[str, Field(pattern=r"^[a-z0-9_]{1,64}$")]] | None = None
    terms: OwnTermsAsked | None = None
    grant: Annotated[str | None, Field(pattern=r"^c_[0-9a-f]{16}$")] = None

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        check_lists(cls, values, "fields")
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "PreviewAsked":
        if not self.since < self.until:
            raise ValueError("to: it lies after `from`")
        if self.grant is not None and self.terms is None:
            raise ValueError("grant: it is for proposed terms")
        if self.terms is not None and self.terms.purpose is not self.purpose:
            raise ValueError("terms: they are for another purpose")
        return self


class KeepingAsked(Keeping):
    """What may be stored."""

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, values: Any) -> Any:
        check_lists(cls, values, "fields", "never")
        return values


class ObjectionAsked(_Asked):
    """An objection to a purpose, of one recipient or of all."""

    purpose: SharingPurpose
    recipient: RecipientName | None = Field(None, validate_default=False)


class RecipientShown(_Shown):
    """Somebody who may be granted something. The handle names no person."""

    recipient: str = Field(examples=["r_00c0ffee00c0ffee"])
    handle: str
    kind: RecipientKind


class Me(_Shown):
    """Whose home, and what may be done for it."""

    owner: str
    member: bool = Field(description="a member of the household, not the owner")
    rights: list[MemberRight]
    restricted: bool


class OwnSite(_Shown):
    """One home."""

    site: str
    name: str | None


class OwnSites(_Shown):
    """All homes of the owner."""

    sites: list[OwnSite]


class OwnDevice(_Shown):
    """One device, with its real serial."""

    site: str
    device: str
    kind: str
    serial: str | None


class OwnDevices(_Shown):
    """All devices."""

    devices: list[OwnDevice]


class RecipientList(_Shown):
    """Recipients in the order of their handles."""

    recipients: list[RecipientShown]
    next: str | None


class OwnGrant(_Shown):
    """One version of a grant. ``says``: its terms in a sentence."""

    grant: str
    version: int
    state: GrantState
    recipient: RecipientShown
    terms: TermsShown
    policy: str
    recorded_at: AwareDatetime
    says: str


class OwnGrants(_Shown):
    """Grants that are not withdrawn, ended ones and ones to come included. ``sees``: by recipient, in sentences, what
    all of them come to.
    """

    grants: list[OwnGrant]
    sees: dict[str, list[str]] = Field(description="sentences by the recipient's key")


class GrantHistory(_Shown):
    """Every version of one grant, in the order recorded."""

    versions: list[OwnGrant]


class Settled(_Shown):
    """What is in force now. ``receipt``: signed, a compact JWS. ``sees``: all that the recipient sees by now."""

    grant: OwnGrant
    receipt: str
    sees: list[str]


class Receipt(_Shown):
    """A signed consent receipt (ISO/IEC TS 27560), a compact JWS."""

    receipt: str


class RequestReceived(_Shown):
    """What a recipient asks for. ``says``: what it would see if it were accepted as asked, in sentences."""

    request: str
    recipient: RecipientShown
    reason: RequestReason
    text: str | None
    terms: TermsShown
    says: list[str]
    made_at: AwareDatetime
    expires_at: AwareDatetime


class RequestsReceived(_Shown):
    """Open requests, in the order made."""

    requests: list[RequestReceived]


class InvitationShown(_Shown):
    """What an invitation proposes."""

    recipient: RecipientShown
    terms: TermsShown
    says: list[str]
    expires_at: AwareDatetime


class ConnectionCode(_Shown):
    """A code for one recipient, by which it asks without knowing whom."""

    code: str = Field(examples=["7K3M-9QXV"])
    expires_at: AwareDatetime


class BlockShown(RecipientShown):
    """A recipient whose requests the owner does not see."""

    blocked_at: AwareDatetime


class Blocks(_Shown):
    """All of them."""

    blocked: list[BlockShown]


class BlockAsked(_Asked):
    """Whose requests shall not be seen."""

    recipient: RecipientName


class RestrictionShown(_Shown):
    """A time during which nothing was used."""

    from_at: AwareDatetime
    lifted_at: AwareDatetime | None


class Restrictions(_Shown):
    """All of them, in their order."""

    restrictions: list[RestrictionShown]


class ObjectionShown(_Shown):
    """An objection that stands."""

    objection: str
    purpose: SharingPurpose
    recipient: RecipientShown | None
    made_at: AwareDatetime


class Objections(_Shown):
    """Those that stand."""

    objections: list[ObjectionShown]


class ReadShown(_Shown):
    """That somebody looked: who, when, which fields, which range. ``way`` preview: from this household."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)
    at: AwareDatetime
    recipient: str | None = Field(description="handle")
    purpose: SharingPurpose
    way: Way
    fields: list[str]
    resolution: Resolution
    since: AwareDatetime = Field(alias="from")
    until: AwareDatetime = Field(alias="to")


class Reads(_Shown):
    """Newest first."""

    reads: list[ReadShown]
    next: str | None


class LatestValue(_Shown):
    """The last window of one field."""

    site: str
    device: str
    field: str
    start: AwareDatetime
    end: AwareDatetime
    value: float | None
    coverage: Literal["none", "partial", "full"] | None


class Latest(_Shown):
    """The last window of every field within the last three hours."""

    values: list[LatestValue]
