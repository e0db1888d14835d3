-- name: bump_version
SELECT consent.bump_version($1::text[], $2::bigint[])

-- name: record
INSERT INTO audit.event (action, owner_key, subject_key, affected)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])

-- name: add_owners
INSERT INTO consent.owner (owner_key, region, public_key)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bytea[])

-- name: add_sites
INSERT INTO consent.site (site_key, owner_key)
SELECT * FROM unnest($1::bigint[], $2::bigint[])

-- name: add_places
INSERT INTO consent.site_place (site_key, cell7, country, region, timezone)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[])

-- name: add_gateways
INSERT INTO consent.gateway (gateway_key, site_key, name_blind, enrolment, device_limit, backfill_us)
SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::integer[], $6::bigint[])
ON CONFLICT (name_blind) DO NOTHING
RETURNING gateway_key

-- name: add_entries
INSERT INTO vault.entry (owner_key, subject_kind, subject_key, attribute, sealed)
SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[], $5::bytea[])

-- name: owner_of_owner
SELECT owner_key, public_key FROM consent.owner WHERE owner_key = $1 AND erased_at IS NULL

-- name: owner_of_site
SELECT o.owner_key, o.public_key
FROM consent.site AS s
JOIN consent.owner AS o USING (owner_key)
WHERE s.site_key = $1 AND o.erased_at IS NULL

-- name: known_names
SELECT name_blind FROM consent.gateway WHERE name_blind = ANY ($1::bytea[])

-- name: gateway_by_name
SELECT gateway_key FROM consent.gateway WHERE name_blind = $1

-- name: is_enrolled
SELECT true FROM consent.gateway WHERE gateway_key = $1 AND revoked_at IS NULL

-- name: revoke_gateway
UPDATE consent.gateway SET revoked_at = now() WHERE gateway_key = $1 AND revoked_at IS NULL RETURNING site_key

-- name: set_gateway
UPDATE consent.gateway
SET enrolment = coalesce($2, enrolment), device_limit = coalesce($3, device_limit),
    backfill_us = coalesce($4, backfill_us)
WHERE gateway_key = $1
RETURNING site_key

-- name: owners
SELECT o.owner_key, o.region, o.created_at, o.erased_at IS NOT NULL AS erased,
       (SELECT count(*) FROM consent.site AS s WHERE s.owner_key = o.owner_key) AS sites
FROM consent.owner AS o
ORDER BY o.created_at, o.owner_key

-- name: sites
SELECT s.site_key, s.owner_key, s.created_at, s.tenure_until IS NOT NULL AS sold,
       (SELECT count(*) FROM consent.gateway AS g WHERE g.site_key = s.site_key) AS gateways,
       (SELECT count(*) FROM consent.device AS d WHERE d.site_key = s.site_key) AS devices
FROM consent.site AS s
WHERE $1::bigint IS NULL OR s.owner_key = $1
ORDER BY s.created_at, s.site_key

-- name: gateways
SELECT g.gateway_key, g.site_key, s.owner_key, g.enrolment, g.device_limit, g.backfill_us, g.enrolled_at,
       g.revoked_at IS NOT NULL AS revoked,
       (SELECT count(*) FROM consent.device AS d WHERE d.gateway_key = g.gateway_key) AS devices
FROM consent.gateway AS g
JOIN consent.site AS s USING (site_key)
WHERE $1::bigint IS NULL OR g.site_key = $1
ORDER BY g.enrolled_at, g.gateway_key

-- name: devices
SELECT d.device_key, d.site_key, d.gateway_key, s.owner_key, d.kind, d.enrolled_at, d.retired_at IS NOT NULL AS retired,
       EXISTS (
           SELECT FROM consent.device AS o WHERE o.serial_blind = d.serial_blind AND o.site_key <> d.site_key
       ) AS elsewhere
FROM consent.device AS d
JOIN consent.site AS s USING (site_key)
WHERE ($1::bigint IS NULL OR d.site_key = $1) AND ($2::bigint IS NULL OR d.gateway_key = $2)
ORDER BY d.enrolled_at, d.device_key
LIMIT $3

-- name: entries
SELECT owner_key, subject_key, sealed
FROM vault.entry
WHERE subject_kind = $1 AND attribute = $2 AND owner_key = ANY ($3::bigint[]) AND subject_key = ANY ($4::bigint[])
