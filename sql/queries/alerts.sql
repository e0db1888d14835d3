-- Alerts: found by the job, shown by the views. Instants travel as µs since 1970.

-- name: subjects
SELECT device_key, kind, plan_class, cell7, timezone FROM consent.alert_subjects()

-- name: classes
SELECT plan_class, kept_resolution, retention_days FROM consent.plan_class

-- The newest alert of each device, of one kind.
-- name: newest
SELECT DISTINCT ON (device_key) device_key, (extract(epoch FROM opened_at) * 1000000)::bigint AS opened,
       (extract(epoch FROM closed_at) * 1000000)::bigint AS closed, severity
FROM readings.alert
WHERE kind = $1 AND ($2::bigint[] IS NULL OR device_key = ANY ($2::bigint[]))
ORDER BY device_key, opened_at DESC

-- name: open
INSERT INTO readings.alert (alert_key, device_key, kind, opened_at, closed_at, severity, found_at, settled_at)
SELECT alert_key, device_key, $2, 'epoch'::timestamptz + opened * interval '1 microsecond',
       'epoch'::timestamptz + closed * interval '1 microsecond', severity,
       'epoch'::timestamptz + $7::bigint * interval '1 microsecond',
       CASE WHEN closed IS NOT NULL THEN 'epoch'::timestamptz + $7::bigint * interval '1 microsecond' END
FROM unnest($1::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[])
    AS v (alert_key, device_key, opened, closed, severity)
WHERE EXISTS (SELECT FROM consent.device AS d WHERE d.device_key = v.device_key)
ON CONFLICT DO NOTHING

-- name: close
UPDATE readings.alert AS a
SET closed_at = greatest(a.opened_at, 'epoch'::timestamptz + v.closed * interval '1 microsecond'),
    settled_at = 'epoch'::timestamptz + $4::bigint * interval '1 microsecond'
FROM unnest($2::bigint[], $3::bigint[]) AS v (device_key, closed)
WHERE a.device_key = v.device_key AND a.kind = $1 AND a.closed_at IS NULL

-- Alerts that nobody can be looking for any more.
-- name: forget
DELETE FROM readings.alert AS a
USING consent.device AS d JOIN unnest($1::integer[], $2::bigint[]) AS v (plan_class, before_us) USING (plan_class)
WHERE d.device_key = a.device_key
    AND a.closed_at < 'epoch'::timestamptz + v.before_us * interval '1 microsecond'

-- name: open_devices
SELECT device_key FROM readings.alert WHERE kind = $1 AND closed_at IS NULL

-- Rows that say that something is wrong: SunSpec's fault, any bit or code where no severity makes it harmless.
-- name: alarming
SELECT DISTINCT device_key FROM readings.hot
WHERE ts >= 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
    AND (alert_bits > 0 OR alert_code > 0 OR alert_severity_code <= 4 OR operating_state_code = 7)

-- name: alarm_rows
SELECT device_key, (extract(epoch FROM ts) * 1000000)::bigint AS ts,
       alert_bits, alert_code, alert_severity_code, operating_state_code
FROM readings.hot
WHERE ts >= 'epoch'::timestamptz + $1::bigint * interval '1 microsecond'
    AND ts < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond' AND device_key = ANY ($3::bigint[])
    AND coalesce(alert_bits, alert_code, alert_severity_code, operating_state_code) IS NOT NULL
ORDER BY device_key, ts

-- name: rhythm_due
SELECT d.device_key FROM unnest($1::bigint[]) AS d (device_key)
LEFT JOIN readings.alert_rhythm AS r USING (device_key)
WHERE r.learnt_at IS NULL OR r.learnt_at < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'
ORDER BY d.device_key

-- When each device was heard, by window: nothing of what it said.
-- name: heard
SELECT device_key, (extract(epoch FROM window_start) * 1000000)::bigint AS start, min(resolution) AS resolution
FROM readings.series
WHERE device_key = ANY ($1::bigint[]) AND grid = 0 AND covered_ms > 0
    AND window_start >= 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'
    AND window_start < 'epoch'::timestamptz + $3::bigint * interval '1 microsecond'
GROUP BY device_key, window_start
ORDER BY device_key, window_start

