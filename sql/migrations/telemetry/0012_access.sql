-- run as: admin
-- Who may ask: the role of accounts, sessions and tokens, which reads no data of homes.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'telemetry_access') THEN
        CREATE ROLE telemetry_access LOGIN NOINHERIT;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO telemetry_access', current_database());
END
$$;

CREATE SCHEMA access AUTHORIZATION telemetry_owner;

SET LOCAL ROLE telemetry_owner;

GRANT USAGE ON SCHEMA access TO telemetry_access;
