"""What the service tells about itself: one frozen dataclass per event.

The dataclasses are the allowlist of the logs: a log line carries the event's name and these fields, each only as
a number, a truth value, a member of an enumeration of this package, or counts by such members and catalogue
fields. There is no field of free text, so there is no place for an identifier.

Units last in the name: ``_s`` seconds, ``_us`` microseconds, ``_bytes``. Counts are of readings where nothing
else is said.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from telemetry.model.batch import Reason, Watermark, Withheld
from telemetry.observe.alert_events import AlertsFound, MessagesSent
from telemetry.observe.api_events import ApiStarted, Method, RequestAnswered
from telemetry.observe.event import Event, Level
from telemetry.observe.radio_events import AdvertisementsHeard, RadioFailed

# Events that are defined in files of their own, beside those of this one.
__all__ = [
    "AdvertisementsHeard",
    "AlertsFound",
    "ApiStarted",
    "Event",
    "MessagesSent",
    "Method",
    "RadioFailed",
    "RequestAnswered",
]


class Server(StrEnum):
    """The servers that the service talks to or runs."""

    POSTGRES = "postgres"
    MOSQUITTO = "mosquitto"
    RUMQTTD = "rumqttd"


class Job(StrEnum):
    """What maintenance does from time to time."""

    PARTITIONS = "partitions"
    EXPIRE = "expire"
    ROLLUP = "rollup"
    RETENTION = "retention"
    RELOAD = "reload"
    PLAN = "plan"
    LABELS = "labels"
    ALERTS = "alerts"
    DELIVERY = "delivery"
    WATERMARKS = "watermarks"
    SCAN = "scan"
    BACKUP = "backup"


class Cause(StrEnum):
    """Why the service stops."""

    SIGNAL = "signal"
    FINISHED = "finished"
    FAILURE = "failure"


@dataclass(frozen=True, slots=True)
class ServiceStarted(Event):
    """The service is up and takes messages."""

    startup_s: float


@dataclass(frozen=True, slots=True)
class ServiceStopped(Event):
    """The service has stopped; ``unacknowledged`` messages come again."""

    cause: Cause
    unacknowledged: int = 0
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class ServerStarted(Event):
    """An embedded server is ready; ``recovered`` where it had not been stopped cleanly before."""

    server: Server
    startup_s: float
    recovered: bool = False


@dataclass(frozen=True, slots=True)
class ServerStopped(Event):
    """An embedded server went down; unexpected unless ``asked``."""

    level: ClassVar[Level] = "warning"
    server: Server
    asked: bool
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class BrokerConnected(Event):
    """The source is connected. ``receive_maximum``: messages that the broker lets us leave unacknowledged."""

    session_present: bool
    receive_maximum: int = 0


@dataclass(frozen=True, slots=True)
class BrokerLost(Event):
    """The connection to the broker ended or did not come about; another attempt follows after ``delay_s``."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    delay_s: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PublicationsDropped(Event):
    """Watermarks or keep-alives were not sent because the broker was away."""

    level: ClassVar[Level] = "debug"
    repetitive: ClassVar[bool] = True
    messages: int


@dataclass(frozen=True, slots=True)
class InFlight(Event):
    """Messages received and not yet acknowledged."""

    level: ClassVar[Level] = "debug"
    repetitive: ClassVar[bool] = True
    messages: int
    payload_bytes: int


@dataclass(frozen=True, slots=True)
class BatchCommitted(Event):
    """One transaction is committed, and what became of every reading in it.

    ``received`` = ``stored`` + ``duplicate`` + sum(``withheld``) + sum(``quarantined``). ``merged`` and
    ``conflict`` are parts of ``duplicate``, ``late`` of ``stored``. Value counts are of values inside readings.
    ``newest_ts_us``: the newest instant among the rows, None without rows. ``evicted``: entries that codecs forgot for
    lack of room.
    """

    level: ClassVar[Level] = "debug"
    messages: int
    payload_bytes: int
    received: int
    stored: int
    duplicate: int
    merged: int = 0
    conflict: int = 0
    late: int = 0
    quarantined_again: int = 0
    withheld: Mapping[Withheld, int] = field(default_factory=dict)
    quarantined: Mapping[Reason, int] = field(default_factory=dict)
    withheld_values: Mapping[tuple[Withheld, str], int] = field(default_factory=dict)
    implausible: Mapping[str, int] = field(default_factory=dict)
    decode_s: float = 0.0
    protect_s: float = 0.0
    write_s: float = 0.0
    commit_s: float = 0.0
    newest_ts_us: int | None = None
    evicted: int = 0

    @property
    def balanced(self) -> bool:
        """Does every reading have exactly one end?"""
        ends = self.stored + self.duplicate + sum(self.withheld.values()) + sum(self.quarantined.values())
        return ends == self.received


