-- Windows of the series, and how far the rollup has come (docs/decisions/0039 to 0042).

-- One row is one version of one window of one field of one device (telemetry.model.series). `slots`: which of the
-- window's 60 equal slots have been covered, null for all of them (rule 15). A version with nothing covered says that
-- what was there before holds no more. The newest version is the one with the greatest effective_at.
CREATE TABLE readings.series (
    device_key bigint NOT NULL,
    window_start timestamptz NOT NULL,
    effective_at timestamptz NOT NULL,
    amount bigint NOT NULL,
    covered_ms bigint NOT NULL CHECK (covered_ms >= 0),
    slots bigint,
    last_at timestamptz,
    lowest bigint,
    highest bigint,
    resolution smallint NOT NULL CHECK (resolution BETWEEN 1 AND 6), -- Resolution.rank; raw is not a window
    grid smallint NOT NULL CHECK (grid = 0 OR grid = 1 AND resolution >= 5),
    field smallint NOT NULL CHECK (field BETWEEN 0 AND 255),
    PRIMARY KEY (device_key, window_start, resolution, grid, field, effective_at)
) PARTITION BY RANGE (window_start);
ALTER TABLE readings.series ENABLE ROW LEVEL SECURITY;
ALTER TABLE readings.series FORCE ROW LEVEL SECURITY;

-- The pass that is under way or was done last. Windows up to `as_of` are computed by it; rows written by transactions
-- from `since` on may be unknown to it. `done_*` are of the last pass that was finished.
CREATE TABLE readings.rollup_pass (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    as_of timestamptz,
    since xid8,
    done_as_of timestamptz,
    done_since xid8
);
INSERT INTO readings.rollup_pass DEFAULT VALUES;
GRANT SELECT, UPDATE ON readings.rollup_pass TO telemetry_rollup;

GRANT SELECT ON readings.hot, readings.late TO telemetry_rollup;
GRANT SELECT, INSERT, UPDATE, DELETE ON readings.series TO telemetry_rollup;
CREATE POLICY rollup_reads ON readings.hot FOR SELECT TO telemetry_rollup USING (true);
CREATE POLICY rollup_reads ON readings.late FOR SELECT TO telemetry_rollup USING (true);
CREATE POLICY rollup_writes ON readings.series TO telemetry_rollup USING (true) WITH CHECK (true);

-- The rollup keeps by the plan's class and by the clock of the site. It learns no owner's settings beyond that.
GRANT SELECT (device_key, site_key, kind, plan_class) ON consent.device TO telemetry_rollup;
GRANT SELECT (site_key, timezone) ON consent.site_place TO telemetry_rollup;
CREATE POLICY rollup_reads ON consent.device FOR SELECT TO telemetry_rollup USING (true);
CREATE POLICY rollup_reads ON consent.site_place FOR SELECT TO telemetry_rollup USING (true);

-- Makes the partitions of the months that hold these instants; how many were missing. Nobody gets rights on them.
CREATE FUNCTION readings.ensure_series(instants timestamptz[]) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    month timestamptz;
    partition name;
    made integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(7310, 2);
    FOR month IN SELECT DISTINCT date_trunc('month', i) FROM unnest(instants) AS i ORDER BY 1 LOOP
        partition := 'series_' || to_char(month, 'YYYYMM');
        CONTINUE WHEN to_regclass(format('readings.%I', partition)) IS NOT NULL;
        EXECUTE format('CREATE TABLE readings.%I (LIKE readings.series INCLUDING ALL)', partition);
        EXECUTE format(
            'ALTER TABLE readings.series ATTACH PARTITION readings.%I FOR VALUES FROM (%L) TO (%L)',
            partition, month, month + interval '1 month'
        );
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
GRANT EXECUTE ON FUNCTION readings.ensure_series(timestamptz[]) TO telemetry_rollup;

-- Drops the months that end at or before `before`; their names.
CREATE FUNCTION readings.drop_series(before timestamptz) RETURNS SETOF name
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '500ms'
AS $$
DECLARE
    partition name;
BEGIN
    IF before > clock_timestamp() THEN
        RAISE EXCEPTION 'what is not over is not dropped';
    END IF;
    PERFORM pg_advisory_xact_lock(7310, 2);
    FOR partition IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'readings.series'::regclass
            AND to_timestamp(substr(c.relname, 8), 'YYYYMM') + interval '1 month' <= before
        ORDER BY 1
    LOOP
        BEGIN
            EXECUTE format('DROP TABLE readings.%I', partition);
            RETURN NEXT partition;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            CONTINUE;
        END;
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION readings.drop_series(timestamptz) TO telemetry_rollup;

