"""What recipients ask owners for and are told of it, for the OpenAPI document and for checking bodies."""

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from telemetry.api.terms import TermsAsked, TermsShown
from telemetry.model.requests import MAX_TEXT_LENGTH, InvitationState, RequestReason, RequestState
from telemetry.model.sharing import Resolution, SharingPurpose
from telemetry.store.requests import MAX_INVITATION_LIFETIME

_PRINTABLE = r"^[^\x00-\x1f\x7f]*$"


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AccessRequestAsked(_Body):
    """Terms, asked of whoever made a connection code, or of the owner of a site that is shown."""

    terms: TermsAsked
    reason: RequestReason
    code: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9 -]{4,40}$")] | None = Field(
        None, description="as the owner told it"
    )
    site: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")] | None = Field(
        None, description="as lists name it"
    )
    text: Annotated[str, StringConstraints(pattern=_PRINTABLE, max_length=MAX_TEXT_LENGTH)] = Field(
        "", description="for the owner alone"
    )

    @model_validator(mode="after")
    def _to_somebody(self) -> "AccessRequestAsked":
        if (self.code is None) == (self.site is None):
            raise ValueError("either code or site")
        return self


class InvitationMade(_Body):
    """Terms proposed to whoever is given the code."""

    terms: TermsAsked
    lifetime_s: int = Field(
        7 * 86_400, ge=60, le=int(MAX_INVITATION_LIFETIME.total_seconds()), description="how long it may be accepted"
    )
    email: Annotated[str, Field(min_length=3, max_length=254)] | None = Field(
        None, description="mailed there as well; the address is used for that and kept nowhere"
    )


class WebhookAsked(_Body):
    """Where alerts are posted to."""

    purpose: SharingPurpose
    url: Annotated[str, StringConstraints(min_length=8, max_length=2000)] = Field(
        examples=["https://hooks.example.invalid/alerts"]
    )


class _Shown(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class AccessRequestShown(_Shown):
    """A request as its recipient sees it. Declined, blocked, an unknown code and no answer are all one: pending until
    it expires.
    """

    request: str = Field(examples=["q_00c0ffee00c0ffee"])
    state: RequestState
    reason: RequestReason
    terms: TermsShown
    site: str | None
    made_at: AwareDatetime
    expires_at: AwareDatetime
    accepted_at: AwareDatetime | None


class AccessRequestList(_Shown):
    """All that were not taken back."""

    requests: list[AccessRequestShown]


class OwnInvitation(_Shown):
    """An invitation as its recipient sees it."""

    invitation: str = Field(examples=["i_00c0ffee00c0ffee"])
    state: InvitationState
    terms: TermsShown
    made_at: AwareDatetime
    expires_at: AwareDatetime
    accepted_at: AwareDatetime | None


class InvitationList(_Shown):
    """All of them."""

    invitations: list[OwnInvitation]


class NewInvitationShown(_Shown):
    """``code`` is shown this once."""

    invitation: str
    code: str
    expires_at: AwareDatetime


class WebhookShown(_Shown):
    """A webhook as its recipient sees it."""

    webhook: str = Field(examples=["w_00c0ffee00c0ffee"])
    purpose: SharingPurpose
    url: str | None = Field(description="null: it has to be added anew")
    created_at: AwareDatetime
    state: str = Field(description="working, failing or disabled")
    failing_since: AwareDatetime | None
    waiting: int = Field(description="messages that wait to be sent")


class WebhookList(_Shown):
    """All of them."""

    webhooks: list[WebhookShown]


class NewWebhookShown(_Shown):
    """``secret`` signs what is posted (Standard Webhooks), and is shown this once."""

    webhook: str
    secret: str


class WebhookTested(_Shown):
    """The ``webhook-id`` of the test message."""

    message: str


class AlertShown(_Shown):
    """An alert as it is shown: times are edges of windows, unless alerts are granted in real time."""

    site: str
    device: str
    kind: str = Field(examples=["device_alarm"])
    severity: int = Field(description="RFC 5424, 0 the worst")
    opened: AwareDatetime | None = Field(description="null where it began before what is granted")
    closed: AwareDatetime | None = Field(description="null while it is open")
    resolution: Resolution


class AlertList(_Shown):
    """Alerts in the order of names."""

    purpose: SharingPurpose
    alerts: list[AlertShown]


class OwnRead(_Shown):
    """One read, whoever's data it held."""

    at: AwareDatetime
    purpose: SharingPurpose
    way: str = Field(description="view, stream or export")
    fields: list[str]
    resolution: Resolution
    since: AwareDatetime = Field(alias="from")
    until: AwareDatetime = Field(alias="to")


class OwnReads(_Shown):
    """Newest first."""

    reads: list[OwnRead]
    next: str | None = Field(description="cursor of the next page; null on the last one")
