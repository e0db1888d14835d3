-- name: add_owners
INSERT INTO keys.owner_key (owner_key, wrapped_private, wrapped_token_secret, kek_id)
SELECT u.owner_key, u.wrapped_private, u.wrapped_token_secret, $4
FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS u (owner_key, wrapped_private, wrapped_token_secret)

-- name: private
SELECT wrapped_private AS wrapped, kek_id FROM keys.owner_key WHERE owner_key = $1

-- name: token_secrets
SELECT owner_key, wrapped_token_secret AS wrapped, kek_id FROM keys.owner_key WHERE owner_key = ANY ($1::bigint[])

-- name: active_kek
SELECT kek_id FROM keys.kek WHERE state = 'active'

-- name: adopt_first_kek
INSERT INTO keys.kek (kek_id, state) VALUES ($1, 'active') ON CONFLICT DO NOTHING

-- name: recipient_key
-- The newest in effect, and when the next one takes effect.
SELECT k.version, k.wrapped, k.kek_id,
       (SELECT min(n.activates_at) FROM keys.recipient_key AS n
        WHERE n.recipient_key = $1 AND n.state <> 'retired' AND n.activates_at > now()) AS next_at
FROM keys.recipient_key AS k
WHERE k.recipient_key = $1 AND k.state <> 'retired' AND k.activates_at <= now()
ORDER BY k.version DESC
LIMIT 1

-- name: begin_recipient
INSERT INTO keys.recipient_key (recipient_key, version, wrapped, kek_id, state)
VALUES ($1, 1, $2, $3, 'active')
ON CONFLICT DO NOTHING

-- name: retire_replaced
-- Destroys the keys that a newer one in effect has replaced.
UPDATE keys.recipient_key AS k
SET state = 'retired', wrapped = NULL, kek_id = NULL
WHERE k.state <> 'retired' AND ($1::bigint IS NULL OR k.recipient_key = $1)
  AND EXISTS (
      SELECT FROM keys.recipient_key AS n
      WHERE n.recipient_key = k.recipient_key AND n.version > k.version AND n.state <> 'retired'
        AND n.activates_at <= now()
  )
RETURNING k.recipient_key, k.version

-- name: activate_due
UPDATE keys.recipient_key SET state = 'active'
WHERE state = 'announced' AND activates_at <= now() AND ($1::bigint IS NULL OR recipient_key = $1)

-- name: announcement
SELECT version, activates_at FROM keys.recipient_key WHERE recipient_key = $1 AND state = 'announced'

-- name: last_version
SELECT max(version) FROM keys.recipient_key WHERE recipient_key = $1

-- name: announce
INSERT INTO keys.recipient_key (recipient_key, version, wrapped, kek_id, state, activates_at)
VALUES ($1, $2, $3, $4, 'announced', greatest($5::timestamptz, now()))
ON CONFLICT DO NOTHING
RETURNING activates_at

-- name: try_lock
SELECT pg_try_advisory_lock(7310, 20)

-- name: unlock
SELECT pg_advisory_unlock(7310, 20)

-- name: keks
SELECT k.kek_id, k.state, k.since,
       (SELECT count(*) FROM keys.owner_key AS o WHERE o.kek_id = k.kek_id) AS owners,
       (SELECT count(*) FROM keys.recipient_key AS r WHERE r.kek_id = k.kek_id) AS recipients
FROM keys.kek AS k
ORDER BY k.since, k.kek_id

-- name: recipients
SELECT recipient_key, version, state, activates_at, created_at, activates_at <= now() AS in_effect
FROM keys.recipient_key
ORDER BY recipient_key, version

-- name: retire_kek
UPDATE keys.kek SET state = 'retiring' WHERE state = 'active' AND kek_id <> $1

-- name: activate_kek
INSERT INTO keys.kek (kek_id, state) VALUES ($1, 'active')
ON CONFLICT (kek_id) DO UPDATE SET state = 'active'

-- name: remove_kek
DELETE FROM keys.kek WHERE kek_id = $1 AND state = 'retiring'

-- name: owners_under
SELECT owner_key, wrapped_private, wrapped_token_secret
FROM keys.owner_key
WHERE kek_id = $1 AND owner_key > $2
ORDER BY owner_key
LIMIT $3
FOR UPDATE

-- name: rewrap_owners
UPDATE keys.owner_key AS o
SET wrapped_private = u.wrapped_private, wrapped_token_secret = u.wrapped_token_secret, kek_id = $4
FROM unnest($1::bigint[], $2::bytea[], $3::bytea[]) AS u (owner_key, wrapped_private, wrapped_token_secret)
WHERE o.owner_key = u.owner_key AND o.kek_id = $5

-- name: recipients_under
SELECT recipient_key, version, wrapped
FROM keys.recipient_key
WHERE kek_id = $1 AND (recipient_key, version) > ($2, $3)
ORDER BY recipient_key, version
LIMIT $4
FOR UPDATE

-- name: rewrap_recipients
UPDATE keys.recipient_key AS r
SET wrapped = u.wrapped, kek_id = $4
FROM unnest($1::bigint[], $2::integer[], $3::bytea[]) AS u (recipient_key, version, wrapped)
WHERE r.recipient_key = u.recipient_key AND r.version = u.version AND r.kek_id = $5

-- name: cancel_announcement
DELETE FROM keys.recipient_key WHERE recipient_key = $1 AND state = 'announced' AND activates_at > now()
RETURNING version

-- name: check_owners
SELECT owner_key, wrapped_private, wrapped_token_secret, kek_id
FROM keys.owner_key
WHERE owner_key > $1
ORDER BY owner_key
LIMIT $2

-- name: check_recipients
SELECT recipient_key, version, wrapped, kek_id FROM keys.recipient_key WHERE state <> 'retired'

-- name: recipient_by_handle
-- In the database `telemetry`, for the role telemetry_operator.
SELECT recipient_key FROM consent.recipient WHERE handle = $1 AND closed_at IS NULL

-- name: handles
-- In the database `telemetry`, for the role telemetry_operator.
SELECT recipient_key, handle FROM consent.recipient
