-- The compiled plan: classes by content, a class for every site and kind of device, what changed and when.
--
-- A million owners with some hundred different settings need some hundred classes. Compiling is done outside
-- (telemetry.privacy.compile); what is here is its result, and enough of a feed for workers to follow it.

-- Never changed once written, so that a number means the same to every worker. Numbers are dense, given in order
-- of commit (advisory lock 7310, 4), and not given back.
CREATE TABLE consent.plan_class (
    plan_class integer PRIMARY KEY CHECK (plan_class >= 0),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32), -- SHA-256 of the columns below
    keep bytea NOT NULL, -- a byte for each field of the catalogue: 1 where it may be stored
    kept_resolution bytea NOT NULL, -- Resolution.rank of each field; 255 where nothing is kept
    retention_days smallint[] NOT NULL, -- by DataClass, in its order
    withhold text CHECK (withhold IN ('erased')),
    CHECK (octet_length(keep) = octet_length(kept_resolution))
);
-- Class 0 is that of an owner who settled nothing: everything at PT15M for three years (a test holds it equal to
-- what is compiled from the defaults).
INSERT INTO consent.plan_class (plan_class, digest, keep, kept_resolution, retention_days)
SELECT 0, sha256(keep || kept || decode(repeat('044a', 9), 'hex')), keep, kept, array_fill(1098::smallint, ARRAY[9])
FROM (
    SELECT decode(repeat('01', 71), 'hex') AS keep, decode(repeat('02', 71), 'hex') AS kept
) AS everything;

-- Six classes a site, by DeviceKind: what a device that enrols by itself starts under.
ALTER TABLE consent.site DROP COLUMN device_plan_class;
ALTER TABLE consent.site ADD COLUMN plan_classes integer[] NOT NULL DEFAULT '{0,0,0,0,0,0}'
    CHECK (cardinality(plan_classes) = 6 AND array_position(plan_classes, NULL) IS NULL);
ALTER TABLE consent.device ADD CONSTRAINT device_plan_class_fkey FOREIGN KEY (plan_class) REFERENCES consent.plan_class;

-- What a site that is added later starts under, and when grants begin or end by time, so that the owner is compiled
-- again. No row: class 0, and never.
CREATE TABLE consent.owner_plan (
    owner_key bigint PRIMARY KEY REFERENCES consent.owner,
    site_classes integer[] NOT NULL CHECK (cardinality(site_classes) = 6),
    due_at timestamptz
);
CREATE INDEX ON consent.owner_plan (due_at);

-- Whoever compiles an owner holds a lock of its own (7312, by owner), not the owner's row: settling waits for nobody
-- who compiles. A site that is added meanwhile does wait, and has the settings from its first reading on. An owner of
-- the same transaction settled nothing yet.
CREATE FUNCTION consent.start_site() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    classes integer[];
BEGIN
    IF EXISTS (SELECT FROM consent.owner WHERE owner_key = NEW.owner_key AND created_at < now()) THEN
        PERFORM pg_advisory_xact_lock_shared(7312, (NEW.owner_key & 63)::integer);
        SELECT site_classes INTO classes FROM consent.owner_plan WHERE owner_key = NEW.owner_key;
        NEW.plan_classes := coalesce(classes, NEW.plan_classes);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER start BEFORE INSERT ON consent.site FOR EACH ROW EXECUTE FUNCTION consent.start_site();

-- What each version changed for workers. `all`: load everything; `owner` and `site`: their gateways and devices;
-- `gateway`: itself. Complete for versions after state.feed_from.
CREATE TABLE consent.change (
    version bigint NOT NULL,
    kind text NOT NULL CHECK (kind IN ('all', 'owner', 'site', 'gateway')),
    key bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (version, kind, key)
);
CREATE INDEX ON consent.change (at);
ALTER TABLE consent.state ADD COLUMN feed_from bigint NOT NULL DEFAULT 0;
UPDATE consent.state SET feed_from = version;

-- As consent.bump_version() of 0001, and says what changed. So many keys that loading everything is quicker are not
-- written one by one: writers wait for this transaction.
CREATE FUNCTION consent.bump_version(kinds text[], keys bigint[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new_version bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7310, 1);
    UPDATE consent.state SET version = version + 1 RETURNING version INTO new_version;
    IF cardinality(kinds) > 10000 THEN
        INSERT INTO consent.change (version, kind, key) VALUES (new_version, 'all', 0) ON CONFLICT DO NOTHING;
    ELSE
        INSERT INTO consent.change (version, kind, key)
        SELECT DISTINCT new_version, kind, key FROM unnest(kinds, keys) AS changed (kind, key)
        ON CONFLICT DO NOTHING;
    END IF;
    PERFORM pg_notify('telemetry_change', new_version::text);
    RETURN new_version;
END
$$;
GRANT EXECUTE ON FUNCTION consent.bump_version(text[], bigint[]) TO
    telemetry_ingest, telemetry_rights, telemetry_operator;

-- Whoever does not say what changed makes workers load everything.
CREATE OR REPLACE FUNCTION consent.bump_version() RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$ SELECT consent.bump_version(ARRAY['all'], ARRAY[0::bigint]) $$;

-- Forget changes older than `age`: a worker that is further behind loads everything.
CREATE FUNCTION consent.prune_changes(age interval) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_gone bigint;
    gone bigint;
BEGIN
    WITH deleted AS (DELETE FROM consent.change WHERE at < now() - age RETURNING version)
    SELECT max(version), count(*) INTO last_gone, gone FROM deleted;
    IF gone > 0 THEN
        UPDATE consent.state SET feed_from = greatest(feed_from, last_gone);
    END IF;
    RETURN gone;
END
$$;
GRANT EXECUTE ON FUNCTION consent.prune_changes(interval) TO telemetry_rights, telemetry_operator;

DO $$
DECLARE
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY['consent.plan_class', 'consent.owner_plan', 'consent.change'] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', place);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', place);
        EXECUTE format('CREATE POLICY owner_keeps ON %s TO telemetry_owner USING (true) WITH CHECK (true)', place);
        EXECUTE format('CREATE POLICY rights_act ON %s TO telemetry_rights USING (true) WITH CHECK (true)', place);
        EXECUTE format('CREATE POLICY operator_sees ON %s FOR SELECT TO telemetry_operator USING (true)', place);
    END LOOP;
END
$$;
-- The trigger above looks as the owner of the tables, whom FORCE binds too.
CREATE POLICY owner_looks ON consent.owner FOR SELECT TO telemetry_owner USING (true);

CREATE POLICY ingest_reads ON consent.plan_class FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY ingest_reads ON consent.change FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY rollup_reads ON consent.plan_class FOR SELECT TO telemetry_rollup USING (true);
CREATE POLICY views_read ON consent.plan_class FOR SELECT TO telemetry_views USING (true);
GRANT SELECT ON consent.plan_class TO telemetry_ingest, telemetry_rollup, telemetry_views, telemetry_operator;
GRANT SELECT ON consent.change TO telemetry_ingest, telemetry_rights, telemetry_operator;
GRANT SELECT ON consent.owner_plan TO telemetry_operator;
GRANT SELECT, INSERT ON consent.plan_class TO telemetry_rights;
GRANT SELECT, INSERT, UPDATE, DELETE ON consent.owner_plan TO telemetry_rights;
