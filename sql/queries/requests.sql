-- name: act_for
SELECT set_config('telemetry.recipient', $1, true)

-- name: letterbox
SELECT access.letterbox($1, $2, $3)

-- name: ask
SELECT outcome, wait_s, until FROM access.ask($1, $2, $3, $4, $5, $6, $7, $8)

-- name: withdraw
SELECT access.withdraw_request($1)

-- name: asked
SELECT request_key, site_token, reason, terms, made_at, expires_at, accepted_at, now() AS now
FROM access.request
WHERE withdrawn_at IS NULL AND ($1::bigint IS NULL OR request_key = $1)
ORDER BY made_at, request_key

-- name: invite
INSERT INTO access.invitation (invitation_key, recipient_key, code_hash, terms, expires_at)
SELECT $1, $2, $3, $4, now() + $5::interval
WHERE (
    SELECT count(*) FROM access.invitation WHERE accepted_at IS NULL AND revoked_at IS NULL AND now() < expires_at
) < $6
    -- Revoked ones count as well: each may have been mailed.
    AND (SELECT count(*) FROM access.invitation WHERE made_at > now() - interval '1 day') < $7
RETURNING expires_at

-- name: invitations
SELECT invitation_key, terms, made_at, expires_at, accepted_at, revoked_at, now() AS now
FROM access.invitation
ORDER BY made_at, invitation_key

-- name: revoke_invitation
UPDATE access.invitation SET revoked_at = now()
WHERE invitation_key = $1 AND revoked_at IS NULL AND accepted_at IS NULL
RETURNING invitation_key

-- Of the owners' side.
-- name: open_requests
SELECT q.request_key, q.recipient_key, q.sites, q.has_text, q.made_at, q.expires_at, a.reason, a.terms,
    r.handle, r.kind, r.created_at, r.closed_at
FROM consent.request AS q
JOIN access.request AS a USING (request_key)
JOIN consent.recipient AS r ON r.recipient_key = q.recipient_key
WHERE q.owner_key = $1 AND q.decided_at IS NULL AND now() < q.expires_at AND r.closed_at IS NULL
    AND NOT EXISTS (
        SELECT FROM consent.request_block AS b WHERE b.owner_key = $1 AND b.recipient_key = q.recipient_key
    )
    AND ($2::bigint IS NULL OR q.request_key = $2)
ORDER BY q.made_at, q.request_key

-- name: hold_request
SELECT request_key FROM consent.request WHERE owner_key = $1 AND request_key = $2 FOR UPDATE

-- name: decide
UPDATE consent.request SET decided_at = now(), grant_key = $2 WHERE request_key = $1

-- name: say_accepted
UPDATE access.request SET accepted_at = now() WHERE request_key = $1

-- name: forget_text
DELETE FROM vault.entry WHERE owner_key = $1 AND subject_kind = 'request' AND subject_key = $2

-- name: block
INSERT INTO consent.request_block (owner_key, recipient_key) VALUES ($1, $2)
ON CONFLICT DO NOTHING
RETURNING recipient_key

-- name: unblock
DELETE FROM consent.request_block WHERE owner_key = $1 AND recipient_key = $2 RETURNING recipient_key

-- name: blocks
SELECT b.recipient_key, r.handle, r.kind, b.blocked_at
FROM consent.request_block AS b
JOIN consent.recipient AS r USING (recipient_key)
WHERE b.owner_key = $1
ORDER BY r.handle

-- name: drop_codes
-- All but the newest few of the owner's.
DELETE FROM consent.connection_code
WHERE owner_key = $1 AND code_hash NOT IN (
    SELECT code_hash FROM consent.connection_code
    WHERE owner_key = $1 AND now() < expires_at ORDER BY made_at DESC LIMIT $2
)

-- name: add_code
INSERT INTO consent.connection_code (code_hash, owner_key, expires_at) VALUES ($1, $2, now() + $3::interval)
ON CONFLICT (code_hash) DO NOTHING
RETURNING expires_at

-- name: invitation
SELECT i.invitation_key, i.recipient_key, i.terms, i.made_at, i.expires_at, r.handle, r.kind, r.created_at, r.closed_at
FROM access.invitation AS i
JOIN consent.recipient AS r USING (recipient_key)
WHERE i.code_hash = $1 AND i.accepted_at IS NULL AND i.revoked_at IS NULL AND now() < i.expires_at
    AND r.closed_at IS NULL

-- name: use_invitation
-- Of two that accept at the same time one finds it used.
UPDATE access.invitation SET accepted_at = now()
WHERE invitation_key = $1 AND accepted_at IS NULL AND revoked_at IS NULL AND now() < expires_at
RETURNING invitation_key

-- name: prune
SELECT consent.prune_requests()
