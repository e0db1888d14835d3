-- name: record
INSERT INTO audit.event (action, owner_key, subject_key, affected) VALUES ($1, $2, $3, $4)

-- name: use_token
-- Whose token this is, at $2. The day of use is written once a day. Erased, closed and removed holders have none.
WITH found AS (
    SELECT t.token_key, t.role, t.owner_key, t.recipient_key, t.member_key, t.scopes, t.purposes, t.last_used_on,
        m.rights
    FROM access.token AS t
    LEFT JOIN consent.owner AS o ON o.owner_key = t.owner_key
    LEFT JOIN consent.recipient AS r ON r.recipient_key = t.recipient_key
    LEFT JOIN consent.member AS m ON m.member_key = t.member_key AND m.owner_key = t.owner_key
    WHERE t.secret_hash = $1
        AND t.revoked_at IS NULL -- predicate: revoked
        AND t.issued_at <= $2 AND $2 < t.expires_at -- predicate: expired
        AND (t.owner_key IS NULL OR (o.owner_key IS NOT NULL AND o.erased_at IS NULL)) -- predicate: erased
        AND (t.recipient_key IS NULL OR (r.recipient_key IS NOT NULL AND r.closed_at IS NULL)) -- predicate: closed
        AND (t.member_key IS NULL OR (m.member_key IS NOT NULL AND m.removed_at IS NULL)) -- predicate: removed
), used AS (
    UPDATE access.token AS t SET last_used_on = ($2::timestamptz AT TIME ZONE 'UTC')::date
    FROM found
    WHERE t.token_key = found.token_key
        AND found.last_used_on IS DISTINCT FROM ($2::timestamptz AT TIME ZONE 'UTC')::date
)
SELECT token_key, role, owner_key, recipient_key, member_key, scopes, purposes, rights FROM found

-- name: use_session
-- Whose session this is, at $2; $3: how long it may be idle, $4 the same for operators.
WITH found AS (
    SELECT s.session_key, s.second_factor, s.seen_at, a.account_key, a.role, a.owner_key, a.recipient_key,
        a.member_key, m.rights
    FROM access.session AS s
    JOIN access.account AS a USING (account_key)
    LEFT JOIN consent.owner AS o ON o.owner_key = a.owner_key
    LEFT JOIN consent.recipient AS r ON r.recipient_key = a.recipient_key
    LEFT JOIN consent.member AS m ON m.member_key = a.member_key AND m.owner_key = a.owner_key
    WHERE s.secret_hash = $1
        AND $2 < s.expires_at -- predicate: expired
        AND $2 < s.seen_at + CASE a.role WHEN 'operator' THEN $4::interval ELSE $3::interval END -- predicate: idle
        AND (a.owner_key IS NULL OR (o.owner_key IS NOT NULL AND o.erased_at IS NULL)) -- predicate: erased
        AND (a.recipient_key IS NULL OR (r.recipient_key IS NOT NULL AND r.closed_at IS NULL)) -- predicate: closed
        AND (a.member_key IS NULL OR (m.member_key IS NOT NULL AND m.removed_at IS NULL)) -- predicate: removed
), used AS (
    UPDATE access.session AS s SET seen_at = $2
    FROM found
    WHERE s.session_key = found.session_key AND found.seen_at + interval '1 minute' <= $2
)
SELECT session_key, second_factor, account_key, role, owner_key, recipient_key, member_key, rights FROM found

-- name: holder_exists
-- Whether a token or an account may be made for this holder: known, and neither erased, closed nor removed.
SELECT ($1::bigint IS NULL OR EXISTS (
        SELECT FROM consent.owner WHERE owner_key = $1 AND erased_at IS NULL
    )) AND ($2::bigint IS NULL OR EXISTS (
        SELECT FROM consent.member WHERE member_key = $2 AND owner_key = $1 AND removed_at IS NULL
    )) AND ($3::bigint IS NULL OR EXISTS (
        SELECT FROM consent.recipient WHERE recipient_key = $3 AND closed_at IS NULL
    ))

-- name: add_token
INSERT INTO access.token
    (token_key, role, owner_key, member_key, recipient_key, secret_hash, scopes, purposes, issued_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: tokens
-- Of one holder; of everybody where $1 is null. Neither expired nor revoked ones of long ago: see `tidy`.
SELECT token_key, role, owner_key, member_key, recipient_key, scopes, purposes, issued_at, expires_at, last_used_on,
    revoked_at, successor_key
FROM access.token
WHERE $1::text IS NULL
    OR (role = $1 AND owner_key IS NOT DISTINCT FROM $2 AND recipient_key IS NOT DISTINCT FROM $3
        AND ($4::bigint IS NULL OR member_key = $4))
ORDER BY issued_at, token_key

-- name: hold_token
-- For rotation: alive, of this holder, and not rotated yet.
SELECT token_key, role, owner_key, member_key, recipient_key, scopes, purposes, issued_at, expires_at, last_used_on,
    revoked_at, successor_key
FROM access.token
WHERE token_key = $1 AND revoked_at IS NULL AND $2 < expires_at
    AND ($3::text IS NULL
        OR (role = $3 AND owner_key IS NOT DISTINCT FROM $4 AND recipient_key IS NOT DISTINCT FROM $5
            AND ($6::bigint IS NULL OR member_key = $6)))
FOR UPDATE

-- name: succeed_token
UPDATE access.token SET successor_key = $2, expires_at = least(expires_at, $3) WHERE token_key = $1

-- name: revoke_token
UPDATE access.token SET revoked_at = $2
WHERE token_key = $1 AND revoked_at IS NULL
    AND ($3::text IS NULL
        OR (role = $3 AND owner_key IS NOT DISTINCT FROM $4 AND recipient_key IS NOT DISTINCT FROM $5
            AND ($6::bigint IS NULL OR member_key = $6)))
RETURNING token_key, owner_key

-- name: revoke_unused
UPDATE access.token SET revoked_at = $2
WHERE token_key = $1 AND last_used_on IS NULL AND revoked_at IS NULL
RETURNING token_key
