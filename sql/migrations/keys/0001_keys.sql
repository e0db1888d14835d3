-- run as: admin
-- Owners' private keys and token secrets, wrapped under the key-encryption key. A database of its own: it has its
-- own role, and is never in the same backup as the data.
--
-- Deleting a row leaves the wrapped key in the heap and in WAL until they are overwritten, so an erasure is final
-- only once the key-encryption key has been rotated and the old one destroyed.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'telemetry_keys') THEN
        CREATE ROLE telemetry_keys LOGIN NOINHERIT;
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO telemetry_keys', current_database());
END
$$;

CREATE SCHEMA keys AUTHORIZATION telemetry_owner;

SET LOCAL ROLE telemetry_owner;

CREATE TABLE keys.owner_key (
    owner_key bigint PRIMARY KEY,
    wrapped_private bytea NOT NULL,
    wrapped_token_secret bytea NOT NULL,
    kek_id bytea NOT NULL CHECK (octet_length(kek_id) = 8),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON keys.owner_key (kek_id);

GRANT USAGE ON SCHEMA keys TO telemetry_keys;
GRANT SELECT, INSERT, UPDATE (wrapped_private, wrapped_token_secret, kek_id), DELETE
    ON keys.owner_key TO telemetry_keys;