-- name: learn
INSERT INTO readings.alert_rhythm AS r (device_key, heard_at, silence_s, learnt_at)
SELECT device_key, 'epoch'::timestamptz + heard * interval '1 microsecond', silence_s,
       'epoch'::timestamptz + $4::bigint * interval '1 microsecond'
FROM unnest($1::bigint[], $2::bigint[], $3::integer[]) AS v (device_key, heard, silence_s)
WHERE EXISTS (SELECT FROM consent.device AS d WHERE d.device_key = v.device_key)
ON CONFLICT (device_key) DO UPDATE SET
    heard_at = greatest(r.heard_at, EXCLUDED.heard_at), silence_s = EXCLUDED.silence_s, learnt_at = EXCLUDED.learnt_at

-- Devices that may be silent for too long, as far as is known, and those that were found to be.
-- name: perhaps_silent
SELECT r.device_key, (extract(epoch FROM r.heard_at) * 1000000)::bigint AS heard, r.silence_s
FROM readings.alert_rhythm AS r
WHERE r.device_key = ANY ($1::bigint[]) AND r.silence_s IS NOT NULL
    AND r.heard_at + r.silence_s * interval '1 second' < 'epoch'::timestamptz + $2::bigint * interval '1 microsecond'

-- The first and the last time that devices were heard after an instant, each its own: readings, and windows by their end.
-- name: heard_since
SELECT v.device_key, (extract(epoch FROM least(h.first, l.first, s.first)) * 1000000)::bigint AS first,
       (extract(epoch FROM greatest(h.last, l.last, s.last)) * 1000000)::bigint AS last
FROM (
    SELECT device_key, 'epoch'::timestamptz + heard * interval '1 microsecond' AS heard
    FROM unnest($1::bigint[], $2::bigint[]) AS u (device_key, heard)
) AS v
LEFT JOIN (
    SELECT device_key, min(ts) AS first, max(ts) AS last
    FROM readings.hot JOIN unnest($1::bigint[], $2::bigint[]) AS u (device_key, heard) USING (device_key)
    WHERE ts > 'epoch'::timestamptz + u.heard * interval '1 microsecond' GROUP BY device_key
) AS h USING (device_key)
LEFT JOIN (
    SELECT device_key, min(ts) AS first, max(ts) AS last
    FROM readings.late JOIN unnest($1::bigint[], $2::bigint[]) AS u (device_key, heard) USING (device_key)
    WHERE ts > 'epoch'::timestamptz + u.heard * interval '1 microsecond' GROUP BY device_key
) AS l USING (device_key)
LEFT JOIN LATERAL (
    SELECT min(window_start) AS first, max(window_start) AS last
    FROM readings.series AS w
    WHERE w.device_key = v.device_key AND w.window_start > v.heard AND w.covered_ms > 0 AND w.grid = 0
) AS s ON true

-- name: note_heard
UPDATE readings.alert_rhythm AS r
SET heard_at = greatest(r.heard_at, 'epoch'::timestamptz + v.heard * interval '1 microsecond')
FROM unnest($1::bigint[], $2::bigint[]) AS v (device_key, heard)
WHERE r.device_key = v.device_key

-- What a viewer may see of these devices: row-level security says which.
-- name: seen
SELECT alert_key, device_key, kind, (extract(epoch FROM opened_at) * 1000000)::bigint AS opened,
       (extract(epoch FROM closed_at) * 1000000)::bigint AS closed, severity,
       (extract(epoch FROM found_at) * 1000000)::bigint AS found,
       (extract(epoch FROM settled_at) * 1000000)::bigint AS settled
FROM readings.alert
WHERE device_key = ANY ($1::bigint[])
    AND opened_at < 'epoch'::timestamptz + $3::bigint * interval '1 microsecond'
    AND (closed_at IS NULL OR closed_at >= 'epoch'::timestamptz + $2::bigint * interval '1 microsecond')
    AND ($4::bigint[] IS NULL OR alert_key = ANY ($4::bigint[]))
    AND ($5::bigint IS NULL
        OR found_at >= 'epoch'::timestamptz + $5::bigint * interval '1 microsecond'
        OR settled_at >= 'epoch'::timestamptz + $5::bigint * interval '1 microsecond')
