-- Reading faster: names found again without adding up what everybody granted.

-- A recipient's own reads, newest first.
CREATE INDEX ON audit.read (recipient_key, read_key);

-- What has a name for the recipient, device by device: its site, its owner and the token epoch of both. It takes no
-- argument and tells no more than `consent.sight()` does: settings of the session decide, 'telemetry.scope' included.
CREATE FUNCTION consent.seen_names() RETURNS TABLE (
    devices bigint[], sites bigint[], owners bigint[], epochs integer[]
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(s.device_key ORDER BY s.device_key), '{}'),
        coalesce(array_agg(s.site_key ORDER BY s.device_key), '{}'),
        coalesce(array_agg(s.owner_key ORDER BY s.device_key), '{}'),
        coalesce(array_agg(r.epoch ORDER BY s.device_key), '{}')
    FROM consent.seen_devices() AS s
    JOIN consent.relation AS r
        ON r.owner_key = s.owner_key
        AND r.recipient_key = (SELECT consent.viewing_recipient())
$$;
GRANT EXECUTE ON FUNCTION consent.seen_names() TO telemetry_views;

-- What is kept of each field (Resolution.rank, 255 for nothing) of devices that are seen, if the last pass of the
-- rollup is as of `up_to` or later and began after the device got the plan that it has: then a field that has no
-- window has not been reported, and readings need not be searched for it.
CREATE FUNCTION consent.kept_since(up_to timestamptz) RETURNS TABLE (device_key bigint, kept_resolution bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.device_key, c.kept_resolution
    FROM readings.rollup_pass AS p, consent.seen_devices() AS s
    JOIN consent.device AS d USING (device_key)
    JOIN consent.plan_class AS c USING (plan_class)
    WHERE p.done_as_of >= up_to AND age(d.xmin) > age(p.done_since::xid)
$$;
GRANT EXECUTE ON FUNCTION consent.kept_since(timestamptz) TO telemetry_views;
CREATE POLICY definer_looks ON consent.plan_class FOR SELECT TO telemetry_owner USING (true);

-- Rows lie in the order in which passes wrote them, so a few blocks hold what one pass made effective. Whoever follows
-- what is new reads these and not the device's history.
CREATE INDEX series_effective ON readings.series USING brin (effective_at) WITH (pages_per_range = 16);

-- Where a follower stands: how far the rollup had come, and which transactions this snapshot sees. Both are of the
-- whole service and leave it sealed only.
CREATE FUNCTION consent.reading_position() RETURNS TABLE (done_us bigint, seen text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (extract(epoch FROM p.done_as_of) * 1000000)::bigint, pg_current_snapshot()::text
    FROM readings.rollup_pass AS p
$$;
GRANT EXECUTE ON FUNCTION consent.reading_position() TO telemetry_views;

-- Whether a row was written by a transaction that an earlier snapshot did not see. Row versions carry 32 bits.
CREATE FUNCTION consent.written_since(written xid, earlier pg_snapshot) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT pg_visible_in_snapshot(
        greatest(0, n.newest - ((n.newest - written::text::bigint) & 4294967295))::text::xid8, earlier
    )
    FROM (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS newest) AS n
$$;

-- Owners of whom something is seen whose settings count otherwise than at an earlier read: grants of the viewing
-- recipient and purpose, restrictions, and objections that concern both; written since, or begun or over since.
CREATE FUNCTION consent.renewed_since(before timestamptz, earlier pg_snapshot) RETURNS SETOF bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH seen AS MATERIALIZED (SELECT DISTINCT owner_key FROM consent.seen_devices())
    SELECT g.owner_key
    FROM consent.grant_version AS g JOIN seen USING (owner_key)
    WHERE g.recipient_key = (SELECT consent.viewing_recipient()) -- predicate: renewed, recipient
        AND g.purpose = (SELECT consent.viewing_purpose()) -- predicate: renewed, purpose
        AND (
            consent.written_since(g.xmin, earlier) -- predicate: renewed, written
            OR (before < g.start AND g.start <= now()) -- predicate: renewed, begun
            OR (before < g.until AND g.until <= now()) -- predicate: renewed, over
        )
    UNION
    SELECT x.owner_key
    FROM consent.restriction AS x JOIN seen USING (owner_key)
    WHERE consent.written_since(x.xmin, earlier) -- predicate: renewed, restriction
        OR (before < x.lifted_at AND x.lifted_at <= now()) -- predicate: renewed, lifted
    UNION
    SELECT x.owner_key
    FROM consent.objection AS x JOIN seen USING (owner_key)
    WHERE x.purpose = (SELECT consent.viewing_purpose()) -- predicate: renewed, objection's purpose
        AND (x.recipient_key IS NULL OR x.recipient_key = (SELECT consent.viewing_recipient())) -- predicate: renewed, objection's recipient
        AND (
            consent.written_since(x.xmin, earlier) -- predicate: renewed, objection
            OR (before < x.withdrawn_at AND x.withdrawn_at <= now()) -- predicate: renewed, objection withdrawn
        )
$$;
GRANT EXECUTE ON FUNCTION consent.renewed_since(timestamptz, pg_snapshot) TO telemetry_views;

-- As in 0008, and cheaper where nothing was ever restricted, which is nearly always: instants that were are looked
-- through only where there are any. A scan of an empty list was two thirds of what the policy cost a row.
DROP POLICY views_read ON readings.hot;
CREATE POLICY views_read ON readings.hot FOR SELECT TO telemetry_views USING (
    EXISTS (
        SELECT
        -- OFFSET 0: the value is worked out once a statement and not once a mention.
        FROM (SELECT (SELECT consent.sight()) AS sight OFFSET 0) AS once
        CROSS JOIN LATERAL (SELECT width_bucket(device_key, (sight).devices) AS place OFFSET 0) AS found
        WHERE (sight).devices[place] = device_key -- predicate: device
            AND ts >= (sight).seen_from[place] -- predicate: first instant
            AND ts >= (sight).tenure_from[place] -- predicate: tenure_from
            AND ts < (sight).tenure_until[place] -- predicate: tenure_until
            AND NOT EXISTS ( -- predicate: measured while restricted
                SELECT FROM unnest((sight).shut, (sight).shut_from, (sight).shut_until) AS x (device, start, lifted)
                WHERE cardinality((sight).shut) > 0 AND x.device = device_key AND x.start <= ts AND ts < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);
DROP POLICY views_read ON readings.late;
CREATE POLICY views_read ON readings.late FOR SELECT TO telemetry_views USING (
    EXISTS (
        SELECT
        FROM (SELECT (SELECT consent.sight()) AS sight OFFSET 0) AS once
        CROSS JOIN LATERAL (SELECT width_bucket(device_key, (sight).devices) AS place OFFSET 0) AS found
        WHERE (sight).devices[place] = device_key -- predicate: device
            AND ts >= (sight).seen_from[place] -- predicate: first instant
            AND ts >= (sight).tenure_from[place] -- predicate: tenure_from
            AND ts < (sight).tenure_until[place] -- predicate: tenure_until
            AND NOT EXISTS ( -- predicate: measured while restricted
                SELECT FROM unnest((sight).shut, (sight).shut_from, (sight).shut_until) AS x (device, start, lifted)
                WHERE cardinality((sight).shut) > 0 AND x.device = device_key AND x.start <= ts AND ts < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);
DROP POLICY views_read ON readings.series;
CREATE POLICY views_read ON readings.series FOR SELECT TO telemetry_views USING (
    EXISTS (
        SELECT
        FROM (SELECT (SELECT consent.sight()) AS sight OFFSET 0) AS once
        CROSS JOIN LATERAL (
            SELECT width_bucket(device_key, (sight).devices) AS place,
                -- At least so long: days of 23 hours and months of 28 days on a site's own grid.
                window_start + CASE resolution
                    WHEN 1 THEN interval '1 minute'
                    WHEN 2 THEN interval '15 minutes'
                    WHEN 3 THEN interval '30 minutes'
                    WHEN 4 THEN interval '1 hour'
                    WHEN 5 THEN CASE grid WHEN 0 THEN interval '24 hours' ELSE interval '23 hours' END
                    ELSE interval '672 hours'
                END AS window_end
            OFFSET 0
        ) AS found
        WHERE (sight).devices[place] = device_key -- predicate: device
            AND greatest(window_start, (sight).tenure_from[place]) >= (sight).seen_from[place] -- predicate: first instant
            AND window_end > (sight).tenure_from[place] -- predicate: tenure_from
            AND window_start < (sight).tenure_until[place] -- predicate: tenure_until
            AND NOT EXISTS ( -- predicate: measured while restricted
                SELECT FROM unnest((sight).shut, (sight).shut_from, (sight).shut_until) AS x (device, start, lifted)
                WHERE cardinality((sight).shut) > 0 AND x.device = device_key AND x.start < window_end AND window_start < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);
