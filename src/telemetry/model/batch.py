"""The columnar types that cross every boundary, and the schemas that own them.

Two frames exist. A **decoded** frame comes from a codec and still names devices by serial; it lives in memory
only and never past ``privacy.core``. A **reading** frame names devices by surrogate key and is what is stored.

Frames hold one column per catalogue field *that occurs*: a column that would be null throughout may be absent,
and means the same. Values are real nulls where there is none, never NaN or infinity after the core.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

import polars as pl

from telemetry.model.fields import FIELD_NAMES, FIELD_SCHEMA

MICROSECONDS: Final = 1_000_000

# message: index into the batch's messages; ts: µs since 1970 UTC, null when the format carries no time
DECODED_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "message": pl.UInt32(),
    "serial": pl.String(),
    "kind": pl.UInt8(),  # DeviceKind; null when the format does not say
    "ts": pl.Int64(),
}
READING_SCHEMA: Final[Mapping[str, pl.DataType]] = {
    "ts": pl.Int64(),  # µs since 1970 UTC
    "device_key": pl.Int64(),
    "plan_version": pl.Int64(),
}


class Reason(StrEnum):
    """Why a reading or a message was quarantined. Stable names: they are metric labels and table values."""

    # whole messages (count one reading each)
    MALFORMED = "malformed"  # not the format that its topic or content type announces
    TOO_LARGE = "too_large"  # payload above the size limit
    TOO_DEEP = "too_deep"
    TOO_MANY_READINGS = "too_many_readings"
    DUPLICATE_KEY = "duplicate_key"
    UNEQUAL_COLUMNS = "unequal_columns"
    UNKNOWN_TOPIC = "unknown_topic"  # no codec claims it
    UNKNOWN_ALIAS = "unknown_alias"  # Sparkplug: only a birth that is missing says what it means
    UNKNOWN_GATEWAY = "unknown_gateway"
    REVOKED_GATEWAY = "revoked_gateway"
    # single readings
    BAD_SERIAL = "bad_serial"  # missing, empty, too long or not text
    BAD_KIND = "bad_kind"
    BAD_TIME = "bad_time"  # missing or not a time
    TOO_OLD = "too_old"
    IN_THE_FUTURE = "in_the_future"
    EMPTY = "empty"  # no value left after implausible ones were dropped
    UNKNOWN_DEVICE = "unknown_device"  # enrolment is `known` and nobody announced this device
    REFUSED = "refused"  # the store does not take it: a defect of this software, kept for repair
    DEVICE_LIMIT = "device_limit"  # the gateway has enrolled as many devices as it may


class Withheld(StrEnum):
    """Why a reading was withheld (all of it), or a value within one that was stored."""

    UNLISTED = "unlisted"  # not in the catalogue, or in no table of the codec
    NOT_KEPT = "not_kept"  # no setting of the owner admits it
    PLACE = "place"
    ERASED = "erased"  # the owner was erased
    OTHER_TENURE = "other_tenure"  # from before the site was this owner's: it belongs to somebody who left
    RETAINED = "retained"  # a retained message is state, not a reading


class RawMessage(NamedTuple):
    """One PUBLISH as the source hands it over.

    ``gateway`` is the second topic level, ``topic`` the rest after ``gw/<gateway>/``. ``sequence`` is the MQTT 5
    user property ``seq`` (-1 without), ``stream`` the user property that names the run of sequence numbers
    ("" without). ``token`` is opaque to everybody but the source: it acknowledges the message. A named tuple, because
    tens of thousands are made a second.
    """

    gateway: str
    topic: str
    payload: bytes
    token: int
    received_us: int
    content_type: str | None = None
    sequence: int = -1
    stream: str = ""
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message, or rows of it, that go to quarantine.

    ``readings`` is what it counts: 1 for a message that cannot be decoded, else the number of rows. ``detail``
    never quotes the payload.
    """

    message: int
    reason: Reason
    readings: int = 1
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Decoded:
    """What codecs make of n messages.

    ``rows``: DECODED_SCHEMA plus catalogue fields. Every row has `message` and may lack any value.
    ``unlisted``: readings' values dropped because no table lists them, by the name the sender used (for
    ``telemetry decode`` only: a name may hold an identifier, metrics count the sum).
    ``withheld_rows``: readings that had only unlisted values (or were retained), by reason; they are in no row.
    ``implausible``: values of a wrong type, by catalogue field. ``place``: values dropped because they tell where the
    home is, by the name the sender used.
    """

    rows: pl.DataFrame
    rejections: Sequence[Rejection] = ()
    unlisted: Mapping[str, int] = field(default_factory=dict)
    withheld_rows: Mapping[Withheld, int] = field(default_factory=dict)
    implausible: Mapping[str, int] = field(default_factory=dict)
    place: Mapping[str, int] = field(default_factory=dict)
    codec_of_message: Mapping[int, str] = field(default_factory=dict)  # messages whose codec is not "native-json"