@dataclass(frozen=True, slots=True)
class BatchUnbalanced(Event):
    """A committed batch whose readings do not add up: a defect of this software. The difference is signed."""

    level: ClassVar[Level] = "error"
    received: int
    difference: int


@dataclass(frozen=True, slots=True)
class ReadingsQuarantined(Event):
    """Readings went to quarantine; ``telemetry quarantine list`` shows them. Logged from time to time."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    quarantined: Mapping[Reason, int]


@dataclass(frozen=True, slots=True)
class WriteFailed(Event):
    """A transaction did not commit; it is written again after ``delay_s``. Nothing was acknowledged."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    attempt: int
    delay_s: float
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class WatermarksAdvanced(Event):
    """How far the gateways' messages are committed, after one transaction. Only the counts leave the process."""

    level: ClassVar[Level] = "debug"
    repetitive: ClassVar[bool] = True
    watermarks: Sequence[Watermark]


@dataclass(frozen=True, slots=True)
class GapsOpened(Event):
    """Sequence numbers are missing that were not before: messages lost, or still on their way."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    messages: int
    missing_now: int


@dataclass(frozen=True, slots=True)
class PlanApplied(Event):
    """A plan of sharing and keeping settings is in force."""

    version: int
    classes: int


@dataclass(frozen=True, slots=True)
class RegistryLoaded(Event):
    """Gateways and devices as known to this worker."""

    level: ClassVar[Level] = "debug"
    gateways: int
    devices: int


@dataclass(frozen=True, slots=True)
class StatesLoaded(Event):
    """What codecs remember of gateways, as read at the start; ``useless`` ones are learnt anew."""

    level: ClassVar[Level] = "debug"
    states: int
    useless: int = 0


@dataclass(frozen=True, slots=True)
class DevicesEnrolled(Event):
    """Devices appeared for the first time; ``refused`` ones were beyond their gateway's limit; ``known`` are all."""

    repetitive: ClassVar[bool] = True
    enrolled: int
    refused: int = 0
    known: int = 0


@dataclass(frozen=True, slots=True)
class SerialAtTwoSites(Event):
    """Devices whose serial is known at another site already: moved, or somebody pretends."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    devices: int


@dataclass(frozen=True, slots=True)
class JobDone(Event):
    """A round of maintenance. ``made`` and ``removed`` count partitions or rows, as the job has it."""

    level: ClassVar[Level] = "debug"
    job: Job
    seconds: float
    made: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True)
class JobFailed(Event):
    """A round of maintenance failed; the next one tries again."""

    level: ClassVar[Level] = "error"
    repetitive: ClassVar[bool] = True
    job: Job
    error: BaseException


@dataclass(frozen=True, slots=True)
class RollupPassed(Event):
    """A pass of the rollup is done: windows that ended up to ``behind_s`` ago are in the series.

    ``windows``: versions written, of ``devices`` looked at. ``sealed_hours`` and ``late_hours`` are rolled up for good.
    """

    behind_s: float
    windows: int
    devices: int
    sealed_hours: int = 0
    late_hours: int = 0


@dataclass(frozen=True, slots=True)
class SeriesRetained(Event):
    """A run of retention is done. Counts are of versions of windows that were removed, ``dropped`` of months."""

    expired: int
    coarsened: int
    superseded: int
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class ClockJumped(Event):
    """The clock of this machine was set by so much, beside the time that passed."""

    level: ClassVar[Level] = "warning"
    jump_s: float


@dataclass(frozen=True, slots=True)
class LoopStalled(Event):
    """The event loop did not run for so long."""

    level: ClassVar[Level] = "warning"
    repetitive: ClassVar[bool] = True
    stalled_s: float


@dataclass(frozen=True, slots=True)
class Uncaught(Event):
    """An exception that nobody handled: in a thread, a task, a finaliser or the main program."""

    level: ClassVar[Level] = "error"
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class LibraryLog(Event):
    """A library logged or warned. Its text may quote values and stays out; ``library`` and place say where."""

    level: ClassVar[Level] = "warning"
    error: BaseException | None = None


EVENTS: Mapping[str, type[Event]] = {event.name(): event for event in Event.__subclasses__()}
