-- Readings at the gateway's resolution, late ones, quarantine, and how far each gateway's messages have come.
--
-- readings.hot is partitioned by the hour of the reading, readings.late by the hour of receipt. A reading whose
-- hour has a hot partition is hot, any other is late. An hour that was ever treated as late, or whose hot
-- partition was rolled up and dropped, never gets a hot partition again: so a reading has one place only, and
-- (ts, device_key) is unique across both tables.

-- One column per field of the catalogue (telemetry.model.fields); a test holds the two equal.
CREATE TABLE readings.hot (
    ts timestamptz NOT NULL,
    device_key bigint NOT NULL,
    plan_version bigint NOT NULL,
    ac_power_w float8,
    ac_apparent_power_va float8,
    ac_reactive_power_var float8,
    ac_power_factor_ratio float8,
    ac_voltage_v float8,
    ac_voltage_l1_v float8,
    ac_voltage_l2_v float8,
    ac_voltage_l3_v float8,
    ac_current_a float8,
    ac_current_l1_a float8,
    ac_current_l2_a float8,
    ac_current_l3_a float8,
    ac_frequency_hz float8,
    energy_total_wh float8,
    energy_day_wh float8,
    dc_power_w float8,
    dc_voltage_v float8,
    dc_current_a float8,
    pv1_power_w float8,
    pv1_voltage_v float8,
    pv1_current_a float8,
    pv2_power_w float8,
    pv2_voltage_v float8,
    pv2_current_a float8,
    pv3_power_w float8,
    pv3_voltage_v float8,
    pv3_current_a float8,
    pv4_power_w float8,
    pv4_voltage_v float8,
    pv4_current_a float8,
    load_power_w float8,
    load_energy_total_wh float8,
    grid_power_w float8,
    grid_power_l1_w float8,
    grid_power_l2_w float8,
    grid_power_l3_w float8,
    grid_import_energy_total_wh float8,
    grid_export_energy_total_wh float8,
    battery_power_w float8,
    battery_voltage_v float8,
    battery_current_a float8,
    battery_temperature_c float8,
    battery_soc_pct float8,
    battery_soh_pct float8,
    battery_capacity_wh float8,
    battery_cell_voltage_min_v float8,
    battery_cell_voltage_max_v float8,
    battery_cycles_count float8,
    battery_charge_energy_total_wh float8,
    battery_discharge_energy_total_wh float8,
    ev_power_w float8,
    ev_current_a float8,
    ev_soc_pct float8,
    ev_session_energy_wh float8,
    ev_energy_total_wh float8,
    ev_state_code bigint,
    temperature_c float8,
    operating_state_code bigint,
    nominal_power_w float8,
    power_limit_pct float8,
    power_limit_w float8,
    alert_bits bigint,
    alert_code bigint,
    alert_severity_code bigint,
    rssi_dbm float8,
    link_quality_pct float8,
    link_type_code bigint,
    uptime_s float8,
    log_code bigint,
    log_severity_code bigint,
    restarts_count float8,
    PRIMARY KEY (ts, device_key)
) PARTITION BY RANGE (ts);

CREATE TABLE readings.late (
    LIKE readings.hot INCLUDING ALL EXCLUDING INDEXES,
    received_hour timestamptz NOT NULL,
    PRIMARY KEY (ts, device_key, received_hour)
) PARTITION BY RANGE (received_hour);

-- The worker writes hot partitions by name and has no policy on their parent. Whoever reads through a parent
-- needs a policy of its own.
ALTER TABLE readings.hot ENABLE ROW LEVEL SECURITY;
ALTER TABLE readings.hot FORCE ROW LEVEL SECURITY;
ALTER TABLE readings.late ENABLE ROW LEVEL SECURITY;
ALTER TABLE readings.late FORCE ROW LEVEL SECURITY;
CREATE POLICY ingest_merges ON readings.late TO telemetry_ingest USING (true) WITH CHECK (true);
-- readings.ensure_partitions asks whether an hour has late rows.
CREATE POLICY owner_looks ON readings.late FOR SELECT TO telemetry_owner USING (true);
GRANT SELECT, INSERT, UPDATE ON readings.late TO telemetry_ingest;

-- What the rollup has finished with. Only such partitions are dropped.
CREATE TABLE readings.rollup_state (
    kind text NOT NULL CHECK (kind IN ('hot', 'late')),
    hour timestamptz NOT NULL CHECK (hour = date_trunc('hour', hour, 'UTC')),
    done_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, hour)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON readings.rollup_state TO telemetry_rollup;

