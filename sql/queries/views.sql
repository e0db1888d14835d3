-- name: look
SELECT set_config('telemetry.recipient', $1, true), set_config('telemetry.purpose', $2, true),
    set_config('telemetry.owner', $3, true), set_config('telemetry.scope', $4, true), now() AS now

-- Other owners than before, within the same snapshot.
-- name: scope
SELECT set_config('telemetry.scope', $1, true)

-- What has a name, device by device.
-- name: names
SELECT devices, sites, owners, epochs FROM consent.seen_names()

-- Settings of these owners alone: those of whom something is seen.
-- name: grants
SELECT * FROM consent.active_grant WHERE owner_key = ANY ($1::bigint[]) ORDER BY grant_key

-- name: denials
SELECT
    (SELECT closed_at FROM consent.recipient) AS closed_at,
    ARRAY(
        SELECT owner_key FROM consent.owner WHERE owner_key = ANY ($1::bigint[]) AND erased_at IS NOT NULL
    ) AS erased,
    ARRAY(SELECT policy FROM consent.policy WHERE expires_at <= now()) AS expired,
    EXISTS (SELECT FROM consent.restriction WHERE owner_key = ANY ($1::bigint[])) AS restricted,
    EXISTS (SELECT FROM consent.objection WHERE owner_key = ANY ($1::bigint[])) AS objected,
    ARRAY(SELECT owner_key FROM consent.relation WHERE owner_key = ANY ($1::bigint[]) ORDER BY owner_key) AS related,
    ARRAY(SELECT epoch FROM consent.relation WHERE owner_key = ANY ($1::bigint[]) ORDER BY owner_key) AS epochs

-- name: restrictions
SELECT owner_key, from_at, lifted_at
FROM consent.restriction
WHERE owner_key = ANY ($1::bigint[])
ORDER BY owner_key, from_at

-- name: objections
SELECT owner_key, purpose, recipient_key
FROM consent.objection
WHERE owner_key = ANY ($1::bigint[]) AND (withdrawn_at IS NULL OR now() < withdrawn_at)

-- Policies are hashed and use no index, so statements say themselves which rows they want.
-- name: seen
SELECT seen.devices, seen.sites FROM consent.sight() AS seen

-- name: devices
SELECT d.device_key, d.kind, d.site_key, s.owner_key, s.tenure_from, s.tenure_until
FROM consent.device AS d JOIN consent.site AS s USING (site_key)
WHERE d.device_key = ANY ($1::bigint[]) AND s.site_key = ANY ($2::bigint[])

-- name: places
SELECT p.site_key, p.country, p.region, p.timezone, l.label
FROM consent.site_place AS p LEFT JOIN consent.site_label AS l USING (site_key)
WHERE p.site_key = ANY ($1::bigint[])

-- name: record
INSERT INTO audit.read (recipient_key, owner_key, purpose, way, fields, resolution, from_at, to_at)
SELECT $1, owner_key, $3, $4, $5::text[], $6, $7, $8 FROM unnest($2::bigint[]) AS owner_key

-- Devices whose windows are in the series as their plan says: the rollup has been at them since then ($2, in µs).
-- name: kept
SELECT device_key, kept_resolution
FROM consent.kept_since('epoch'::timestamptz + $2::bigint * interval '1 microsecond')
WHERE device_key = ANY ($1::bigint[])

-- Where the newest window starts, of any of these fields before each device's bound, if it is effective and holds
-- something; in the order asked.
-- name: newest
SELECT (extract(epoch FROM (
    SELECT s.window_start FROM readings.series AS s
    WHERE s.device_key = v.device_key AND s.field = ANY ($3::smallint[])
        AND s.window_start < 'epoch'::timestamptz + v.before_us * interval '1 microsecond'
        AND s.window_start >= 'epoch'::timestamptz + $4::bigint * interval '1 microsecond'
        AND s.effective_at <= 'epoch'::timestamptz + $5::bigint * interval '1 microsecond'
        AND s.covered_ms > 0
    ORDER BY s.window_start DESC
    LIMIT 1
)) * 1000000)::bigint AS start
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS v (device_key, before_us, place)
ORDER BY v.place

-- The same of one field each.
-- name: newest_field
SELECT (extract(epoch FROM (
    SELECT s.window_start FROM readings.series AS s
    WHERE s.device_key = v.device_key AND s.field = v.field
        AND s.window_start < 'epoch'::timestamptz + v.before_us * interval '1 microsecond'
        AND s.window_start >= 'epoch'::timestamptz + $4::bigint * interval '1 microsecond'
        AND s.effective_at <= 'epoch'::timestamptz + $5::bigint * interval '1 microsecond'
        AND s.covered_ms > 0
    ORDER BY s.window_start DESC
    LIMIT 1
)) * 1000000)::bigint AS start
FROM unnest($1::bigint[], $2::bigint[], $3::smallint[])
    WITH ORDINALITY AS v (device_key, before_us, field, place)
ORDER BY v.place

-- name: position
SELECT done_us, seen FROM consent.reading_position()

-- name: renewed
SELECT owner_key FROM consent.renewed_since(
    'epoch'::timestamptz + $1::bigint * interval '1 microsecond', $2::text::pg_snapshot
) AS owner_key

-- Versions that take effect in a span, in binary COPY as telemetry.store.copying reads it.
-- name: versions
SELECT device_key, window_start, effective_at, covered_ms, resolution, grid, field
FROM readings.series
WHERE device_key = ANY ($1::bigint[]) AND field = ANY ($2::smallint[]) AND resolution = ANY ($3::smallint[])
    AND effective_at > 'epoch'::timestamptz + $4::bigint * interval '1 microsecond'
    AND effective_at <= 'epoch'::timestamptz + $5::bigint * interval '1 microsecond'
    AND window_start >= 'epoch'::timestamptz + $6::bigint * interval '1 microsecond'
    AND window_start < 'epoch'::timestamptz + $7::bigint * interval '1 microsecond'
