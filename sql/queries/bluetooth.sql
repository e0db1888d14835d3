-- name: permitted
SELECT coalesce(bool_or(b.permitted), false)
FROM consent.gateway AS g
JOIN consent.site AS s USING (site_key)
JOIN consent.owner AS o ON o.owner_key = s.owner_key AND o.erased_at IS NULL
JOIN consent.bluetooth AS b ON b.site_key = s.site_key AND b.owner_key = s.owner_key
WHERE g.name_blind = $1 AND g.revoked_at IS NULL

-- name: set
INSERT INTO consent.bluetooth AS b (site_key, owner_key, permitted)
SELECT s.site_key, s.owner_key, $2
FROM consent.site AS s
JOIN consent.owner AS o USING (owner_key)
WHERE s.site_key = $1 AND o.erased_at IS NULL
ON CONFLICT (site_key) DO UPDATE
    SET permitted = EXCLUDED.permitted, owner_key = EXCLUDED.owner_key, changed_at = now()
RETURNING b.owner_key

-- name: record
INSERT INTO audit.event (action, owner_key, subject_key, affected) VALUES ($1, $2, $3, 1)
