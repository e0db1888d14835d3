-- name: look
SELECT set_config('telemetry.recipient', $1, true), set_config('telemetry.purpose', $2, true),
    set_config('telemetry.owner', $3, true), set_config('telemetry.scope', $4, true), now() AS now

-- name: grants
SELECT * FROM consent.active_grant ORDER BY grant_key

-- name: denials
SELECT
    (SELECT closed_at FROM consent.recipient) AS closed_at,
    ARRAY(SELECT owner_key FROM consent.owner WHERE erased_at IS NOT NULL) AS erased,
    ARRAY(SELECT policy FROM consent.policy WHERE expires_at <= now()) AS expired

-- name: restrictions
SELECT owner_key, from_at, lifted_at FROM consent.restriction ORDER BY owner_key, from_at

-- name: objections
SELECT owner_key, purpose, recipient_key
FROM consent.objection
WHERE withdrawn_at IS NULL OR now() < withdrawn_at

-- name: epochs
SELECT owner_key, epoch FROM consent.relation WHERE owner_key = ANY ($1::bigint[])

-- name: devices
SELECT d.device_key, d.kind, s.site_key, s.owner_key, s.tenure_from, s.tenure_until
FROM consent.device AS d
JOIN consent.site AS s USING (site_key)

-- name: places
SELECT p.site_key, p.country, p.region, p.timezone FROM consent.site_place AS p

-- name: labels
SELECT site_key, label FROM consent.site_label

-- name: record
INSERT INTO audit.read (recipient_key, owner_key, purpose, way, fields, resolution, from_at, to_at)
SELECT $1, owner_key, $3, $4, $5::text[], $6, $7, $8 FROM unnest($2::bigint[]) AS owner_key
