-- name: record
-- In key order, so that two writers wait for one another and never in a circle. The same version is written again:
-- a batch that was halved leaves its parts' states one after the other under the version of the whole.
WITH sent AS (
    SELECT gateway_key, codec, version, sealed
    FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bytea[]) AS s (gateway_key, codec, version, sealed)
), kept AS (
    SELECT s.gateway_key, s.codec, s.version, s.sealed
    FROM sent AS s
    JOIN consent.gateway AS g USING (gateway_key)
    JOIN consent.site AS t USING (site_key)
    JOIN consent.owner AS o USING (owner_key)
    WHERE g.revoked_at IS NULL AND o.erased_at IS NULL
), written AS (
    INSERT INTO readings.codec_state AS c (gateway_key, codec, version, sealed)
    SELECT gateway_key, codec, version, sealed FROM kept ORDER BY gateway_key, codec
    ON CONFLICT (gateway_key, codec) DO UPDATE SET version = EXCLUDED.version, sealed = EXCLUDED.sealed
    WHERE c.version <= EXCLUDED.version
)
SELECT DISTINCT gateway_key FROM sent WHERE gateway_key NOT IN (SELECT gateway_key FROM kept)

-- name: load
SELECT gateway_key, codec, version, sealed FROM readings.codec_state
