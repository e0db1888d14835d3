-- name: now
-- Asked once the owner is held: the transaction's own now() may lie before a change that it waited for.
SELECT clock_timestamp()

-- name: record
INSERT INTO audit.event (action, owner_key, subject_key, affected)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])

-- name: hold_owner
-- Changes of one owner's settings wait for one another; rows that refer to the owner do not.
SELECT owner_key, region, public_key FROM consent.owner
WHERE owner_key = $1 AND erased_at IS NULL
FOR NO KEY UPDATE

-- name: known_owner
SELECT owner_key, region FROM consent.owner WHERE owner_key = $1 AND erased_at IS NULL

-- name: mark_dirty
-- In key order, so that two that mark many cannot wait for each other crosswise.
INSERT INTO consent.dirty_owner AS d (owner_key)
SELECT owner_key FROM unnest($1::bigint[]) AS owner_key ORDER BY owner_key
ON CONFLICT (owner_key) DO UPDATE SET since = d.since

-- name: tell
SELECT pg_notify('telemetry_consent', owner_key::text) FROM unnest($1::bigint[]) AS owner_key

-- name: add_recipient
INSERT INTO consent.recipient (recipient_key, handle, kind) VALUES ($1, $2, $3)
ON CONFLICT (handle) DO NOTHING
RETURNING recipient_key

-- name: close_recipient
UPDATE consent.recipient SET closed_at = now() WHERE recipient_key = $1 AND closed_at IS NULL RETURNING recipient_key

-- name: owners_granting
SELECT DISTINCT owner_key FROM consent.active_grant WHERE recipient_key = $1 ORDER BY owner_key

-- name: recipients
SELECT r.recipient_key, r.handle, r.kind, r.created_at, r.closed_at,
       (SELECT count(DISTINCT g.owner_key) FROM consent.active_grant AS g
        WHERE g.recipient_key = r.recipient_key AND (g.until IS NULL OR g.until > now())) AS owners
FROM consent.recipient AS r
ORDER BY r.handle

-- name: recipient
SELECT recipient_key, handle, kind, created_at, closed_at FROM consent.recipient
WHERE recipient_key = $1 OR handle = $2

-- name: open_recipients
SELECT recipient_key, handle, kind, created_at, closed_at FROM consent.recipient WHERE closed_at IS NULL
ORDER BY handle

-- name: reads
SELECT a.read_key, a.at, r.handle, a.purpose, a.way, a.fields, a.resolution, a.from_at, a.to_at
FROM audit.read AS a
LEFT JOIN consent.recipient AS r USING (recipient_key)
WHERE a.owner_key = $1 AND ($2::bigint IS NULL OR a.read_key < $2)
    AND ($4::bigint IS NULL OR a.recipient_key = $4)
ORDER BY a.read_key DESC
LIMIT $3

-- name: policy_in_force
SELECT policy FROM consent.policy
WHERE effective_from <= now() AND (expires_at IS NULL OR expires_at > now())
  AND ($1::text IS NULL OR policy = $1)
ORDER BY effective_from DESC, policy DESC
LIMIT 1

-- name: policies
SELECT policy, effective_from, expires_at FROM consent.policy ORDER BY effective_from, policy

-- name: foreign_sites
-- Those of the sites that are not the owner's now: unknown, another's, or handed over.
SELECT site_key FROM unnest($2::bigint[]) AS site_key
WHERE NOT EXISTS (
    SELECT FROM consent.site AS s
    WHERE s.site_key = site_key.site_key AND s.owner_key = $1 AND (s.tenure_until IS NULL OR s.tenure_until > now())
)

-- name: sites
SELECT site_key FROM consent.site
WHERE owner_key = $1 AND (tenure_until IS NULL OR tenure_until > now())
ORDER BY site_key

-- name: epoch
SELECT epoch FROM consent.relation WHERE owner_key = $1 AND recipient_key = $2

-- name: anything_standing
-- Whether a grant to the recipient is in force or about to be: rule 23's "none is in force" is its opposite.
SELECT EXISTS (
    SELECT FROM consent.active_grant AS g
    JOIN consent.policy AS p USING (policy)
    WHERE g.owner_key = $1 AND g.recipient_key = $2 AND (g.until IS NULL OR g.until > now())
      AND (p.expires_at IS NULL OR p.expires_at > now())
)

-- name: set_epoch
INSERT INTO consent.relation (owner_key, recipient_key, epoch) VALUES ($1, $2, $3)
ON CONFLICT (owner_key, recipient_key) DO UPDATE SET epoch = EXCLUDED.epoch

-- name: add_version
INSERT INTO consent.grant_version (
    grant_key, version, owner_key, recipient_key, state, purpose, sites, kinds, classes, fields, resolution, serial,
    place, extremes, history, data_from, start, until, epoch, policy, confirmed_km,
    recorded_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22)

-- name: versions
SELECT * FROM consent.grant_version WHERE grant_key = $1 ORDER BY version

-- name: active
SELECT * FROM consent.active_grant
WHERE owner_key = $1 AND ($2::bigint IS NULL OR recipient_key = $2)
ORDER BY recipient_key, grant_key

-- name: standing
-- Neither over nor under an expired notice; recorded_at of the first version gives the order made.
SELECT g.*
FROM consent.active_grant AS g
JOIN consent.policy AS p USING (policy)
JOIN consent.grant_version AS f ON f.grant_key = g.grant_key AND f.version = 1
WHERE g.owner_key = $1 AND (g.until IS NULL OR g.until > $2) AND (p.expires_at IS NULL OR p.expires_at > $2)
ORDER BY f.recorded_at, g.grant_key

