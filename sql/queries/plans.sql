-- Statements of role telemetry_rights that keep the compiled plan; see store/plans.py for their order and why.

-- name: lock_owners
-- One who compiles an owner at a time, and no site of theirs is added meanwhile (consent.start_site). 64 locks in
-- ascending order, so that two cannot wait for each other. The owner's row stays free: whoever settles holds that.
SELECT pg_advisory_xact_lock(7312, bucket)
FROM (SELECT DISTINCT (owner_key & 63)::integer AS bucket FROM unnest($1::bigint[]) AS owner_key ORDER BY 1) AS buckets

-- name: clock
SELECT clock_timestamp()

-- name: transaction_clock
SELECT now()

-- name: owners
SELECT o.owner_key, o.erased_at IS NOT NULL AS erased, k.settings AS keeping
FROM consent.owner AS o
LEFT JOIN consent.keeping AS k USING (owner_key)
WHERE o.owner_key = ANY ($1::bigint[])

-- name: all_owners
SELECT owner_key FROM consent.owner WHERE owner_key > $1 ORDER BY owner_key LIMIT $2

-- name: marks
-- A mark's row version says which: made again while the owner is compiled, it is another.
SELECT owner_key, xmin::text AS seen FROM consent.dirty_owner WHERE owner_key = ANY ($1::bigint[])

-- name: clear_marks
DELETE FROM consent.dirty_owner AS d
USING unnest($1::bigint[], $2::text[]) AS read (owner_key, seen)
WHERE d.owner_key = read.owner_key AND d.xmin::text = read.seen

-- name: pending
-- Owners that were marked, then those whose grants begin or end by time.
SELECT owner_key FROM (
    SELECT owner_key, min(since) AS at FROM consent.dirty_owner GROUP BY owner_key
    UNION ALL
    SELECT owner_key, due_at FROM consent.owner_plan WHERE due_at <= now()
) AS waiting
GROUP BY owner_key
ORDER BY min(at)
LIMIT $1

-- name: next_due
SELECT min(due_at) FROM consent.owner_plan

-- name: sites
SELECT site_key, owner_key, plan_classes FROM consent.site WHERE owner_key = ANY ($1::bigint[]) ORDER BY site_key

-- name: grants
SELECT grant_key, version, owner_key, recipient_key, state, purpose, sites, kinds, classes, fields, resolution, serial,
       place, extremes, history, data_from, start, until, epoch, policy, recorded_at
FROM consent.active_grant
WHERE owner_key = ANY ($1::bigint[])
ORDER BY grant_key

-- name: policies
SELECT policy, expires_at FROM consent.policy

-- name: closed_recipients
SELECT recipient_key FROM consent.recipient WHERE closed_at IS NOT NULL

-- name: objections
SELECT owner_key, purpose, recipient_key
FROM consent.objection
WHERE owner_key = ANY ($1::bigint[]) AND withdrawn_at IS NULL

-- name: class_numbers
SELECT digest, plan_class FROM consent.plan_class WHERE digest = ANY ($1::bytea[])

-- name: lock_classes
-- New classes are numbered by one transaction at a time, so that numbers are dense and appear in their order.
SELECT pg_advisory_xact_lock(7310, 4)

-- name: add_classes
INSERT INTO consent.plan_class (plan_class, digest, keep, kept_resolution, retention_days, withhold)
SELECT (SELECT max(plan_class) FROM consent.plan_class) + ordinality, digest, keep, kept_resolution,
       string_to_array(days, ',')::smallint[], withhold
FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::text[], $5::text[])
    WITH ORDINALITY AS new (digest, keep, kept_resolution, days, withhold, ordinality)
RETURNING digest, plan_class

-- name: lock_enrolment
-- As registry.lock_enrolment: a device that enrols meanwhile is either seen below or starts under the new class.
SELECT pg_advisory_xact_lock(7311, bucket)
FROM (
    SELECT DISTINCT (gateway_key & 63)::integer AS bucket
    FROM consent.gateway
    WHERE site_key = ANY ($1::bigint[])
    ORDER BY 1
) AS buckets

-- name: set_sites
UPDATE consent.site AS s
SET plan_classes = string_to_array(new.classes, ',')::integer[]
FROM unnest($1::bigint[], $2::text[]) AS new (site_key, classes)
WHERE s.site_key = new.site_key AND s.plan_classes <> string_to_array(new.classes, ',')::integer[]
RETURNING s.site_key

-- name: set_devices
UPDATE consent.device AS d
SET plan_class = s.plan_classes[d.kind]
FROM consent.site AS s
WHERE s.site_key = ANY ($1::bigint[]) AND d.site_key = s.site_key AND d.plan_class <> s.plan_classes[d.kind]
RETURNING d.site_key

-- name: set_owner_plan
INSERT INTO consent.owner_plan AS p (owner_key, site_classes, due_at)
SELECT owner_key, string_to_array(site_classes, ',')::integer[], due_at
FROM unnest($1::bigint[], $2::text[], $3::timestamptz[]) AS new (owner_key, site_classes, due_at)
ON CONFLICT (owner_key) DO UPDATE SET site_classes = EXCLUDED.site_classes, due_at = EXCLUDED.due_at
WHERE (p.site_classes, p.due_at) IS DISTINCT FROM (EXCLUDED.site_classes, EXCLUDED.due_at)

-- name: drop_owner_plan
DELETE FROM consent.owner_plan WHERE owner_key = ANY ($1::bigint[])

-- name: version
SELECT version FROM consent.state

-- name: bump_version
SELECT consent.bump_version($1::text[], $2::bigint[])

-- name: prune_changes
SELECT consent.prune_changes($1::interval)

-- name: stored_plan
-- What workers go by, for `telemetry plan check`: classes of sites, of devices that differ from their site's, of
-- sites that are added later.
SELECT s.site_key, s.owner_key, s.plan_classes,
       (SELECT count(*) FROM consent.device AS d
        WHERE d.site_key = s.site_key AND d.plan_class <> s.plan_classes[d.kind]) AS astray
FROM consent.site AS s
WHERE s.owner_key = ANY ($1::bigint[])
ORDER BY s.site_key

-- name: later_classes
SELECT owner_key, site_classes, due_at FROM consent.owner_plan WHERE owner_key = ANY ($1::bigint[])

-- name: classes
SELECT plan_class, keep, kept_resolution, retention_days, withhold FROM consent.plan_class
WHERE plan_class = ANY ($1::integer[])
