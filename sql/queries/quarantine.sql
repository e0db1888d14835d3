-- Messages that could not be accepted. Nothing here opens them.

-- In key order, for the same reason as everywhere. A message that is known already adds to `seen` alone; one whose
-- payload is not kept (beyond the gateway's quota) has nothing that could be recovered.
-- name: hold
INSERT INTO readings.quarantine AS q
    (gateway_key, owner_key, reason, codec, detail, readings, size_bytes, digest, sealed, seen, state)
SELECT m.*, CASE WHEN length(m.sealed) = 0 THEN 'discarded' ELSE 'held' END FROM unnest(
    $1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bytea[],
    $9::bytea[], $10::bigint[]
) AS m (gateway_key, owner_key, reason, codec, detail, readings, size_bytes, digest, sealed, seen)
ORDER BY gateway_key, digest
ON CONFLICT (gateway_key, digest) DO UPDATE SET seen = q.seen + EXCLUDED.seen
RETURNING gateway_key, digest, seen;

-- name: summary
SELECT reason, codec, state, count(*) AS messages, sum(readings)::bigint AS readings, sum(seen)::bigint AS seen
FROM readings.quarantine
GROUP BY reason, codec, state
ORDER BY messages DESC, reason, codec, state;

-- name: list
SELECT
    quarantine_key, gateway_key, owner_key, reason, codec, detail, readings, size_bytes, received_hour, seen, state
FROM readings.quarantine
WHERE ($1::text IS NULL OR reason = $1)
    AND ($2::text IS NULL OR codec = $2)
    AND ($3::bigint IS NULL OR gateway_key = $3)
    AND ($4::text IS NULL OR state = $4)
    AND quarantine_key > $5
ORDER BY quarantine_key
LIMIT $6;

-- name: fetch
SELECT quarantine_key, gateway_key, owner_key, reason, codec, digest, sealed
FROM readings.quarantine
WHERE quarantine_key = ANY($1::bigint[]) AND state = 'held'
ORDER BY quarantine_key;

-- The row stays, so that the message is known when it comes again; its content goes.
-- name: settle
WITH settled AS (
    UPDATE readings.quarantine SET state = $2, sealed = ''
    WHERE quarantine_key = ANY($1::bigint[]) AND state = 'held'
    RETURNING 1
)
SELECT count(*) FROM settled;
