-- What the role of the views can read at all, whatever the code above it asks for: row-level security by grant.
--
-- Whoever reads says who looks, inside its transaction: set_config('telemetry.recipient', …, true) and
-- set_config('telemetry.purpose', …, true), or set_config('telemetry.owner', …, true) for an owner's own view. Unset
-- or '' admits nothing, and a recipient and an owner at once admit nothing either. 'telemetry.scope' ({1,2,…}: owner
-- keys) narrows a statement to some owners, so that it need not add up what others granted; it widens nothing.
--
-- Policies run for every row. Those on places, devices and readings therefore ask one value that is worked out once
-- a statement (an InitPlan): sorted arrays, hashed or searched by width_bucket. It knows nothing finer than site,
-- kind and instant: fields and resolutions are cut above it (telemetry.privacy.combine), which looks at every grant anew.
-- Each line marked "predicate" has a test that fails without it.

-- Without SET they are inlined; they name nothing that a search path could change.
CREATE FUNCTION consent.viewing_owner() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN coalesce(pg_catalog.current_setting('telemetry.recipient', true), '') = '' -- predicate: not both
        THEN nullif(pg_catalog.current_setting('telemetry.owner', true), '')::bigint END
$$;

CREATE FUNCTION consent.viewing_recipient() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN coalesce(pg_catalog.current_setting('telemetry.owner', true), '') = '' -- predicate: not both
        THEN nullif(pg_catalog.current_setting('telemetry.recipient', true), '')::bigint END
$$;

CREATE FUNCTION consent.viewing_purpose() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT nullif(pg_catalog.current_setting('telemetry.purpose', true), '') $$;

CREATE FUNCTION consent.viewing_scope() RETURNS bigint[]
LANGUAGE sql STABLE PARALLEL SAFE
AS $$ SELECT nullif(pg_catalog.current_setting('telemetry.scope', true), '')::bigint[] $$;

-- Grants of the recipient and purpose that count now. Denials win.
CREATE FUNCTION consent.grants_in_force() RETURNS SETOF consent.active_grant
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.*
    FROM consent.active_grant AS g
    JOIN consent.owner AS o USING (owner_key)
    JOIN consent.recipient AS r USING (recipient_key)
    JOIN consent.policy AS p USING (policy)
    WHERE g.recipient_key = (SELECT consent.viewing_recipient()) -- predicate: recipient
        AND g.purpose = (SELECT consent.viewing_purpose()) -- predicate: purpose
        AND ((SELECT consent.viewing_scope()) IS NULL OR g.owner_key = ANY ((SELECT consent.viewing_scope())::bigint[])) -- predicate: scope
        AND g.start <= now() -- predicate: begun
        AND (g.until IS NULL OR now() < g.until) -- predicate: not over
        AND o.erased_at IS NULL -- predicate: not erased
        AND (r.closed_at IS NULL OR now() < r.closed_at) -- predicate: recipient open
        AND (p.expires_at IS NULL OR now() < p.expires_at) -- predicate: policy holds
        AND NOT EXISTS ( -- predicate: not restricted
            SELECT FROM consent.restriction AS x
            WHERE x.owner_key = g.owner_key AND (x.lifted_at IS NULL OR now() < x.lifted_at)
        ) -- end
        AND NOT EXISTS ( -- predicate: no objection
            SELECT FROM consent.objection AS x
            WHERE x.owner_key = g.owner_key AND x.purpose = g.purpose
                AND (x.recipient_key IS NULL OR x.recipient_key = g.recipient_key)
                AND (x.withdrawn_at IS NULL OR now() < x.withdrawn_at)
        ) -- end
$$;

