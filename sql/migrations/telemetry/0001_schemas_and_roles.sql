-- run as: admin
-- Schemas, one role per job, and the version that every plan and registry change moves.
--
-- Every migration without the line above runs as telemetry_owner, so that what it creates belongs to a role that
-- nobody can log in as. Roles belong to the whole cluster: they may exist already.

DO $$
DECLARE
    role name;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'telemetry_owner') THEN
        CREATE ROLE telemetry_owner NOLOGIN;
    END IF;
    FOREACH role IN ARRAY ARRAY[
        'telemetry_ingest', 'telemetry_rollup', 'telemetry_views', 'telemetry_rights', 'telemetry_operator'
    ]::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOINHERIT', role);
        END IF;
    END LOOP;
    -- A managed PostgreSQL's administrator is no superuser and must be a member to act as the owner.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        EXECUTE format('GRANT telemetry_owner TO %I', current_user);
    END IF;
    EXECUTE format('ALTER DATABASE %I OWNER TO telemetry_owner', current_database());
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format(
        'GRANT CONNECT ON DATABASE %I TO telemetry_ingest, telemetry_rollup, telemetry_views, telemetry_rights,'
        ' telemetry_operator',
        current_database()
    );
    -- Duplicates are replayed through a temporary table of the session.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO telemetry_ingest', current_database());
END
$$;

REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA vault AUTHORIZATION telemetry_owner;
CREATE SCHEMA consent AUTHORIZATION telemetry_owner;
CREATE SCHEMA readings AUTHORIZATION telemetry_owner;
CREATE SCHEMA audit AUTHORIZATION telemetry_owner;

SET LOCAL ROLE telemetry_owner;

-- PUBLIC may execute every new function unless told otherwise.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;

GRANT USAGE ON SCHEMA consent TO
    telemetry_ingest, telemetry_rollup, telemetry_views, telemetry_rights, telemetry_operator;
GRANT USAGE ON SCHEMA readings TO telemetry_ingest, telemetry_rollup, telemetry_rights, telemetry_operator;

-- One version for the plan and the registry: workers compare it, rows carry it.
CREATE TABLE consent.state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL DEFAULT 1 CHECK (version > 0)
);
INSERT INTO consent.state DEFAULT VALUES;
GRANT SELECT ON consent.state TO
    telemetry_ingest, telemetry_rollup, telemetry_views, telemetry_rights, telemetry_operator;

-- Called by every transaction that changes the plan or the registry, as its last statement. Waits for the
-- writes in flight (each holds the shared lock until it commits), so that after this transaction's commit no row
-- is ever written under an older plan.
CREATE FUNCTION consent.bump_version() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new_version bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7310, 1);
    UPDATE consent.state SET version = version + 1 RETURNING version INTO new_version;
    PERFORM pg_notify('telemetry_change', new_version::text);
    RETURN new_version;
END
$$;
GRANT EXECUTE ON FUNCTION consent.bump_version() TO telemetry_ingest, telemetry_rights, telemetry_operator;

-- Called by every transaction that writes readings, as its first statement. Two statements inside, because one
-- would read the version by a snapshot taken before the lock was granted.
CREATE FUNCTION consent.hold_version() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7310, 1);
    RETURN (SELECT version FROM consent.state);
END
$$;
GRANT EXECUTE ON FUNCTION consent.hold_version() TO telemetry_ingest, telemetry_rollup;
