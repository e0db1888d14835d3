-- What codecs remember of a gateway between messages: discovery configurations, births and aliases, last states.
--
-- Sealed under a key that the worker holds (keystore secret codec_state), since the worker must read it again when
-- it starts; it is no vault entry. Nothing in clear but who it belongs to by surrogate key, the format's name and a
-- version. Newest version wins: writes that are in flight together may commit in any order.

CREATE TABLE readings.codec_state (
    gateway_key bigint NOT NULL,
    codec text NOT NULL CHECK (codec ~ '^[a-z0-9-]{1,32}$'),
    version bigint NOT NULL CHECK (version > 0),
    sealed bytea NOT NULL CHECK (octet_length(sealed) > 29),
    PRIMARY KEY (gateway_key, codec)
) WITH (fillfactor = 50);
ALTER TABLE readings.codec_state ALTER COLUMN sealed SET STORAGE EXTERNAL; -- ciphertext does not compress
GRANT SELECT, INSERT, UPDATE (version, sealed) ON readings.codec_state TO telemetry_ingest;

-- Whoever revokes a gateway or erases an owner needs no right on this table: it follows. A write under way holds
-- the plan's version and is over before the change of the registry is; one that comes later is refused by itself.
CREATE FUNCTION readings.forget_codec_state() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM readings.codec_state WHERE gateway_key = OLD.gateway_key;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_codec_state_of_revoked AFTER UPDATE OF revoked_at ON consent.gateway
    FOR EACH ROW WHEN (NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION readings.forget_codec_state();
-- A home was sold: what a format remembers is of the old tenure, last values included.
CREATE TRIGGER forget_codec_state_of_moved AFTER UPDATE OF site_key ON consent.gateway
    FOR EACH ROW WHEN (NEW.site_key <> OLD.site_key) EXECUTE FUNCTION readings.forget_codec_state();
CREATE TRIGGER forget_codec_state_of_deleted AFTER DELETE ON consent.gateway
    FOR EACH ROW EXECUTE FUNCTION readings.forget_codec_state();

CREATE FUNCTION readings.forget_codec_states_of_owner() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM readings.codec_state
    WHERE gateway_key IN (
        SELECT g.gateway_key FROM consent.gateway AS g JOIN consent.site AS s USING (site_key)
        WHERE s.owner_key = NEW.owner_key
    );
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_codec_states_of_erased AFTER UPDATE OF erased_at ON consent.owner
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION readings.forget_codec_states_of_owner();
-- The function runs as the tables' owner, who sees no row of the registry without a policy.
CREATE POLICY owner_forgets ON consent.gateway FOR SELECT TO telemetry_owner USING (true);
CREATE POLICY owner_forgets ON consent.site FOR SELECT TO telemetry_owner USING (true);