-- Messages and readings that could not be accepted. `sealed` opens with a key that the worker does not hold; it
-- is emptied when the message was recovered or discarded. `detail` never quotes a payload.
CREATE TABLE readings.quarantine (
    quarantine_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    gateway_key bigint,
    owner_key bigint,
    reason text NOT NULL,
    codec text NOT NULL,
    detail text NOT NULL CHECK (length(detail) <= 200),
    readings bigint NOT NULL CHECK (readings >= 0),
    size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
    digest bytea NOT NULL,
    sealed bytea NOT NULL,
    received_hour timestamptz NOT NULL DEFAULT date_trunc('hour', now(), 'UTC'),
    seen bigint NOT NULL DEFAULT 1 CHECK (seen > 0),
    state text NOT NULL DEFAULT 'held' CHECK (state IN ('held', 'recovered', 'discarded')),
    CHECK (state = 'held' OR length(sealed) = 0),
    UNIQUE NULLS NOT DISTINCT (gateway_key, digest)
);
ALTER TABLE readings.quarantine ALTER COLUMN sealed SET STORAGE EXTERNAL; -- ciphertext does not compress
-- The worker adds and counts; it cannot read back what it sealed.
GRANT SELECT (gateway_key, digest, seen), INSERT, UPDATE (seen) ON readings.quarantine TO telemetry_ingest;
GRANT SELECT, UPDATE (state, sealed) ON readings.quarantine TO telemetry_operator;

-- Which of a gateway's numbered messages are committed. `received` keeps its first ranges only, see
-- record_sequences: numbers beyond them count as missing until the gaps before them close, so a watermark never
-- claims too much and a gateway that leaves gaps on purpose cannot make this row grow. Upserted last in every transaction, in key order.
CREATE TABLE readings.sequence (
    gateway_key bigint NOT NULL,
    stream_digest bigint NOT NULL,
    received int8multirange NOT NULL,
    highest bigint NOT NULL,
    PRIMARY KEY (gateway_key, stream_digest)
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE ON readings.sequence TO telemetry_ingest;
GRANT SELECT ON readings.sequence TO telemetry_operator;

CREATE FUNCTION readings.first_ranges(received int8multirange, at_most integer) RETURNS int8multirange
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(range_agg(r), int8multirange())
    FROM (SELECT r FROM unnest(received) AS r LIMIT at_most) AS kept
$$;
GRANT EXECUTE ON FUNCTION readings.first_ranges(int8multirange, integer) TO telemetry_ingest;

-- A table first and a partition after: ATTACH lets writers of other partitions go on, PARTITION OF would not.
CREATE FUNCTION readings.make_partition(kind text, hour timestamptz) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    partition name := kind || '_' || to_char(hour AT TIME ZONE 'UTC', 'YYYYMMDDHH24');
BEGIN
    IF to_regclass(format('readings.%I', partition)) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format(
        'CREATE TABLE readings.%I (LIKE readings.%I INCLUDING ALL)'
        ' WITH (autovacuum_vacuum_insert_threshold = -1)', -- dropped long before it would need freezing
        partition, kind
    );
    EXECUTE format(
        'ALTER TABLE readings.%I ATTACH PARTITION readings.%I FOR VALUES FROM (%L) TO (%L)',
        kind, partition, hour, hour + interval '1 hour'
    );
    RETURN true;
END
$$;

-- Makes hot partitions for [now - hot_hours - 1 h, now + ahead_hours] and late ones for now and ahead_hours on.
CREATE FUNCTION readings.ensure_partitions(hot_hours integer, ahead_hours integer) RETURNS integer
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
GRANT EXECUTE ON FUNCTION readings.ensure_partitions(integer, integer) TO telemetry_ingest, telemetry_rollup;

-- Drops whole partitions that are past their time and that the rollup has marked done; returns their names. A
-- partition in use is left for the next call.
CREATE FUNCTION readings.drop_expired_partitions(hot_hours integer) RETURNS SETOF name
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET lock_timeout = '2s'
AS $$
DECLARE
    oldest timestamptz;
    state record;
    partition name;
BEGIN
    IF hot_hours NOT BETWEEN 1 AND 48 THEN
        RAISE EXCEPTION 'hot_hours must lie in 1 to 48';
    END IF;
    oldest := date_trunc('hour', clock_timestamp()) - make_interval(hours => hot_hours + 1);
    PERFORM pg_advisory_xact_lock(7310, 2);
    FOR state IN SELECT s.kind, s.hour FROM readings.rollup_state AS s WHERE s.hour < oldest ORDER BY s.hour LOOP
        partition := state.kind || '_' || to_char(state.hour, 'YYYYMMDDHH24');
        CONTINUE WHEN to_regclass(format('readings.%I', partition)) IS NULL;
        BEGIN
            EXECUTE format('DROP TABLE readings.%I', partition);
            RETURN NEXT partition;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            CONTINUE;
        END;
    END LOOP;
END
$$;
GRANT EXECUTE ON FUNCTION readings.drop_expired_partitions(integer) TO telemetry_rollup;