-- name: policy_ends
SELECT policy, expires_at FROM consent.policy WHERE policy = ANY ($1::text[])

-- name: history
SELECT * FROM consent.grant_version
WHERE owner_key = $1 AND ($2::bigint IS NULL OR recipient_key = $2)
ORDER BY recorded_at, grant_key, version

-- name: allowed_at
-- What stood at an instant: of each grant the newest version recorded until then, if it was in force then.
SELECT v.*
FROM (
    SELECT DISTINCT ON (grant_key) *
    FROM consent.grant_version
    WHERE owner_key = $1 AND ($2::bigint IS NULL OR recipient_key = $2) AND recorded_at <= $3
    ORDER BY grant_key, version DESC
) AS v
JOIN consent.policy AS p USING (policy)
JOIN consent.recipient AS r USING (recipient_key)
WHERE v.state = 'active' AND v.start <= $3 AND (v.until IS NULL OR v.until > $3)
  AND (p.expires_at IS NULL OR p.expires_at > $3) AND (r.closed_at IS NULL OR r.closed_at > $3)
  AND NOT EXISTS (
      SELECT FROM consent.restriction AS x
      WHERE x.owner_key = v.owner_key AND x.from_at <= $3 AND (x.lifted_at IS NULL OR x.lifted_at > $3)
  )
  AND NOT EXISTS (
      SELECT FROM consent.objection AS x
      WHERE x.owner_key = v.owner_key AND x.purpose = v.purpose
        AND (x.recipient_key IS NULL OR x.recipient_key = v.recipient_key)
        AND x.made_at <= $3 AND (x.withdrawn_at IS NULL OR x.withdrawn_at > $3)
  )
ORDER BY v.recipient_key, v.grant_key

-- name: add_receipt
INSERT INTO consent.receipt (grant_key, version, owner_key, jws) VALUES ($1, $2, $3, $4)

-- name: receipt
SELECT jws, version FROM consent.receipt
WHERE grant_key = $1 AND ($2::integer IS NULL OR version = $2)
ORDER BY version DESC LIMIT 1

-- name: keeping
SELECT version, settings FROM consent.keeping WHERE owner_key = $1

-- name: add_keeping
INSERT INTO consent.keeping_version (owner_key, version, settings) VALUES ($1, $2, $3)

-- name: keeping_history
SELECT version, settings, recorded_at FROM consent.keeping_version WHERE owner_key = $1 ORDER BY version

-- name: add_member
INSERT INTO consent.member (member_key, owner_key, rights) VALUES ($1, $2, $3)

-- name: seal_member
INSERT INTO vault.entry (owner_key, subject_kind, subject_key, attribute, sealed) VALUES ($1, 'member', $2, 'name', $3)

-- name: set_member
UPDATE consent.member SET rights = $3
WHERE owner_key = $1 AND member_key = $2 AND removed_at IS NULL RETURNING member_key

-- name: remove_member
UPDATE consent.member SET removed_at = now()
WHERE owner_key = $1 AND member_key = $2 AND removed_at IS NULL RETURNING member_key

-- name: forget_member
DELETE FROM vault.entry WHERE owner_key = $1 AND subject_kind = 'member' AND subject_key = $2

-- name: members
SELECT member_key, owner_key, rights, added_at, removed_at FROM consent.member WHERE owner_key = $1
ORDER BY added_at, member_key

-- name: restrict
INSERT INTO consent.restriction (owner_key)
SELECT $1 WHERE NOT EXISTS (SELECT FROM consent.restriction WHERE owner_key = $1 AND lifted_at IS NULL)
RETURNING from_at

-- name: lift
UPDATE consent.restriction SET lifted_at = now() WHERE owner_key = $1 AND lifted_at IS NULL RETURNING from_at

-- name: restrictions
SELECT from_at, lifted_at FROM consent.restriction WHERE owner_key = $1 ORDER BY from_at

-- name: object
INSERT INTO consent.objection (owner_key, purpose, recipient_key)
SELECT $1, $2, $3
WHERE NOT EXISTS (
    SELECT FROM consent.objection
    WHERE owner_key = $1 AND purpose = $2 AND recipient_key IS NOT DISTINCT FROM $3 AND withdrawn_at IS NULL
)
RETURNING objection_key

-- name: stop_objecting
UPDATE consent.objection SET withdrawn_at = now()
WHERE owner_key = $1 AND purpose = $2 AND recipient_key IS NOT DISTINCT FROM $3 AND withdrawn_at IS NULL
RETURNING objection_key

-- name: objections
SELECT objection_key, purpose, recipient_key, made_at, withdrawn_at FROM consent.objection
WHERE owner_key = $1 ORDER BY made_at, objection_key

-- name: own_reads
-- What a recipient itself read, newest first: one row a read, whoever's data it held. Previews are owners' own looks.
SELECT max(read_key) AS read_key, at, purpose, way, fields, resolution, from_at, to_at
FROM audit.read
WHERE recipient_key = $1 AND way <> 'preview'
GROUP BY at, purpose, way, fields, resolution, from_at, to_at
HAVING $2::bigint IS NULL OR max(read_key) < $2
ORDER BY max(read_key) DESC
LIMIT $3
