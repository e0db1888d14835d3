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

-- name: day_half
-- The same for every process of this day; the days before are forgotten.
WITH gone AS (
    DELETE FROM access.day_key WHERE day < $1
), made AS (
    INSERT INTO access.day_key (day, half) VALUES ($1, $2) ON CONFLICT (day) DO NOTHING RETURNING half
)
SELECT half FROM made UNION ALL SELECT half FROM access.day_key WHERE day = $1

-- name: take
-- One more try at $2, where the last one's delay is over. $3 tries are free, then $4 seconds, doubling up to $5.
INSERT INTO access.attempt AS a (bucket, tries, next_at, expires_at)
VALUES ($1, 1, $2::timestamptz + CASE WHEN $3::integer >= 1 THEN 0 ELSE least($5::double precision, $4::double precision) END * interval '1 second',
    $2 + $6::interval)
ON CONFLICT (bucket) DO UPDATE SET
    tries = CASE WHEN a.expires_at <= $2 THEN 1 ELSE least(a.tries, 1000000) + 1 END,
    next_at = CASE
        WHEN a.expires_at <= $2 THEN EXCLUDED.next_at
        WHEN a.tries + 1 <= $3 THEN $2
        ELSE $2 + least($5, $4 * 2 ^ least(a.tries - $3, 40)) * interval '1 second' END,
    expires_at = EXCLUDED.expires_at
WHERE a.next_at <= $2
RETURNING tries

-- name: next_at
SELECT next_at FROM access.attempt WHERE bucket = $1

-- name: give_back
UPDATE access.attempt SET tries = greatest(tries - 1, 0), next_at = least(next_at, $2)
WHERE bucket IN (SELECT bucket FROM access.attempt WHERE bucket = ANY ($1::bytea[]) ORDER BY bucket FOR UPDATE)

-- name: clear_tries
DELETE FROM access.attempt
WHERE bucket IN (SELECT bucket FROM access.attempt WHERE bucket = ANY ($1::bytea[]) ORDER BY bucket FOR UPDATE)

-- name: add_claim
INSERT INTO access.claim (claim_key, code_hash, role, owner_key, member_key, recipient_key, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)

-- name: claim
SELECT claim_key FROM access.claim WHERE code_hash = $1 AND $2 < expires_at

-- name: use_claim
-- Sign-ups that waited for it go with it.
DELETE FROM access.claim WHERE claim_key = $1 AND $2 < expires_at
RETURNING role, owner_key, member_key, recipient_key

-- name: add_sign_up
INSERT INTO access.sign_up
    (secret_hash, sign_up_key, email_blind, email_sealed, name_sealed, claim_key, adult_stated_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)

-- name: sign_up
SELECT sign_up_key, email_sealed, name_sealed FROM access.sign_up WHERE secret_hash = $1 AND $2 < expires_at

-- name: use_sign_up
DELETE FROM access.sign_up WHERE secret_hash = $1 AND $2 < expires_at
RETURNING sign_up_key, email_blind, email_sealed, claim_key, adult_stated_at

-- name: forget_sign_ups
DELETE FROM access.sign_up WHERE email_blind = $1

