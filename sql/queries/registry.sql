-- name: version
SELECT version FROM consent.state

-- name: state
SELECT version, feed_from FROM consent.state

-- name: changes
SELECT DISTINCT kind, key FROM consent.change WHERE version > $1 LIMIT $2

-- name: gateways
SELECT g.gateway_key, g.site_key, s.owner_key, g.name_blind, g.enrolment, g.device_limit, g.backfill_us,
       g.revoked_at IS NOT NULL AS revoked, (extract(epoch FROM s.tenure_from) * 1000000)::bigint AS tenure_from_us,
       o.erased_at IS NOT NULL AS erased
FROM consent.gateway AS g
JOIN consent.site AS s USING (site_key)
JOIN consent.owner AS o USING (owner_key)

-- name: gateways_of
SELECT g.gateway_key, g.site_key, s.owner_key, g.name_blind, g.enrolment, g.device_limit, g.backfill_us,
       g.revoked_at IS NOT NULL AS revoked, (extract(epoch FROM s.tenure_from) * 1000000)::bigint AS tenure_from_us,
       o.erased_at IS NOT NULL AS erased
FROM consent.gateway AS g
JOIN consent.site AS s USING (site_key)
JOIN consent.owner AS o USING (owner_key)
WHERE g.gateway_key = ANY ($1::bigint[]) OR g.site_key = ANY ($2::bigint[])

-- name: sites_of
SELECT site_key FROM consent.site WHERE owner_key = ANY ($1::bigint[])

-- name: classes
SELECT plan_class, keep, kept_resolution, retention_days, withhold FROM consent.plan_class WHERE plan_class >= $1

-- name: copy_devices
-- Every column is of fixed width and never null: the reader takes the binary COPY stream as an array of records.
SELECT device_key, site_key, gateway_key, kind, serial_blind, plan_class FROM consent.device

-- name: devices_of
SELECT device_key, site_key, gateway_key, kind, serial_blind, plan_class
FROM consent.device
WHERE site_key = ANY ($1::bigint[])

-- name: lock_enrolment
-- One gateway's devices are counted and added by one transaction at a time, or its limit could be passed. Advisory
-- locks, because a row lock would need a right to update; 64 of them, so that any batch fits the lock table; in
-- ascending order, so that two batches cannot wait for each other.
SELECT pg_advisory_xact_lock(7311, bucket)
FROM (
    SELECT DISTINCT (gateway_key & 63)::integer AS bucket FROM unnest($1::bigint[]) AS gateway_key ORDER BY 1
) AS buckets

-- name: room
-- How many more devices each gateway may enrol, for those that may enrol at all. Joins of the batch itself would be
-- planned as nested loops over thousands of rows, so the batch meets this answer in the worker.
SELECT g.gateway_key, g.site_key, s.owner_key, s.plan_classes,
       g.device_limit - (
           SELECT count(*) FROM consent.device AS d WHERE d.gateway_key = g.gateway_key AND d.retired_at IS NULL
       ) AS room
FROM consent.gateway AS g
JOIN consent.site AS s USING (site_key)
JOIN consent.owner AS o USING (owner_key)
WHERE g.gateway_key = ANY ($1::bigint[]) AND g.revoked_at IS NULL AND g.enrolment = 'auto' AND o.erased_at IS NULL

-- name: insert_devices
-- The unique key (site_key, serial_blind) decides between workers; rows go in in its order, so that they cannot
-- wait for each other crosswise. This does not bump the version: a new device changes nothing for batches in
-- flight, and another worker that meets it enrols it itself and is given this one.
INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind, plan_class)
SELECT device_key, site_key, gateway_key, kind, serial_blind, plan_class
FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::smallint[], $5::bytea[], $6::integer[])
    AS n (device_key, site_key, gateway_key, kind, serial_blind, plan_class)
ORDER BY site_key, serial_blind
ON CONFLICT (site_key, serial_blind) DO NOTHING
RETURNING device_key

-- name: seal_serials
INSERT INTO vault.entry (owner_key, subject_kind, subject_key, attribute, sealed)
SELECT owner_key, 'device', device_key, 'serial', sealed
FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS n (owner_key, device_key, sealed)

-- name: find_devices
SELECT d.device_key, d.site_key, d.gateway_key, d.kind, d.serial_blind, d.plan_class
FROM unnest($1::bigint[], $2::bytea[]) AS wanted (site_key, serial_blind)
JOIN consent.device AS d USING (site_key, serial_blind)

-- name: count_elsewhere
SELECT count(*)
FROM consent.device AS d
WHERE d.device_key = ANY ($1::bigint[])
  AND EXISTS (
      SELECT FROM consent.device AS o WHERE o.serial_blind = d.serial_blind AND o.site_key <> d.site_key
  )

-- name: public_keys
SELECT owner_key, public_key FROM consent.owner WHERE owner_key = ANY ($1::bigint[]) AND erased_at IS NULL
