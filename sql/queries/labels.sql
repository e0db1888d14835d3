-- name: lock
SELECT pg_advisory_lock(7310, 24)

-- name: unlock
SELECT pg_advisory_unlock(7310, 24)

-- name: today
SELECT (now() AT TIME ZONE 'UTC')::date

-- name: population
SELECT cell7, sites FROM consent.cell_population()

-- name: recipients
SELECT recipient FROM consent.recipients_placed($1::bigint[]) AS recipient ORDER BY recipient

-- name: undecided
-- Those whose labels were not decided anew today.
SELECT recipient
FROM consent.recipients_placed(NULL) AS recipient
LEFT JOIN consent.label_day AS d ON d.recipient_key = recipient
WHERE d.decided_on IS NULL OR d.decided_on < $1
ORDER BY recipient

-- name: granted
SELECT site_key, cell7, granted FROM consent.cells_granted($1) ORDER BY site_key

-- name: labels
SELECT site_key, granted, label, changed_on FROM consent.site_label WHERE recipient_key = $1

-- name: decided_on
SELECT decided_on FROM consent.label_day WHERE recipient_key = $1

-- name: decided
INSERT INTO consent.label_day AS d (recipient_key, decided_on) VALUES ($1, $2)
ON CONFLICT (recipient_key) DO UPDATE SET decided_on = EXCLUDED.decided_on

-- name: remove
DELETE FROM consent.site_label WHERE recipient_key = $1 AND site_key = ANY ($2::bigint[])

-- name: put
INSERT INTO consent.site_label AS l (recipient_key, site_key, granted, label, changed_on)
SELECT $1, u.site_key, u.granted, u.label, $5
FROM unnest($2::bigint[], $3::smallint[], $4::bigint[]) AS u (site_key, granted, label)
ON CONFLICT (recipient_key, site_key) DO UPDATE
SET granted = EXCLUDED.granted, label = EXCLUDED.label,
    changed_on = CASE WHEN l.label IS DISTINCT FROM EXCLUDED.label THEN EXCLUDED.changed_on ELSE l.changed_on END
