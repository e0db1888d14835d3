"""A rollup over hours that are long past by the real clock, so that a test moves through them at will.

``World`` holds what arrived: hot readings, and late ones by the hour of receipt. Partitions are made as the
service would have made them then; rows are put in by the administrator, as the worker would have.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from telemetry.maintenance.rollup import Passed, Rollup
from telemetry.model.fields import CATALOGUE, FIELD_BY_NAME, FIELD_INDEX, FieldKind
from telemetry.model.series import Aggregate, aggregate_of, has_extremes
from telemetry.model.sharing import Resolution
from tests.support import scalar_rollup as scalar
from tests.support.store import HOUR_US, Store, this_hour_us

MINUTE_US = 60_000_000
HOT_HOURS = 2
_ADMINISTRATORS: dict[int, Any] = {}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIELDS = ("ac_power_w", "energy_total_wh", "battery_soc_pct", "alert_bits")

Samples = dict[int, dict[str, dict[int, float]]]  # device → field → instant → value
Windows = dict[tuple[int, str, int, int, int], scalar.Value]  # device, field, rank, grid, start


def when(instant_us: int) -> datetime:
    return _EPOCH + timedelta(microseconds=instant_us)


def options(name: str) -> dict[str, Any]:
    """What the scalar reference must know of a field."""
    entry = FIELD_BY_NAME[name]
    kind = "status" if entry.kind is FieldKind.STATUS else entry.kind.value
    if kind == "state" and aggregate_of(entry) is Aggregate.LAST:
        kind = "last"
    return {"kind": kind, "step": entry.step, "extremes": has_extremes(entry)}


async def administrator(store: Store) -> Any:
    """One connection for all that a test sets up."""
    key = id(store)
    if key not in _ADMINISTRATORS or _ADMINISTRATORS[key].is_closed():
        _ADMINISTRATORS[key] = await store.admin()
    return _ADMINISTRATORS[key]


async def clear(store: Store) -> None:
    """Empty tables, no partitions of hours, no pass begun."""
    admin = await administrator(store)
    rows = await admin.fetch(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent IN ('readings.hot'::regclass, 'readings.late'::regclass, 'readings.series'::regclass)"
    )
    for row in rows:
        await admin.execute(f"DROP TABLE {row[0]}")
    await admin.execute(
        "TRUNCATE readings.rollup_state, readings.sealed_hour, consent.owner CASCADE;"
        " UPDATE readings.rollup_pass SET as_of = NULL, since = NULL, done_as_of = NULL, done_since = NULL"
    )


async def make_hour(store: Store, hour_us: int) -> None:
    """The partitions that exist once an hour has begun."""
    admin = await administrator(store)
    for kind in ("hot", "late"):
        await admin.execute("SELECT readings.make_partition($1, $2)", kind, when(hour_us))
        name = f"{kind}_{when(hour_us):%Y%m%d%H}"
        await admin.execute(f"ALTER TABLE readings.{name} OWNER TO telemetry_owner")
        await admin.execute(f"GRANT SELECT, INSERT, UPDATE ON readings.{name} TO telemetry_ingest")


async def keep(store: Store, device: int, resolution: Resolution, timezone: str = "UTC", days: int = 1098) -> None:
    """Register a device, if need be, whose class keeps every field at ``resolution`` for ``days``."""
    admin = await administrator(store)
    kept = bytes([resolution.rank] * len(CATALOGUE))
    plan_class = await admin.fetchval(
        "INSERT INTO consent.plan_class (plan_class, digest, keep, kept_resolution, retention_days)"
        " SELECT (SELECT max(plan_class) + 1 FROM consent.plan_class), sha256($1 || int4send($2)), $1, $1,"
        " array_fill($2::smallint, ARRAY[9])"
        " ON CONFLICT (digest) DO UPDATE SET keep = EXCLUDED.keep RETURNING plan_class",
        kept,
        days,
    )
    await admin.execute(
        "INSERT INTO consent.owner (owner_key, region, public_key)"
        " VALUES ($1, 'eu', decode(repeat('00', 1216), 'hex')) ON CONFLICT DO NOTHING",
        device,
    )
    await admin.execute("INSERT INTO consent.site (site_key, owner_key) VALUES ($1, $1) ON CONFLICT DO NOTHING", device)
    await admin.execute(
        "INSERT INTO consent.site_place (site_key, timezone) VALUES ($1, $2)"
        " ON CONFLICT (site_key) DO UPDATE SET timezone = EXCLUDED.timezone",
        device,
        timezone,
    )
    blind = device.to_bytes(16, "big", signed=True)
    await admin.execute(
        "INSERT INTO consent.gateway (gateway_key, site_key, name_blind, backfill_us) VALUES ($1, $1, $2, 0)"
        " ON CONFLICT DO NOTHING",
        device,
        blind,
    )
    await admin.execute(
        "INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind, plan_class)"
        " VALUES ($1, $1, $1, 1, $2, $3) ON CONFLICT (device_key) DO UPDATE SET plan_class = EXCLUDED.plan_class",
        device,
        blind,
        plan_class,
    )


async def arrive(store: Store, samples: Samples, *, received_us: int | None = None) -> None:
    """Put readings into the hot table, or the late one with their hour of receipt. Fields of one instant merge."""
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for device, fields in samples.items():
        for name, values in fields.items():
            for at, value in values.items():
                rows.setdefault((at, device), {})[name] = value
    admin = await administrator(store)
    table = "hot" if received_us is None else "late"
    columns = ["ts", "device_key", "plan_version", *FIELDS] + (["received_hour"] if received_us is not None else [])
    more = [] if received_us is None else [when(received_us // HOUR_US * HOUR_US)]
    marks = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    keys = "(ts, device_key)" if table == "hot" else "(ts, device_key, received_hour)"
    fill = ", ".join(f"{name} = coalesce(EXCLUDED.{name}, r.{name})" for name in FIELDS)
    await admin.executemany(
        f"INSERT INTO readings.{table} AS r ({', '.join(columns)}) VALUES ({marks})"
        f" ON CONFLICT {keys} DO UPDATE SET {fill}",
        [[when(at), device, 1, *(values.get(name) for name in FIELDS), *more] for (at, device), values in rows.items()],
    )


async def run(store: Store, now_us: int, **more: Any) -> Passed:
    return await Rollup(store.role("rollup"), lambda: now_us, hot_hours=HOT_HOURS, **more).run()


async def stored(store: Store) -> Windows:
    """The newest versions that hold something."""
    admin = await administrator(store)
    rows = await admin.fetch(
        "SELECT DISTINCT ON (device_key, window_start, resolution, grid, field) *,"
        " (extract(epoch FROM window_start) * 1000000)::bigint AS start,"
        " (extract(epoch FROM last_at) * 1000000)::bigint AS last FROM readings.series"
        " ORDER BY device_key, window_start, resolution, grid, field, effective_at DESC"
    )
    names = {index: name for name, index in FIELD_INDEX.items()}
    return {
        (row["device_key"], names[row["field"]], row["resolution"], row["grid"], row["start"]): scalar.Value(
            row["amount"],
            row["covered_ms"],
            row["last"],
            row["lowest"],
            row["highest"],
            (1 << 60) - 1 if row["slots"] is None else row["slots"],
        )
        for row in rows
        if row["covered_ms"] > 0
    }


@dataclass
class Reference:
    """The series as plain loops have it: hours are frozen in order, then late hours fill uncovered slots."""

    hot: Samples = field(default_factory=dict)
    late: dict[int, Samples] = field(default_factory=dict)  # by hour of receipt
    windows: Windows = field(default_factory=dict)
    frozen: set[int] = field(default_factory=set)
    filled: set[int] = field(default_factory=set)
    resolution: str = "PT15M"
    rank: int = 2

    def receive(self, samples: Samples, received_us: int | None = None) -> None:
        into = self.hot if received_us is None else self.late.setdefault(received_us // HOUR_US * HOUR_US, {})
        for device, fields in samples.items():
            for name, values in fields.items():
                into.setdefault(device, {}).setdefault(name, {}).update(values)

    def hour(self, hour_us: int, until_us: int) -> None:
        """Recompute the windows that start in an hour and end by ``until_us`` from all hot samples."""
        inside = range(hour_us, hour_us + HOUR_US)
        self.windows = {key: value for key, value in self.windows.items() if key[4] not in inside}
        for device, fields in self.hot.items():
            for name, values in fields.items():
                found = scalar.rollup_field(values, self.resolution, **options(name))
                for start, value in found.items():
                    if start in inside and scalar.window_of(start, self.resolution).end <= until_us:
                        self.windows[device, name, self.rank, 0, start] = value

    def run(self, now_us: int, *, first_hour_us: int, last_hour_us: int) -> None:
        """One pass: every hour that is not frozen anew, then freeze what is hot no longer, then late hours in order."""
        as_of = (now_us - 5 * MINUTE_US) // (15 * MINUTE_US) * (15 * MINUTE_US)
        for hour in range(first_hour_us, last_hour_us + 1, HOUR_US):
            if hour not in self.frozen:
                self.hour(hour, as_of)
            if hour // HOUR_US <= now_us // HOUR_US - HOT_HOURS - 1:
                self.frozen.add(hour)
        open_hours = [hour for hour in range(first_hour_us, last_hour_us + 1, HOUR_US) if hour not in self.frozen]
        for hour in sorted(set(self.late) - self.filled):
            if hour + HOUR_US <= as_of:
                self.late_hour(hour, open_hours[0])
                self.filled.add(hour)

    def late_hour(self, hour_us: int, frozen_us: int) -> None:
        """Fill what was received in an hour; what came in the hour before is seen again and adds nothing by itself."""
        for device, fields in self.late.get(hour_us, {}).items():
            for name in {*fields, *self.late.get(hour_us - HOUR_US, {}).get(device, {})}:
                samples = {
                    at: value
                    for received in (hour_us - HOUR_US, hour_us)
                    for at, value in self.late.get(received, {}).get(device, {}).get(name, {}).items()
                }
                own = {key[4]: value for key, value in self.windows.items() if key[:2] == (device, name)}
                before = set(own)
                scalar.fill(own, samples, self.resolution, until_us=frozen_us, **options(name))
                for start in set(own) | before:
                    self.windows[device, name, self.rank, 0, start] = own[start]


def walk(seed: int, from_us: int, to_us: int, devices: Iterable[int], every_s: tuple[int, int]) -> Samples:
    """Plausible samples with gaps, resets and repeated milliseconds."""
    chance = random.Random(seed)
    made: Samples = {}
    for device in devices:
        fields: dict[str, dict[int, float]] = {name: {} for name in FIELDS}
        at, counter = from_us + chance.randrange(90_000_000), chance.randrange(10**6)
        while at < to_us:
            counter = 0 if chance.random() < 0.02 else counter + chance.randrange(2000)
            values = {
                "ac_power_w": chance.randrange(-4000, 8000) / 2,
                "energy_total_wh": counter / 8,
                "battery_soc_pct": chance.randrange(1000) / 10,
                "alert_bits": chance.randrange(4),
            }
            for name, value in values.items():
                if chance.random() < 0.9:
                    fields[name][at] = value
            far = chance.random() < 0.03
            at += chance.randrange(300, 5000) * 1_000_000 if far else chance.randrange(*every_s) * 1_000_000
            at += chance.choice([0, 0, 1, 999, 1000])
        made[device] = fields
    return made


def base_us() -> int:
    """An hour long enough ago that every hour a test walks through is over."""
    return this_hour_us() - 60 * HOUR_US