-- From now on nothing is added to this hour's hot partition: it is renamed, so that a worker that still knows it
-- finds out and writes late rows instead. It stays readable: the hour after it still holds and interpolates across
-- their boundary. Ends with an error while writers are in the way; true where there was something to seal.
CREATE FUNCTION readings.seal_hot(hour timestamptz, hot_hours integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '500ms'
AS $$
DECLARE
    stamp text := to_char(hour, 'YYYYMMDDHH24');
BEGIN
    IF hot_hours NOT BETWEEN 1 AND 48 THEN
        RAISE EXCEPTION 'hot_hours must lie in 1 to 48';
    END IF;
    IF hour > date_trunc('hour', clock_timestamp()) - make_interval(hours => hot_hours + 1) THEN
        RAISE EXCEPTION 'this hour is hot for longer';
    END IF;
    PERFORM pg_advisory_xact_lock(7310, 2);
    IF to_regclass(format('readings.%I', 'hot_' || stamp)) IS NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('LOCK TABLE readings.%I IN ACCESS EXCLUSIVE MODE', 'hot_' || stamp);
    EXECUTE format('REVOKE ALL ON readings.%I FROM telemetry_ingest', 'hot_' || stamp);
    EXECUTE format('ALTER TABLE readings.%I RENAME TO %I', 'hot_' || stamp, 'sealed_' || stamp);
    -- Nothing may make a hot partition of this hour again, finished or not.
    INSERT INTO readings.sealed_hour (hour) VALUES (date_trunc('hour', seal_hot.hour)) ON CONFLICT DO NOTHING;
    RETURN true;
END
$$;
GRANT EXECUTE ON FUNCTION readings.seal_hot(timestamptz, integer) TO telemetry_rollup;

CREATE TABLE readings.sealed_hour (hour timestamptz PRIMARY KEY);
GRANT SELECT ON readings.sealed_hour TO telemetry_rollup;

-- As in 0003, and an hour that was sealed is never made again.
CREATE OR REPLACE FUNCTION readings.ensure_partitions(hot_hours integer, ahead_hours integer) RETURNS integer
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC'
AS $$
DECLARE
    this_hour timestamptz := date_trunc('hour', clock_timestamp());
    slot timestamptz;
    made integer := 0;
BEGIN
    IF hot_hours NOT BETWEEN 1 AND 48 OR ahead_hours NOT BETWEEN 0 AND 48 THEN
        RAISE EXCEPTION 'hot_hours must lie in 1 to 48 and ahead_hours in 0 to 48';
    END IF;
    PERFORM pg_advisory_xact_lock(7310, 2);
    FOR slot IN
        SELECT generate_series(
            this_hour - make_interval(hours => hot_hours + 1),
            this_hour + make_interval(hours => ahead_hours),
            interval '1 hour'
        )
    LOOP
        CONTINUE WHEN to_regclass(format('readings.hot_%s', to_char(slot, 'YYYYMMDDHH24'))) IS NOT NULL;
        -- Late rows of this hour exist only after a clock went back or hot_hours grew; such an hour stays late.
        PERFORM pg_advisory_xact_lock(7310, 3);
        CONTINUE WHEN EXISTS (SELECT FROM readings.rollup_state AS s WHERE s.kind = 'hot' AND s.hour = slot)
            OR EXISTS (SELECT FROM readings.sealed_hour AS s WHERE s.hour = slot)
            OR EXISTS (SELECT FROM readings.late AS l WHERE l.ts >= slot AND l.ts < slot + interval '1 hour');
        IF readings.make_partition('hot', slot) THEN
            EXECUTE format(
                'GRANT SELECT, INSERT, UPDATE ON readings.%I TO telemetry_ingest',
                'hot_' || to_char(slot, 'YYYYMMDDHH24')
            );
            made := made + 1;
        END IF;
    END LOOP;
    FOR slot IN
        SELECT generate_series(this_hour, this_hour + make_interval(hours => ahead_hours), interval '1 hour')
    LOOP
        made := made + readings.make_partition('late', slot)::integer;
    END LOOP;
    RETURN made;
END
$$;

-- As in 0003, under the name that sealing gave, and never while the next hour of its kind may still need it: a hot
-- hour's last samples reach into the next one, a late hour's into what was received an hour later.
CREATE OR REPLACE FUNCTION readings.drop_expired_partitions(hot_hours integer) RETURNS SETOF name
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '500ms'
AS $$
DECLARE
    oldest timestamptz;
    state record;
    partition name;
    following text;
BEGIN
    IF hot_hours NOT BETWEEN 1 AND 48 THEN
        RAISE EXCEPTION 'hot_hours must lie in 1 to 48';
    END IF;
    oldest := date_trunc('hour', clock_timestamp()) - make_interval(hours => hot_hours + 1);
    PERFORM pg_advisory_xact_lock(7310, 2);
    FOR state IN SELECT s.kind, s.hour FROM readings.rollup_state AS s WHERE s.hour < oldest ORDER BY s.hour LOOP
        following := to_char(state.hour + interval '1 hour', 'YYYYMMDDHH24');
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM readings.rollup_state AS s
            WHERE s.kind = state.kind AND s.hour = state.hour + interval '1 hour'
        ) AND (
            to_regclass(format('readings.%I', state.kind || '_' || following)) IS NOT NULL
            OR to_regclass(format('readings.%I', 'sealed_' || following)) IS NOT NULL AND state.kind = 'hot'
        );
        FOREACH partition IN ARRAY CASE state.kind WHEN 'hot' THEN ARRAY['hot_', 'sealed_'] ELSE ARRAY['late_'] END LOOP
            partition := partition || to_char(state.hour, 'YYYYMMDDHH24');
            CONTINUE WHEN to_regclass(format('readings.%I', partition)) IS NULL;
            BEGIN
                EXECUTE format('DROP TABLE readings.%I', partition);
                RETURN NEXT partition;
            EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
                CONTINUE;
            END;
        END LOOP;
    END LOOP;
END
$$;
