-- name: device
SELECT d.device_key, d.site_key, d.kind, d.serial_blind, s.owner_key, o.public_key
FROM consent.device AS d
JOIN consent.site AS s USING (site_key)
JOIN consent.owner AS o USING (owner_key)
WHERE d.device_key = $1 AND d.retired_at IS NULL AND s.tenure_until IS NULL AND o.erased_at IS NULL
FOR NO KEY UPDATE OF d

-- name: lock_enrolment
-- As registry.lock_enrolment, for all gateways of a site: nothing enrols there meanwhile.
SELECT pg_advisory_xact_lock(7311, bucket)
FROM (
    SELECT DISTINCT (gateway_key & 63)::integer AS bucket FROM consent.gateway WHERE site_key = $1 ORDER BY 1
) AS buckets

-- name: lock_enrolment_of_device
SELECT pg_advisory_xact_lock(7311, bucket)
FROM (
    SELECT DISTINCT (g.gateway_key & 63)::integer AS bucket
    FROM consent.gateway AS g
    JOIN consent.device AS d USING (site_key)
    WHERE d.device_key = $1
    ORDER BY 1
) AS buckets

-- name: device_with
SELECT device_key, kind FROM consent.device WHERE site_key = $1 AND serial_blind = $2

-- name: retire
UPDATE consent.device AS d SET serial_blind = r.serial_blind, retired_at = now()
FROM unnest($1::bigint[], $2::bytea[]) AS r (device_key, serial_blind)
WHERE d.device_key = r.device_key

-- name: set_serial
UPDATE consent.device SET serial_blind = $2 WHERE device_key = $1

-- name: seal_serial
INSERT INTO vault.entry (owner_key, subject_kind, subject_key, attribute, sealed)
VALUES ($1, 'device', $2, 'serial', $3)
ON CONFLICT (owner_key, subject_kind, subject_key, attribute) DO UPDATE SET sealed = EXCLUDED.sealed

-- name: site
SELECT s.site_key, s.owner_key, s.tenure_from, clock_timestamp() AS now
FROM consent.site AS s
JOIN consent.owner AS o USING (owner_key)
WHERE s.site_key = $1 AND s.tenure_until IS NULL AND o.erased_at IS NULL
FOR NO KEY UPDATE OF s

-- name: gateways
SELECT gateway_key FROM consent.gateway WHERE site_key = $1 AND revoked_at IS NULL ORDER BY gateway_key

-- name: devices
SELECT device_key, gateway_key, kind, serial_blind FROM consent.device
WHERE site_key = $1 AND retired_at IS NULL
ORDER BY device_key

-- name: sealed
SELECT subject_key, sealed FROM vault.entry
WHERE owner_key = $1 AND subject_kind = $2 AND attribute = $3 AND subject_key = ANY ($4::bigint[])

-- name: end_tenure
UPDATE consent.site SET tenure_until = $2 WHERE site_key = $1

-- name: begin_tenure
UPDATE consent.site SET tenure_from = $2 WHERE site_key = $1

-- name: move_gateways
UPDATE consent.gateway SET site_key = $2 WHERE gateway_key = ANY ($1::bigint[])

-- name: add_devices
-- Each under the class that its new site has for its kind.
INSERT INTO consent.device (device_key, site_key, gateway_key, kind, serial_blind, plan_class)
SELECT n.device_key, s.site_key, n.gateway_key, n.kind, n.serial_blind, s.plan_classes[n.kind]
FROM unnest($2::bigint[], $3::bigint[], $4::smallint[], $5::bytea[])
    AS n (device_key, gateway_key, kind, serial_blind)
JOIN consent.site AS s ON s.site_key = $1
ORDER BY n.serial_blind