-- name: add_account
INSERT INTO access.account
    (account_key, role, owner_key, member_key, recipient_key, email_blind, email_sealed, password_sealed,
     adult_stated_at, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: account
SELECT account_key, owner_key, email_sealed, password_sealed, password_version, totp_sealed, totp_proposed
FROM access.account WHERE account_key = $1

-- name: mailable
-- The sealed address of an account that would still be let in, for a mail of alerts.
SELECT a.email_sealed
FROM access.account AS a
LEFT JOIN consent.owner AS o ON o.owner_key = a.owner_key
LEFT JOIN consent.recipient AS r ON r.recipient_key = a.recipient_key
LEFT JOIN consent.member AS m ON m.member_key = a.member_key AND m.owner_key = a.owner_key
WHERE a.account_key = $1
    AND (a.owner_key IS NULL OR (o.owner_key IS NOT NULL AND o.erased_at IS NULL)) -- predicate: erased
    AND (a.recipient_key IS NULL OR (r.recipient_key IS NOT NULL AND r.closed_at IS NULL)) -- predicate: closed
    AND (a.member_key IS NULL OR (m.removed_at IS NULL AND 'see' = ANY (m.rights))) -- predicate: member

-- name: account_by_email
SELECT account_key, owner_key, email_sealed, password_sealed, password_version, totp_sealed, totp_proposed
FROM access.account WHERE email_blind = $1

-- name: hold_account
-- Nothing that ends sessions happens until the transaction is over.
SELECT role, owner_key, member_key, recipient_key FROM access.account
WHERE account_key = $1 AND password_version = $2 AND (totp_sealed IS NOT NULL) = $3
FOR SHARE

-- name: add_session
INSERT INTO access.session (session_key, account_key, secret_hash, second_factor, begun_at, seen_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $5, $6)

-- name: bound_sessions
-- The newest stay.
DELETE FROM access.session WHERE session_key IN (
    SELECT session_key FROM access.session WHERE account_key = $1 ORDER BY begun_at DESC, session_key OFFSET $2
)

-- name: sessions
SELECT session_key, begun_at, seen_at, expires_at, second_factor FROM access.session
WHERE account_key = $1 AND $2 < expires_at AND $2 < seen_at + $3::interval
ORDER BY begun_at DESC, session_key

-- name: end_session
DELETE FROM access.session AS s USING access.account AS a
WHERE s.account_key = $1 AND s.session_key = $2 AND a.account_key = s.account_key
RETURNING a.owner_key

-- name: end_sessions
DELETE FROM access.session WHERE account_key = $1

-- name: end_other_sessions
DELETE FROM access.session WHERE account_key = $1 AND session_key <> $2

-- name: prove_session
UPDATE access.session SET second_factor = true WHERE session_key = $1

-- name: set_password
UPDATE access.account SET password_sealed = $2, password_version = password_version + 1 WHERE account_key = $1

-- name: renew_hash
-- The same password under today's parameters, unless it was changed meanwhile.
UPDATE access.account SET password_sealed = $2 WHERE account_key = $1 AND password_version = $3

-- name: add_reset
INSERT INTO access.reset (secret_hash, account_key, expires_at) VALUES ($1, $2, $3)

-- name: reset
SELECT account_key FROM access.reset WHERE secret_hash = $1 AND $2 < expires_at

-- name: use_reset
DELETE FROM access.reset WHERE secret_hash = $1 AND $2 < expires_at RETURNING account_key

-- name: forget_resets
DELETE FROM access.reset WHERE account_key = $1

-- name: propose_totp
UPDATE access.account SET totp_proposed = $2 WHERE account_key = $1

-- name: confirm_totp
UPDATE access.account SET totp_sealed = totp_proposed, totp_step = $2, totp_proposed = NULL
WHERE account_key = $1 AND totp_proposed IS NOT NULL
RETURNING account_key

-- name: remove_totp
UPDATE access.account SET totp_sealed = NULL, totp_step = 0, totp_proposed = NULL WHERE account_key = $1

-- name: use_step
-- Of two that race with the same step, the second waits for the first and finds it used.
UPDATE access.account SET totp_step = $2 WHERE account_key = $1 AND totp_step < $2 RETURNING account_key

-- name: add_codes
INSERT INTO access.recovery_code (account_key, code_hash) SELECT $1, unnest($2::bytea[])

-- name: use_code
DELETE FROM access.recovery_code WHERE account_key = $1 AND code_hash = $2 RETURNING account_key

-- name: forget_codes
DELETE FROM access.recovery_code WHERE account_key = $1

-- name: tidy_attempts
DELETE FROM access.attempt WHERE expires_at <= $1

-- name: tidy_days
DELETE FROM access.day_key WHERE day < $1

-- name: tidy_sign_ups
DELETE FROM access.sign_up WHERE expires_at <= $1

-- name: tidy_claims
DELETE FROM access.claim WHERE expires_at <= $1

-- name: tidy_resets
DELETE FROM access.reset WHERE expires_at <= $1

-- name: tidy_sessions
DELETE FROM access.session WHERE expires_at <= $1

-- name: tidy_tokens
DELETE FROM access.token WHERE expires_at <= $1 OR revoked_at <= $1
