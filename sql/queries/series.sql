-- The series as rollup and views use it. Instants travel as µs since 1970; what may be null is read as a stand-in, so
-- that every row of a binary COPY has one width (telemetry.store.copying).

-- name: read
SELECT device_key, window_start, effective_at, amount, covered_ms,
       coalesce(last_at, '-infinity'), coalesce(lowest, -9223372036854775808), coalesce(highest, -9223372036854775808),
       coalesce(slots, 1152921504606846975), resolution, grid, field
FROM readings.series
WHERE device_key = ANY ($1::bigint[]) AND field = ANY ($2::smallint[]) AND resolution = ANY ($3::smallint[])
    AND window_start >= 'epoch'::timestamptz + $4::bigint * interval '1 microsecond'
    AND window_start < 'epoch'::timestamptz + $5::bigint * interval '1 microsecond'
    AND effective_at <= 'epoch'::timestamptz + $6::bigint * interval '1 microsecond'

-- In braces, put in by telemetry.store.series: columns from the catalogue, and one of two tables.
-- name: read_rows
SELECT ts, device_key, plan_version, {columns}
FROM readings.{table}
WHERE ts >= 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
    AND ts < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'
    AND ($3::bigint[] IS NULL OR device_key = ANY ($3::bigint[])) {more}

-- name: occurring
SELECT {flags} FROM readings.{table}
WHERE ts >= 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
    AND ts < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond' {more}

-- name: ensure
SELECT readings.ensure_series(ARRAY(
    SELECT 'epoch'::timestamptz + us * interval '1 microsecond' FROM unnest($1::bigint[]) AS us
));

-- name: write
INSERT INTO readings.series AS s (
    device_key, field, resolution, grid, window_start, effective_at, amount, covered_ms, last_at, lowest, highest, slots
)
SELECT device_key, field, resolution, grid, 'epoch'::timestamptz + window_us * interval '1 microsecond',
       'epoch'::timestamptz + effective_us * interval '1 microsecond', amount, covered_ms,
       'epoch'::timestamptz + last_us * interval '1 microsecond', lowest, highest,
       nullif(slots, 1152921504606846975)
FROM unnest(
    $1::bigint[], $2::smallint[], $3::smallint[], $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[],
    $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[]
) AS v (
    device_key, field, resolution, grid, window_us, effective_us, amount, covered_ms, last_us, lowest, highest, slots
)
ON CONFLICT (device_key, window_start, resolution, grid, field, effective_at) DO UPDATE SET
    amount = EXCLUDED.amount, covered_ms = EXCLUDED.covered_ms, last_at = EXCLUDED.last_at,
    lowest = EXCLUDED.lowest, highest = EXCLUDED.highest, slots = EXCLUDED.slots

-- All versions of these windows.
-- name: delete_windows
DELETE FROM readings.series AS s
USING unnest($1::bigint[], $2::smallint[], $3::smallint[], $4::smallint[], $5::bigint[])
    AS v (device_key, field, resolution, grid, window_us)
WHERE s.device_key = v.device_key AND s.field = v.field AND s.resolution = v.resolution AND s.grid = v.grid
    AND s.window_start = 'epoch'::timestamptz + v.window_us * interval '1 microsecond'

-- Versions that a newer one has replaced for long enough.
-- name: delete_superseded
WITH old AS (
    SELECT s.device_key, s.window_start, s.resolution, s.grid, s.field, s.effective_at
    FROM (
        SELECT device_key, window_start, resolution, grid, field, effective_at,
               lead(effective_at) OVER (
                   PARTITION BY device_key, window_start, resolution, grid, field ORDER BY effective_at
               ) AS replaced_at
        FROM readings.series WHERE device_key = ANY ($1::bigint[])
    ) AS s
    WHERE s.replaced_at <= 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'
)
DELETE FROM readings.series AS s USING old
WHERE s.device_key = old.device_key AND s.window_start = old.window_start AND s.resolution = old.resolution
    AND s.grid = old.grid AND s.field = old.field AND s.effective_at = old.effective_at

-- What started before the field's own limit.
-- name: delete_expired
DELETE FROM readings.series AS s
USING unnest($2::smallint[], $3::bigint[]) AS v (field, before_us)
WHERE s.device_key = ANY ($1::bigint[]) AND s.field = v.field
    AND s.window_start < 'epoch'::timestamptz + v.before_us * interval '1 microsecond'

-- The next devices that have anything in the series: a skip over the index, not a scan.
-- name: devices_after
WITH RECURSIVE found AS (
    (SELECT device_key, 1 AS n FROM readings.series WHERE device_key > $1 ORDER BY device_key LIMIT 1)
    UNION ALL
    SELECT (SELECT s.device_key FROM readings.series AS s WHERE s.device_key > f.device_key ORDER BY 1 LIMIT 1), f.n + 1
    FROM found AS f WHERE f.device_key IS NOT NULL AND f.n < $2
)
SELECT device_key FROM found WHERE device_key IS NOT NULL ORDER BY 1

-- name: drop_series
SELECT readings.drop_series('epoch'::timestamptz + $1::bigint * interval '1 microsecond')

-- Devices with windows finer than what is kept of the field, and from when to when they reach.
-- name: coarsenable
SELECT s.device_key, (extract(epoch FROM min(s.window_start)) * 1000000)::bigint AS first,
       (extract(epoch FROM max(s.window_start)) * 1000000)::bigint AS last
FROM readings.series AS s
JOIN unnest($1::bigint[], $2::smallint[], $3::smallint[]) AS k (device_key, field, rank)
    ON s.device_key = k.device_key AND s.field = k.field AND s.resolution < k.rank
WHERE s.device_key = ANY ($1::bigint[])
GROUP BY s.device_key
ORDER BY s.device_key

-- What is not kept of these devices any more: all fields but those given.
-- name: delete_unkept
DELETE FROM readings.series AS s
WHERE s.device_key = ANY ($1::bigint[]) AND NOT s.field = ANY ($2::smallint[])
