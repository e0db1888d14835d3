"""What one owner settled, and what is compiled from it. Pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from telemetry.model.fields import DeviceKind
from telemetry.model.sharing import Grant, Keeping, SharingPurpose
from telemetry.privacy.plan import PlanClass

LATER: Final = 0  # in place of a site's key: one that is added later, which no grant names


@dataclass(frozen=True, slots=True)
class OwnerSettings:
    """All that an owner's plan depends on, of one moment.

    ``policies``: when each policy expires, None for not known yet; a grant under a policy that is not named is not
    in force. ``closed``: recipients that were closed. ``objections``: a purpose and the recipient it is objected
    to for, None for all. A restriction is not here: it ends showing, and what arrives is stored as before (rule 5).
    """

    owner_key: int
    sites: tuple[int, ...] = ()
    keeping: Keeping = field(default_factory=Keeping)
    grants: tuple[Grant, ...] = ()
    policies: Mapping[str, datetime | None] = field(default_factory=dict)
    closed: frozenset[int] = frozenset()
    objections: frozenset[tuple[SharingPurpose, int | None]] = frozenset()
    erased: bool = False


@dataclass(frozen=True, slots=True)
class OwnerPlan:
    """The class of every site (LATER included) and kind, and when the same settings will give another plan."""

    classes: Mapping[tuple[int, DeviceKind], PlanClass]
    next_change: datetime | None = None
