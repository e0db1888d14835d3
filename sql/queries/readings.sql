-- Statements of the sink. In braces, put in by telemetry.store.merge: identifiers from the catalogue, names of
-- partitions, and the span of time of the batch (so that little of a large table is looked at).

-- name: hold_version
SELECT consent.hold_version();

-- name: ensure_partitions
SELECT readings.ensure_partitions($1, $2);

-- Hours since 1970: the hot partitions there are, and the oldest hour that could still get one.
-- name: hot_partitions
SELECT
    (extract(epoch FROM date_trunc('hour', clock_timestamp(), 'UTC'))::bigint / 3600) AS this_hour,
    ARRAY(
        SELECT c.relname::text
        FROM pg_catalog.pg_inherits AS i
        JOIN pg_catalog.pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'readings.hot'::regclass AND c.relname LIKE 'hot%'
    ) AS names;

-- name: drop_expired_partitions
SELECT readings.drop_expired_partitions($1);

-- One writer of late rows at a time: their key spans partitions, so no index can refuse a repetition.
-- name: lock_late
SELECT pg_advisory_xact_lock(7310, 3);

-- name: clear_staging
TRUNCATE pg_temp.staging_readings;

-- In key order, so that two writers with overlapping keys wait for one another and never in a circle.
-- name: insert_hot
INSERT INTO {target} ({columns})
SELECT {columns} FROM pg_temp.staging_readings ORDER BY ts, device_key
ON CONFLICT (ts, device_key) DO NOTHING;

-- name: insert_late
INSERT INTO {target} ({columns}, received_hour)
SELECT {columns}, date_trunc('hour', now(), 'UTC') FROM pg_temp.staging_readings AS s
WHERE NOT EXISTS (SELECT FROM {target} AS t WHERE t.ts = s.ts AND t.device_key = s.device_key AND {within})
ORDER BY ts, device_key;

-- Rows just inserted equal themselves and count in neither.
-- name: compare
SELECT count(*) FILTER (WHERE {adds}) AS adding, count(*) FILTER (WHERE {contradicts}) AS contradicting
FROM pg_temp.staging_readings AS s JOIN {target} AS t ON t.ts = s.ts AND t.device_key = s.device_key AND {within};

-- Only null fields are filled, so whether a row contradicts can be asked after the update as well as before.
-- name: fill_null_fields
WITH addition AS (
    SELECT s.*
    FROM pg_temp.staging_readings AS s
    JOIN {target} AS t ON t.ts = s.ts AND t.device_key = s.device_key AND {within}
    WHERE {adds}
    ORDER BY s.ts, s.device_key
    FOR UPDATE OF t
), filled AS (
    UPDATE {target} AS t SET {fill}, plan_version = greatest(t.plan_version, s.plan_version)
    FROM addition AS s
    WHERE t.ts = s.ts AND t.device_key = s.device_key AND {within}
    RETURNING ({contradicts}) IS TRUE AS contradicts
)
SELECT count(*) FILTER (WHERE NOT contradicts) FROM filled;

-- A gap is what is missing between 1 and the highest number. Beyond 64 kB of ranges only the first 2048 are kept.
-- name: record_sequences
WITH sent AS (
    SELECT gateway_key, stream_digest, ranges::int8multirange AS ranges
    FROM unnest($1::bigint[], $2::bigint[], $3::text[]) AS s (gateway_key, stream_digest, ranges)
), kept AS (
    INSERT INTO readings.sequence AS q (gateway_key, stream_digest, received, highest)
    SELECT
        gateway_key,
        stream_digest,
        CASE WHEN pg_column_size(ranges) > 65536 THEN readings.first_ranges(ranges, 2048) ELSE ranges END,
        upper(ranges) - 1
    FROM sent
    ORDER BY gateway_key, stream_digest
    ON CONFLICT (gateway_key, stream_digest) DO UPDATE SET
        received = CASE
            WHEN pg_column_size(q.received + EXCLUDED.received) > 65536
                THEN readings.first_ranges(q.received + EXCLUDED.received, 2048)
            ELSE q.received + EXCLUDED.received
        END,
        highest = greatest(q.highest, EXCLUDED.highest)
    RETURNING gateway_key, stream_digest, highest, int8multirange(int8range(1, highest + 1)) - received AS gaps
)
SELECT
    gateway_key,
    stream_digest,
    CASE WHEN isempty(gaps) THEN highest ELSE lower(gaps) - 1 END AS sequence,
    highest,
    CASE WHEN NOT isempty(gaps) THEN ARRAY(SELECT gap FROM unnest(gaps) AS gap LIMIT 64) END AS missing,
    CASE
        WHEN isempty(gaps) THEN 0
        ELSE (SELECT sum(upper(gap) - lower(gap)) FROM unnest(gaps) AS gap)
    END::bigint AS missing_count
FROM kept;
