-- run as: admin
-- Recipients' keys, from which tokens are made, and which key-encryption keys are in use while one replaces another.
--
-- The role of the views makes tokens: it reads owners' token secrets and recipients' keys, and never an owner's
-- private key, which opens the vault.

DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO telemetry_views', current_database());
END
$$;

SET LOCAL ROLE telemetry_owner;

-- PUBLIC may execute every new function unless told otherwise.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- Key-encryption keys by name (a keyed digest of themselves). At most one is active: what is written now is wrapped
-- under it. A retiring one is still on some rows; it is deleted here when it is on none, and only then from where
-- it is kept.
CREATE TABLE keys.kek (
    kek_id bytea PRIMARY KEY CHECK (octet_length(kek_id) = 8),
    state text NOT NULL CHECK (state IN ('active', 'retiring')),
    since timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX only_one_is_active ON keys.kek (state) WHERE state = 'active';

-- So far every row is under the one key there was.
INSERT INTO keys.kek (kek_id, state) SELECT DISTINCT kek_id, 'active' FROM keys.owner_key;
ALTER TABLE keys.owner_key ADD FOREIGN KEY (kek_id) REFERENCES keys.kek;

-- A recipient's key, by version. One that is announced takes effect at activates_at; the newest one in effect is
-- used. A retired one is destroyed (wrapped is null) and its row stays, so that its version is not given again.
CREATE TABLE keys.recipient_key (
    recipient_key bigint NOT NULL CHECK (recipient_key <> 0),
    version integer NOT NULL CHECK (version > 0),
    wrapped bytea,
    kek_id bytea REFERENCES keys.kek CHECK (octet_length(kek_id) = 8),
    state text NOT NULL CHECK (state IN ('active', 'announced', 'retired')),
    activates_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (recipient_key, version),
    CHECK ((state = 'retired') = (wrapped IS NULL) AND (wrapped IS NULL) = (kek_id IS NULL))
);
CREATE INDEX ON keys.recipient_key (kek_id);
CREATE UNIQUE INDEX one_announcement_at_a_time ON keys.recipient_key (recipient_key) WHERE state = 'announced';

-- Nothing new is wrapped under a key that is on its way out, so that the last re-wrap is the last. The lock makes
-- whoever retires a key wait for the writes in flight under it.
CREATE FUNCTION keys.refuse_retiring_kek() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NEW.kek_id IS NULL THEN
        RETURN NEW;
    END IF;
    PERFORM FROM keys.kek AS k WHERE k.kek_id = NEW.kek_id AND k.state = 'active' FOR SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this key-encryption key is not the active one' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER only_under_the_active_kek BEFORE INSERT OR UPDATE OF kek_id ON keys.owner_key
    FOR EACH ROW EXECUTE FUNCTION keys.refuse_retiring_kek();
CREATE TRIGGER only_under_the_active_kek BEFORE INSERT OR UPDATE OF kek_id ON keys.recipient_key
    FOR EACH ROW EXECUTE FUNCTION keys.refuse_retiring_kek();

-- Whoever remembers a recipient's key is told that there is another.
CREATE FUNCTION keys.tell_of_recipient_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('telemetry_keys', NEW.recipient_key::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OF state ON keys.recipient_key
    FOR EACH ROW EXECUTE FUNCTION keys.tell_of_recipient_key();

ALTER TABLE keys.recipient_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE keys.recipient_key FORCE ROW LEVEL SECURITY;
CREATE POLICY owner_keeps ON keys.recipient_key TO telemetry_owner USING (true) WITH CHECK (true);
CREATE POLICY keys_run ON keys.recipient_key TO telemetry_keys USING (true) WITH CHECK (true);
CREATE POLICY views_read ON keys.recipient_key FOR SELECT TO telemetry_views USING (state <> 'retired');
-- A recipient's first key is made when it is first needed; every other one is announced by the operator.
CREATE POLICY views_begin ON keys.recipient_key FOR INSERT TO telemetry_views
    WITH CHECK (version = 1 AND state = 'active' AND activates_at <= now());

GRANT SELECT, INSERT, UPDATE (state), DELETE ON keys.kek TO telemetry_keys;
GRANT SELECT, INSERT, UPDATE (wrapped, kek_id, state, activates_at), DELETE ON keys.recipient_key TO telemetry_keys;
GRANT USAGE ON SCHEMA keys TO telemetry_views;
GRANT SELECT ON keys.kek TO telemetry_views;
GRANT SELECT (owner_key, wrapped_token_secret, kek_id) ON keys.owner_key TO telemetry_views;
GRANT SELECT, INSERT (recipient_key, version, wrapped, kek_id, state) ON keys.recipient_key TO telemetry_views;
