"""What a recipient asks an owner for, and what it proposes to one it does not know yet."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from telemetry.model.sharing import GrantTerms

REQUEST_LIFETIME: Final = timedelta(days=30)
CODE_LIFETIME: Final = timedelta(hours=1)
MAX_TEXT_LENGTH: Final = 500
MAX_OPEN_CODES: Final = 3


class RequestReason(StrEnum):
    """Why a recipient asks. A fixed list, so that nothing personal stands in it."""

    COMMISSIONING = "commissioning"
    FAULT = "fault"
    SERVICE_CONTRACT = "service_contract"
    WARRANTY_CLAIM = "warranty_claim"
    TARIFF = "tariff"
    ADVICE = "advice"
    APPLICATION = "application"


class RequestState(StrEnum):
    """What the recipient sees of its request. Declined, blocked, unknown code and no answer are all one thing: pending
    until it expires, then not accepted (decision 0071).
    """

    PENDING = "pending"
    ACCEPTED = "accepted"
    NOT_ACCEPTED = "not_accepted"


class InvitationState(StrEnum):
    """What the recipient sees of its invitation."""

    OPEN = "open"
    ACCEPTED = "accepted"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as its recipient sees it. ``site``: the recipient's own token, where it asked for a site."""

    request_key: int
    state: RequestState
    reason: RequestReason
    terms: GrantTerms
    site: str | None
    made_at: datetime
    expires_at: datetime
    accepted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation as its recipient sees it."""

    invitation_key: int
    state: InvitationState
    terms: GrantTerms
    made_at: datetime
    expires_at: datetime
    accepted_at: datetime | None = None