-- Devices that may be seen, with the first instant granted and the edges of the tenure; by key.
CREATE FUNCTION consent.seen_devices() RETURNS TABLE (
    device_key bigint, site_key bigint, owner_key bigint, place text,
    seen_from timestamptz, tenure_from timestamptz, tenure_until timestamptz
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.device_key, s.site_key, s.owner_key,
        CASE WHEN bool_or(g.place = 'exact' OR g.place LIKE 'cell%') THEN 'cell'
            WHEN bool_or(g.place <> 'withheld') THEN 'coarse' ELSE 'withheld' END,
        min(greatest(
            g.data_from, -- predicate: data_from
            now() - g.history, -- predicate: history
            '-infinity'
        )),
        coalesce(s.tenure_from, '-infinity'),
        coalesce(s.tenure_until, 'infinity')
    FROM consent.grants_in_force() AS g
    JOIN consent.site AS s
        ON s.owner_key = g.owner_key -- predicate: owner
        AND (g.sites IS NULL OR s.site_key = ANY (g.sites)) -- predicate: site
    JOIN consent.device AS d
        ON d.site_key = s.site_key
        AND (g.kinds IS NULL OR d.kind = ANY (g.kinds)) -- predicate: kind
    GROUP BY d.device_key, s.site_key
    UNION ALL
    SELECT d.device_key, s.site_key, s.owner_key, 'cell', '-infinity',
        coalesce(s.tenure_from, '-infinity'), coalesce(s.tenure_until, 'infinity')
    FROM consent.owner AS o
    JOIN consent.site AS s USING (owner_key)
    JOIN consent.device AS d USING (site_key)
    WHERE o.owner_key = (SELECT consent.viewing_owner()) -- predicate: own
        AND o.erased_at IS NULL -- predicate: own, not erased
$$;

-- The same as one value. `shut_*`: instants that were measured under a restriction, device by device.
CREATE TYPE consent.sight AS (
    devices bigint[],
    seen_from timestamptz[],
    tenure_from timestamptz[],
    tenure_until timestamptz[],
    sites bigint[],
    placed bigint[],
    celled bigint[],
    shut bigint[],
    shut_from timestamptz[],
    shut_until timestamptz[]
);

CREATE FUNCTION consent.sight() RETURNS consent.sight
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH seen AS MATERIALIZED (SELECT * FROM consent.seen_devices()),
    shut AS (
        SELECT s.device_key, x.from_at, x.lifted_at
        FROM seen AS s
        JOIN consent.restriction AS x USING (owner_key)
        WHERE consent.viewing_recipient() IS NOT NULL
    )
    SELECT (
        (SELECT coalesce(array_agg(device_key ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(seen_from ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(tenure_from ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(tenure_until ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(DISTINCT site_key ORDER BY site_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(DISTINCT site_key ORDER BY site_key), '{}') FROM seen WHERE place <> 'withheld'),
        (SELECT coalesce(array_agg(DISTINCT site_key ORDER BY site_key), '{}') FROM seen WHERE place = 'cell'),
        (SELECT coalesce(array_agg(device_key ORDER BY device_key, from_at), '{}') FROM shut),
        (SELECT coalesce(array_agg(from_at ORDER BY device_key, from_at), '{}') FROM shut),
        (SELECT coalesce(array_agg(lifted_at ORDER BY device_key, from_at), '{}') FROM shut)
    )::consent.sight
$$;

GRANT USAGE ON TYPE consent.sight TO telemetry_views;
GRANT EXECUTE ON FUNCTION consent.viewing_owner(), consent.viewing_recipient(), consent.viewing_purpose(),
    consent.sight() TO telemetry_views;

-- The functions above act as telemetry_owner, whom FORCE binds too; nobody can log in as it.
CREATE POLICY definer_looks ON consent.owner FOR SELECT TO telemetry_owner USING (true);
CREATE POLICY definer_looks ON consent.site FOR SELECT TO telemetry_owner USING (true);
CREATE POLICY definer_looks ON consent.device FOR SELECT TO telemetry_owner USING (true);

-- Settings: the reader adds them up once more, denials too, so it sees them of all who granted it something.
GRANT SELECT ON consent.active_grant, consent.restriction, consent.objection, consent.relation TO telemetry_views;
GRANT SELECT (owner_key, erased_at) ON consent.owner TO telemetry_views;
GRANT SELECT (recipient_key, closed_at) ON consent.recipient TO telemetry_views;
GRANT SELECT (policy, expires_at) ON consent.policy TO telemetry_views;
CREATE POLICY views_read ON consent.active_grant FOR SELECT TO telemetry_views USING (
    recipient_key = (SELECT consent.viewing_recipient()) -- predicate: recipient
    AND purpose = (SELECT consent.viewing_purpose()) -- predicate: purpose
);
CREATE POLICY views_read ON consent.recipient FOR SELECT TO telemetry_views USING (
    recipient_key = (SELECT consent.viewing_recipient()) -- predicate: recipient
);
CREATE POLICY views_read ON consent.policy FOR SELECT TO telemetry_views USING (
    (SELECT consent.viewing_recipient()) IS NOT NULL -- predicate: somebody looks
);
CREATE POLICY views_read ON consent.relation FOR SELECT TO telemetry_views USING (
    recipient_key = (SELECT consent.viewing_recipient()) -- predicate: recipient
);
CREATE POLICY views_read ON consent.owner FOR SELECT TO telemetry_views USING (
    owner_key = (SELECT consent.viewing_owner()) -- predicate: own
    OR EXISTS (SELECT FROM consent.active_grant AS g WHERE g.owner_key = owner.owner_key) -- predicate: granted
);
CREATE POLICY views_read ON consent.restriction FOR SELECT TO telemetry_views USING (
    EXISTS (SELECT FROM consent.active_grant AS g WHERE g.owner_key = restriction.owner_key) -- predicate: granted
);
CREATE POLICY views_read ON consent.objection FOR SELECT TO telemetry_views USING (
    purpose = (SELECT consent.viewing_purpose()) -- predicate: purpose
    AND (recipient_key IS NULL OR recipient_key = (SELECT consent.viewing_recipient())) -- predicate: recipient
    AND EXISTS (SELECT FROM consent.active_grant AS g WHERE g.owner_key = objection.owner_key) -- predicate: granted
);

-- Sites, devices and places. Neither a serial's blind index nor the cell itself.
GRANT SELECT (site_key, owner_key, tenure_from, tenure_until) ON consent.site TO telemetry_views;
GRANT SELECT (device_key, site_key, kind) ON consent.device TO telemetry_views;
GRANT SELECT (site_key, country, region, timezone) ON consent.site_place TO telemetry_views;
GRANT SELECT (recipient_key, site_key, label) ON consent.site_label TO telemetry_views;
CREATE POLICY views_read ON consent.site FOR SELECT TO telemetry_views USING (
    site_key IN (SELECT unnest(((SELECT consent.sight())).sites)) -- predicate: seen
);
CREATE POLICY views_read ON consent.device FOR SELECT TO telemetry_views USING (
    device_key IN (SELECT unnest(((SELECT consent.sight())).devices)) -- predicate: seen
);
CREATE POLICY views_read ON consent.site_place FOR SELECT TO telemetry_views USING (
    site_key IN (SELECT unnest(((SELECT consent.sight())).placed)) -- predicate: placed
);
CREATE POLICY views_read ON consent.site_label FOR SELECT TO telemetry_views USING (
    recipient_key = (SELECT consent.viewing_recipient()) -- predicate: recipient
    AND site_key IN (SELECT unnest(((SELECT consent.sight())).celled)) -- predicate: celled
);

-- Readings, through their parents alone: nobody but the worker and the rollup has a right on a partition.
GRANT USAGE ON SCHEMA readings, audit TO telemetry_views;
GRANT SELECT ON readings.hot, readings.late TO telemetry_views;
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
                WHERE x.device = device_key AND x.start <= ts AND ts < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);
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
                WHERE x.device = device_key AND x.start <= ts AND ts < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);

-- A window is seen where all of it may be; what lies before the tenure is nobody's and hides nothing.
GRANT SELECT ON readings.series TO telemetry_views;
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
                WHERE x.device = device_key AND x.start < window_end AND window_start < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);

-- A reader records its own reads and cannot read what is recorded.
GRANT INSERT (recipient_key, owner_key, purpose, way, fields, resolution, from_at, to_at) ON audit.read
    TO telemetry_views;
CREATE POLICY views_record ON audit.read FOR INSERT TO telemetry_views WITH CHECK (
    recipient_key = (SELECT consent.viewing_recipient()) -- predicate: recipient
    AND purpose = (SELECT consent.viewing_purpose()) -- predicate: purpose
    AND EXISTS (SELECT FROM consent.active_grant AS g WHERE g.owner_key = read.owner_key) -- predicate: granted
);