@dataclass(frozen=True, slots=True)
class Protected:
    """What the privacy core lets through, and the account of all it did not.

    Every reading received ends in exactly one of: a row of ``rows``, ``withheld_rows``, ``rejections``.
    ``withheld_values`` and ``implausible`` count values inside readings, by (reason, field) and field.
    """

    rows: pl.DataFrame
    rejections: Sequence[Rejection] = ()
    withheld_rows: Mapping[Withheld, int] = field(default_factory=dict)
    withheld_values: Mapping[tuple[Withheld, str], int] = field(default_factory=dict)
    implausible: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """A message on its way to quarantine, already sealed: nothing in it can be read without the owner's key.

    ``digest`` is a keyed digest (HMAC) of topic and payload; a second arrival of the same message adds to
    ``seen`` and not a row. ``sealed`` opens to topic, content type, time of receipt and payload.
    """

    gateway_key: int | None
    owner_key: int | None
    reason: Reason
    codec: str
    readings: int
    size_bytes: int
    digest: bytes
    sealed: bytes
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sequences:
    """The sequence numbers of one gateway's messages in one batch, as inclusive ranges, ascending and disjoint.

    ``stream_digest`` is a keyed 63-bit digest of the run that the numbers belong to (RawMessage.stream).
    """

    gateway_key: int
    stream_digest: int
    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a gateway's messages are committed, as the database knows it after a commit.

    Every number from 1 up to ``sequence`` is; up to ``highest`` all are but those in ``missing`` (inclusive
    ranges, oldest first, at most 64 named); ``missing_count`` counts all of them.
    """

    gateway_key: int
    stream_digest: int
    sequence: int
    highest: int
    missing: tuple[tuple[int, int], ...] = ()
    missing_count: int = 0


@dataclass(frozen=True, slots=True)
class CodecState:
    """What a codec remembers of a gateway, sealed. Of several versions the highest is the newest."""

    gateway_key: int
    codec: str
    version: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Write:
    """One transaction's worth: rows, quarantined messages, sequence numbers and what codecs remember, under one plan
    version.
    """

    rows: pl.DataFrame
    plan_version: int
    quarantined: Sequence[QuarantinedMessage] = ()
    sequences: Sequence[Sequences] = ()
    codec_states: Sequence[CodecState] = ()


@dataclass(frozen=True, slots=True)
class Written:
    """What a committed transaction did with ``Write.rows``: stored + duplicate = rows.

    ``merged`` (added fields to a stored reading) and ``conflict`` (contradicted one) are parts of ``duplicate``.
    ``late`` is the part of ``stored`` that went to the late table. ``quarantined_again`` counts messages whose
    digest was known already. ``watermarks``: the state after commit of every gateway in ``Write.sequences``.
    ``forgotten_gateways``: those of ``Write.codec_states`` of which nothing may be remembered.
    """

    stored: int
    duplicate: int
    merged: int = 0
    conflict: int = 0
    late: int = 0
    quarantined_again: int = 0
    seconds: float = 0.0
    watermarks: Sequence[Watermark] = ()
    forgotten_gateways: Sequence[int] = ()


def empty_decoded() -> pl.DataFrame:
    """A decoded frame with no rows and no field columns."""
    return pl.DataFrame(schema=dict(DECODED_SCHEMA))


def empty_readings() -> pl.DataFrame:
    """A reading frame with no rows and no field columns."""
    return pl.DataFrame(schema=dict(READING_SCHEMA))


def field_columns(frame: pl.DataFrame) -> list[str]:
    """The catalogue fields that occur in ``frame``, in the catalogue's order."""
    present = set(frame.columns)
    return [name for name in FIELD_NAMES if name in present]


def check_schema(frame: pl.DataFrame, base: Mapping[str, pl.DataType]) -> None:
    """Assert that ``frame`` has the columns of ``base`` plus catalogue fields, each of its dtype.

    Raises:
        AssertionError: naming the first column that is missing, unknown or of another dtype.

    """
    for name, dtype in base.items():
        assert name in frame.columns, f"column {name} is missing"  # noqa: S101 - an invariant, not input
        assert frame.schema[name] == dtype, f"column {name} is {frame.schema[name]}, not {dtype}"  # noqa: S101
    for name, dtype in frame.schema.items():
        if name not in base:
            assert name in FIELD_SCHEMA, f"column {name} is not in the catalogue"  # noqa: S101
            assert dtype == FIELD_SCHEMA[name], f"column {name} is {dtype}, not {FIELD_SCHEMA[name]}"  # noqa: S101
