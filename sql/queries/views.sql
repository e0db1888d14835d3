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
    ARRAY(SELECT policy FROM consent.policy WHERE expires_at <= now()) AS expired

-- name: restrictions
SELECT owner_key, from_at, lifted_at
FROM consent.restriction
WHERE owner_key = ANY ($1::bigint[])
ORDER BY owner_key, from_at

-- name: objections
SELECT owner_key, purpose, recipient_key
FROM consent.objection
WHERE owner_key = ANY ($1::bigint[]) AND (withdrawn_at IS NULL OR now() < withdrawn_at)

-- name: epochs
SELECT owner_key, epoch FROM consent.relation WHERE owner_key = ANY ($1::bigint[])

-- Policies are hashed and use no index, so statements say themselves which rows they want.
-- name: seen
SELECT seen.devices, seen.sites FROM consent.sight() AS seen

-- name: devices
SELECT device_key, kind, site_key FROM consent.device WHERE device_key = ANY ($1::bigint[])

-- name: sites
SELECT site_key, owner_key, tenure_from, tenure_until FROM consent.site WHERE site_key = ANY ($1::bigint[])

-- name: places
SELECT site_key, country, region, timezone FROM consent.site_place WHERE site_key = ANY ($1::bigint[])

-- name: labels
SELECT site_key, label FROM consent.site_label WHERE site_key = ANY ($1::bigint[])

-- name: record
INSERT INTO audit.read (recipient_key, owner_key, purpose, way, fields, resolution, from_at, to_at)
SELECT $1, owner_key, $3, $4, $5::text[], $6, $7, $8 FROM unnest($2::bigint[]) AS owner_key
