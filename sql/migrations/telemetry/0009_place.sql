-- Place labels (rule 24): what the job that keeps them may read, and what it keeps.
--
-- The job has role telemetry_rollup. It never reads who granted what: two functions tell it how many sites are in
-- each cell, and up to which cell each recipient may see which site.

-- A label is for what was granted when it was made: 4 to 7 a cell, 8 the exact place (which needs no label).
ALTER TABLE consent.site_label DROP CONSTRAINT site_label_granted_check;
ALTER TABLE consent.site_label ADD CONSTRAINT site_label_granted_check CHECK (granted BETWEEN 4 AND 8);
CREATE INDEX ON consent.site_label (site_key);

-- On which day (UTC) all of a recipient's labels were last decided anew: they change at most once a day.
CREATE TABLE consent.label_day (
    recipient_key bigint PRIMARY KEY REFERENCES consent.recipient,
    decided_on date NOT NULL
);
ALTER TABLE consent.label_day ENABLE ROW LEVEL SECURITY;
ALTER TABLE consent.label_day FORCE ROW LEVEL SECURITY;
CREATE POLICY rollup_keeps ON consent.label_day TO telemetry_rollup USING (true) WITH CHECK (true);
CREATE POLICY rollup_keeps ON consent.site_label TO telemetry_rollup USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (decided_on) ON consent.label_day TO telemetry_rollup;
GRANT SELECT, INSERT, UPDATE (granted, label, changed_on), DELETE ON consent.site_label TO telemetry_rollup;

-- How many homes are in each cell of resolution 7: of living owners, and of this tenure (a sold home counts once).
CREATE FUNCTION consent.cell_population() RETURNS TABLE (cell7 bigint, sites bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.cell7, count(*)
    FROM consent.site_place AS p
    JOIN consent.site AS s USING (site_key)
    JOIN consent.owner AS o USING (owner_key)
    WHERE p.cell7 IS NOT NULL
        AND o.erased_at IS NULL -- predicate: population, not erased
        AND (s.tenure_until IS NULL OR now() < s.tenure_until) -- predicate: population, this tenure
    GROUP BY p.cell7
$$;

-- The finest cell that the recipient's grants in force allow of each site, over all purposes: 4 to 7, or 8 for exact.
-- A recipient knows what it was shown for any purpose, so its labels are one set; a view cuts them to its purpose.
CREATE FUNCTION consent.cells_granted(recipient bigint)
RETURNS TABLE (site_key bigint, cell7 bigint, granted smallint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.site_key, p.cell7,
        max(CASE g.place WHEN 'exact' THEN 8 ELSE right(g.place, 1)::smallint END)::smallint
    FROM consent.active_grant AS g
    JOIN consent.owner AS o USING (owner_key)
    JOIN consent.recipient AS r USING (recipient_key)
    JOIN consent.policy AS l USING (policy)
    JOIN consent.site AS s
        ON s.owner_key = g.owner_key
        AND (g.sites IS NULL OR s.site_key = ANY (g.sites)) -- predicate: label, site
    JOIN consent.site_place AS p ON p.site_key = s.site_key
    WHERE g.recipient_key = recipient -- predicate: label, recipient
        AND (g.place = 'exact' OR g.place LIKE 'cell%') -- predicate: label, place
        AND p.cell7 IS NOT NULL
        AND g.start <= now() -- predicate: label, begun
        AND (g.until IS NULL OR now() < g.until) -- predicate: label, not over
        AND o.erased_at IS NULL -- predicate: label, not erased
        AND (r.closed_at IS NULL OR now() < r.closed_at) -- predicate: label, recipient open
        AND (l.expires_at IS NULL OR now() < l.expires_at) -- predicate: label, policy holds
        AND NOT EXISTS ( -- predicate: label, not restricted
            SELECT FROM consent.restriction AS x
            WHERE x.owner_key = g.owner_key AND x.from_at <= now() AND (x.lifted_at IS NULL OR now() < x.lifted_at)
        ) -- end
        AND NOT EXISTS ( -- predicate: label, no objection
            SELECT FROM consent.objection AS x
            WHERE x.owner_key = g.owner_key AND x.purpose = g.purpose
                AND (x.recipient_key IS NULL OR x.recipient_key = g.recipient_key)
                AND (x.withdrawn_at IS NULL OR now() < x.withdrawn_at)
        ) -- end
    GROUP BY s.site_key, p.cell7
$$;

-- Recipients whose labels these owners may concern; null: all who have grants with a place, or labels.
CREATE FUNCTION consent.recipients_placed(owners bigint[]) RETURNS SETOF bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT g.recipient_key
    FROM consent.active_grant AS g
    WHERE (g.place = 'exact' OR g.place LIKE 'cell%') AND (owners IS NULL OR g.owner_key = ANY (owners))
    UNION
    SELECT l.recipient_key
    FROM consent.site_label AS l
    JOIN consent.site AS s USING (site_key)
    WHERE owners IS NULL OR s.owner_key = ANY (owners)
$$;
GRANT EXECUTE ON FUNCTION consent.cell_population(), consent.cells_granted(bigint), consent.recipients_placed(bigint[])
    TO telemetry_rollup;
