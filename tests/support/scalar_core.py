"""The privacy core as a plain loop: the reference that the vectorised one must equal.

Written to be checked by eye against the numbered rules of SEMANTICS.md, and for nothing else: it shares no code
with src/telemetry/privacy.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from telemetry.model.batch import Reason, Withheld
from telemetry.model.fields import CATALOGUE
from telemetry.model.identity import Device, Enrolment, Gateway


@dataclass(frozen=True)
class Message:
    """Who published it (None: nobody we know) and when it arrived."""

    gateway: Gateway | None
    received_us: int


@dataclass(frozen=True)
class Limits:
    now_us: int
    future_limit_us: int
    tick_us: int


@dataclass
class Outcome:
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejections: Counter[tuple[int, Reason]] = field(default_factory=Counter)
    withheld_rows: Counter[Withheld] = field(default_factory=Counter)
    withheld_values: Counter[tuple[Withheld, str]] = field(default_factory=Counter)
    implausible: Counter[str] = field(default_factory=Counter)


def scalar_protect(
    rows: Sequence[Mapping[str, Any]],
    messages: Sequence[Message],
    devices: Mapping[tuple[int, str], Device],
    keep: Sequence[Mapping[str, bool]],
    withhold: Sequence[Withheld | None],
    limits: Limits,
) -> Outcome:
    """``devices``: by (site key, serial). ``keep[class][field]``. Rows: DECODED_SCHEMA and fields, as dicts."""
    outcome = Outcome()
    for row in rows:
        message = messages[row["message"]]
        gateway = message.gateway

        def reject(reason: Reason, number: int = row["message"]) -> None:
            outcome.rejections[number, reason] += 1

        if gateway is None:
            reject(Reason.UNKNOWN_GATEWAY)
            continue
        if gateway.revoked:
            reject(Reason.REVOKED_GATEWAY)
            continue

        # Rule 6: without a time of its own a reading gets that of receipt, cut to a tick.
        ts = row["ts"]
        if ts is None:
            ts = message.received_us // limits.tick_us * limits.tick_us

        # Decision 0030: what is older than the site's tenure belongs to somebody who left.
        if ts < gateway.tenure_from_us:
            outcome.withheld_rows[Withheld.OTHER_TENURE] += 1
            continue

        # Rule 1: a device is (site, serial), and a gateway speaks for its own site only.
        serial = row["serial"]
        device = devices.get((gateway.site_key, serial))
        if device is None:
            if serial is None or not 1 <= len(serial) <= 64:
                reject(Reason.BAD_SERIAL)
            elif gateway.enrolment is Enrolment.KNOWN:
                reject(Reason.UNKNOWN_DEVICE)
            else:
                reject(Reason.DEVICE_LIMIT)
            continue

        # Rule 5: erased owners' readings are withheld, whatever they hold.
        whole = withhold[device.plan_class]
        if whole is not None:
            outcome.withheld_rows[whole] += 1
            continue

        # Rule 2: [now - backfill limit, now + 5 min], both included.
        if ts < limits.now_us - gateway.backfill_us:
            reject(Reason.TOO_OLD)
            continue
        if ts > limits.now_us + limits.future_limit_us:
            reject(Reason.IN_THE_FUTURE)
            continue

        values: dict[str, float | int] = {}
        masked = False
        for entry in CATALOGUE:
            value = row.get(entry.name)
            if value is None:
                continue
            # Rule 7: only what the settings admit. What they do not is not even looked at.
            if not keep[device.plan_class][entry.name]:
                masked = True
                outcome.withheld_values[Withheld.NOT_KEPT, entry.name] += 1
            # Rule 4: range, NaN, infinity.
            elif math.isnan(value) or value < entry.minimum or value > entry.maximum:
                outcome.implausible[entry.name] += 1
            else:
                values[entry.name] = value

        if values:
            outcome.rows.append({"ts": ts, "device_key": device.device_key, **values})
        elif masked:
            outcome.withheld_rows[Withheld.NOT_KEPT] += 1
        else:
            reject(Reason.EMPTY)
    return outcome
