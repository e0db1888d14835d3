-- Who wants to be told, and what is to be told. Role telemetry_access.

-- name: lock_recipient
SELECT pg_advisory_xact_lock(7315, ($1::bigint & 2147483647)::integer)

-- name: add_webhook
INSERT INTO access.webhook (webhook_key, recipient_key, purpose, sealed, created_at)
SELECT $1, $2, $3, $4, $5
WHERE (SELECT count(*) FROM access.webhook WHERE recipient_key = $2) < $6
RETURNING webhook_key

-- name: webhooks
SELECT w.webhook_key, w.purpose, w.sealed, w.created_at, w.failing_since, w.disabled_at,
       (SELECT count(*) FROM access.outbox AS o WHERE o.webhook_key = w.webhook_key AND o.ended_at IS NULL) AS waiting
FROM access.webhook AS w
WHERE w.recipient_key = $1
ORDER BY w.created_at, w.webhook_key

-- name: remove_webhook
DELETE FROM access.webhook WHERE webhook_key = $1 AND recipient_key = $2 RETURNING webhook_key

-- name: test_webhook
WITH mine AS (
    SELECT webhook_key FROM access.webhook WHERE webhook_key = $1 AND recipient_key = $2 FOR UPDATE
),
waiting AS (
    SELECT o.message_key FROM access.outbox AS o JOIN mine USING (webhook_key)
    WHERE o.event = 'test' AND o.ended_at IS NULL LIMIT 1
),
made AS (
    INSERT INTO access.outbox (webhook_key, event, created_at, due_at)
    SELECT webhook_key, 'test', $3, $3 FROM mine WHERE NOT EXISTS (SELECT FROM waiting)
    RETURNING message_key
)
SELECT message_key FROM made UNION ALL SELECT message_key FROM waiting

-- name: want_mail
INSERT INTO access.alert_mail (alert_mail_key, account_key, recipient_key, owner_key, purpose, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING

-- name: wanted_mail
SELECT purpose FROM access.alert_mail WHERE account_key = $1 ORDER BY purpose NULLS FIRST

-- name: end_mail
DELETE FROM access.alert_mail WHERE account_key = $1 AND purpose IS NOT DISTINCT FROM $2

-- All that may be told something, for the round that looks for what is new.
-- name: targets
SELECT webhook_key, NULL::bigint AS alert_mail_key, recipient_key, NULL::bigint AS owner_key, purpose, created_at
FROM access.webhook WHERE disabled_at IS NULL AND $1
UNION ALL
SELECT NULL, alert_mail_key, recipient_key, owner_key, purpose, created_at FROM access.alert_mail WHERE $2
ORDER BY recipient_key NULLS LAST, purpose, owner_key

-- name: enqueue
INSERT INTO access.outbox (webhook_key, alert_mail_key, alert_key, event, created_at, due_at)
SELECT $1, $2, alert_key, $4, $5, $5 FROM unnest($3::bigint[]) AS alert_key
ON CONFLICT DO NOTHING
RETURNING message_key

-- name: enqueue_end
INSERT INTO access.outbox (webhook_key, alert_mail_key, alert_key, event, created_at, due_at)
SELECT $1, $2, alert_key, $4, $5, $5 FROM unnest($3::bigint[]) AS alert_key
WHERE EXISTS (
    SELECT FROM access.outbox AS o
    WHERE (o.webhook_key = $1 OR o.alert_mail_key = $2) AND o.alert_key = alert_key.alert_key AND o.event = 'opened'
)
ON CONFLICT DO NOTHING
RETURNING message_key

-- Take what is due, so that nobody else does before the lease is over. Whoever is killed meanwhile has taken nothing.
-- name: claim
WITH due AS (
    SELECT message_key FROM access.outbox
    WHERE ended_at IS NULL AND due_at <= $1
        AND (webhook_key IS NULL OR $4) AND (alert_mail_key IS NULL OR $5)
    ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE access.outbox AS o SET due_at = $2, attempts = o.attempts + 1
    FROM due WHERE o.message_key = due.message_key
    RETURNING o.*
)
SELECT t.message_key, t.webhook_key, t.alert_mail_key, t.alert_key, t.event, t.created_at, t.attempts, t.due_at,
       coalesce(w.recipient_key, m.recipient_key) AS recipient_key, m.owner_key, coalesce(w.purpose, m.purpose) AS purpose,
       w.sealed, w.failing_since, w.disabled_at, m.account_key
FROM taken AS t
LEFT JOIN access.webhook AS w USING (webhook_key)
LEFT JOIN access.alert_mail AS m USING (alert_mail_key)
ORDER BY t.created_at, t.message_key

-- Whoever lost the lease changes nothing.
-- name: end_message
UPDATE access.outbox SET ended_at = $3, ended_as = $4
WHERE message_key = $1 AND ended_at IS NULL AND (due_at = $2 OR $4 = 'delivered')

-- name: retry_message
UPDATE access.outbox SET due_at = $3 WHERE message_key = $1 AND ended_at IS NULL AND due_at = $2

-- name: working
UPDATE access.webhook SET failing_since = NULL, disabled_at = NULL, disabled_as = NULL
WHERE webhook_key = $1 AND (failing_since IS NOT NULL OR disabled_at IS NOT NULL)

-- name: idle
UPDATE access.webhook AS w SET failing_since = NULL
WHERE webhook_key = $1 AND disabled_at IS NULL AND failing_since IS NOT NULL
    AND NOT EXISTS (SELECT FROM access.outbox AS o WHERE o.webhook_key = w.webhook_key AND o.ended_at IS NULL)

-- name: failing
UPDATE access.webhook SET failing_since = coalesce(failing_since, $2) WHERE webhook_key = $1

-- name: disable
WITH gone AS (
    UPDATE access.webhook SET disabled_at = $2, disabled_as = $3 WHERE webhook_key = $1 AND disabled_at IS NULL
)
UPDATE access.outbox SET ended_at = $2, ended_as = 'given_up' WHERE webhook_key = $1 AND ended_at IS NULL

-- name: forget
DELETE FROM access.outbox WHERE ended_at < $1

-- name: forget_mail
DELETE FROM access.alert_mail WHERE alert_mail_key = $1

-- name: waiting
SELECT count(*) FROM access.outbox WHERE ended_at IS NULL
