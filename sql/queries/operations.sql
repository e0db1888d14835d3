-- Figures for whoever runs the service: counts and instants, nothing of anybody. Role telemetry_operator.

-- name: health
SELECT now() AS now,
    (SELECT version FROM consent.state) AS plan_version,
    (SELECT count(*) FROM consent.dirty_owner) AS owners_to_compile,
    (SELECT min(since) FROM consent.dirty_owner) AS compiling_since,
    (SELECT done_as_of FROM readings.rollup_pass) AS rolled_up_to,
    (SELECT count(*) FROM migrations.applied) AS migrations

-- name: connections
SELECT usename::text AS role, count(*) AS connections
FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND usename LIKE 'telemetry\_%'
GROUP BY usename
ORDER BY usename

-- name: registry
SELECT (SELECT count(*) FROM consent.owner WHERE erased_at IS NULL) AS owners,
    (SELECT count(*) FROM consent.site WHERE tenure_until IS NULL OR tenure_until > now()) AS sites,
    (SELECT count(*) FROM consent.gateway WHERE revoked_at IS NULL) AS gateways,
    (SELECT count(*) FROM consent.device WHERE retired_at IS NULL) AS devices,
    (SELECT count(DISTINCT gateway_key) FROM readings.sequence) AS gateways_counting

-- What was written by the hour, as the server counts it since its statistics began: rows that were added.
-- name: hours
SELECT to_timestamp(right(relname::text, 10) || '+00', 'YYYYMMDDHH24TZH') AS hour,
    CASE WHEN relname LIKE 'late%' THEN 'late' ELSE 'hot' END AS kind,
    n_tup_ins AS readings
FROM pg_catalog.pg_stat_user_tables
WHERE schemaname = 'readings' AND relname ~ '^(hot|sealed|late)_[0-9]{10}$' AND n_tup_ins > 0
ORDER BY hour, kind
