-- The owner's permission to listen to Bluetooth at a site (COLL-2). No row, or another owner's row: not permitted.
CREATE TABLE consent.bluetooth (
    site_key bigint PRIMARY KEY REFERENCES consent.site,
    owner_key bigint NOT NULL REFERENCES consent.owner,
    permitted boolean NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON consent.bluetooth (owner_key);
ALTER TABLE consent.bluetooth ENABLE ROW LEVEL SECURITY;
ALTER TABLE consent.bluetooth FORCE ROW LEVEL SECURITY;
CREATE POLICY ingest_reads ON consent.bluetooth FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY operator_runs ON consent.bluetooth TO telemetry_operator USING (true) WITH CHECK (true);
CREATE POLICY rights_act ON consent.bluetooth TO telemetry_rights USING (true) WITH CHECK (true);
GRANT SELECT ON consent.bluetooth TO telemetry_ingest;
GRANT SELECT, INSERT, UPDATE ON consent.bluetooth TO telemetry_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON consent.bluetooth TO telemetry_rights;

-- Whoever listens is told at once; what changed it reads for itself.
CREATE FUNCTION consent.tell_of_bluetooth() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('telemetry_bluetooth', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON consent.bluetooth
    FOR EACH STATEMENT EXECUTE FUNCTION consent.tell_of_bluetooth();
