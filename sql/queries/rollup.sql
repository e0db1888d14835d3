-- Statements of the rollup and of retention, role telemetry_rollup. Instants travel as µs since 1970.

-- name: state
SELECT (extract(epoch FROM as_of) * 1000000)::bigint AS as_of, since::text AS since,
       (extract(epoch FROM done_as_of) * 1000000)::bigint AS done_as_of, done_since::text AS done_since
FROM readings.rollup_pass

-- A pass that was begun and not finished goes on as it was.
-- name: begin_pass
UPDATE readings.rollup_pass
SET as_of = 'epoch'::timestamptz + $1::bigint * interval '1 microsecond',
    since = pg_snapshot_xmin(pg_current_snapshot())
WHERE as_of IS NULL
    AND (done_as_of IS NULL OR done_as_of < 'epoch'::timestamptz + $1::bigint * interval '1 microsecond')

-- The finest resolution that any device is kept at (Resolution.rank): passes run on its grid.
-- name: finest
SELECT min(get_byte(c.kept_resolution, n)) FROM consent.plan_class AS c, generate_series(0, 254) AS n
WHERE n < octet_length(c.kept_resolution)
    AND EXISTS (SELECT FROM consent.device AS d WHERE d.plan_class = c.plan_class)

-- name: end_pass
UPDATE readings.rollup_pass SET done_as_of = as_of, done_since = since, as_of = NULL, since = NULL
WHERE as_of IS NOT NULL

-- Hours (since 1970) of hot partitions that are not rolled up for good, and whether they are sealed.
-- name: open_hours
SELECT hour, name LIKE 'sealed%' AS sealed FROM (
    SELECT c.relname::text AS name,
           (extract(epoch FROM to_timestamp(right(c.relname, 10) || '+00', 'YYYYMMDDHH24TZH')) / 3600)::bigint AS hour
    FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'readings.hot'::regclass
) AS partitions
WHERE NOT EXISTS (
    SELECT FROM readings.rollup_state AS s WHERE s.kind = 'hot' AND extract(epoch FROM s.hour) = partitions.hour * 3600
)
ORDER BY hour

-- name: open_late_hours
SELECT hour FROM (
    SELECT (extract(epoch FROM to_timestamp(right(c.relname, 10) || '+00', 'YYYYMMDDHH24TZH')) / 3600)::bigint AS hour
    FROM pg_catalog.pg_inherits AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'readings.late'::regclass
) AS partitions
WHERE NOT EXISTS (
    SELECT FROM readings.rollup_state AS s WHERE s.kind = 'late' AND extract(epoch FROM s.hour) = partitions.hour * 3600
)
ORDER BY hour

-- name: seal
SELECT readings.seal_hot('epoch'::timestamptz + $1::bigint * interval '1 hour', $2)

-- name: mark
INSERT INTO readings.rollup_state (kind, hour)
VALUES ($1, 'epoch'::timestamptz + $2::bigint * interval '1 hour')
ON CONFLICT DO NOTHING

-- Devices with readings in the span; with $3 only those with a row written by that transaction or a later one.
-- name: hot_devices
SELECT DISTINCT device_key FROM readings.hot
WHERE ts >= 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
    AND ts < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'
    AND ($3::text IS NULL OR age(xmin) <= age($3::text::xid8::xid))
ORDER BY device_key

-- name: late_devices
SELECT DISTINCT device_key FROM readings.late
WHERE received_hour = 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
ORDER BY device_key

-- name: devices
SELECT d.device_key, d.plan_class, coalesce(p.timezone, 'UTC') AS timezone
FROM consent.device AS d LEFT JOIN consent.site_place AS p USING (site_key)
WHERE d.device_key = ANY ($1::bigint[])

-- name: classes
SELECT plan_class, kept_resolution, retention_days FROM consent.plan_class WHERE plan_class = ANY ($1::integer[])

-- The longest that any class keeps anything, in days.
-- name: longest_days
SELECT max(days) FROM consent.plan_class AS c, unnest(c.retention_days) AS days
