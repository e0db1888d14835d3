-- Who exists: owners, sites, gateways and devices by surrogate key; what names them only sealed, in the vault.
--
-- Nothing in `consent` says who or where anybody is. A gateway's name and a device's serial are found again by a
-- blind index (HMAC under a key that no database holds).

-- What an owner and everything of that owner's is sealed to. ML-KEM-768 and X25519 public keys, raw.
CREATE TABLE consent.owner (
    owner_key bigint PRIMARY KEY CHECK (owner_key <> 0),
    region text NOT NULL CHECK (region ~ '^[a-z0-9-]{1,32}$'),
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 1216),
    created_at timestamptz NOT NULL DEFAULT now(),
    erased_at timestamptz
);

CREATE TABLE consent.site (
    site_key bigint PRIMARY KEY CHECK (site_key <> 0),
    owner_key bigint NOT NULL REFERENCES consent.owner,
    -- A device that enrols by itself starts under this class, so that an owner's settings hold from its first
    -- reading on.
    device_plan_class integer NOT NULL DEFAULT 0 CHECK (device_plan_class >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON consent.site (owner_key);

-- A name is never given twice, not even after it was revoked: a broker may still hold messages under it.
CREATE TABLE consent.gateway (
    gateway_key bigint PRIMARY KEY CHECK (gateway_key <> 0),
    site_key bigint NOT NULL REFERENCES consent.site,
    name_blind bytea NOT NULL UNIQUE CHECK (octet_length(name_blind) = 16),
    enrolment text NOT NULL DEFAULT 'auto' CHECK (enrolment IN ('auto', 'known')),
    device_limit integer NOT NULL DEFAULT 256 CHECK (device_limit BETWEEN 0 AND 1000000),
    backfill_us bigint NOT NULL CHECK (backfill_us >= 0),
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);
CREATE INDEX ON consent.gateway (site_key);

-- A device is a serial at a site, for one tenure. The same serial at another site is another device, so nobody can
-- occupy somebody else's; the second index is how the operator is told of it.
CREATE TABLE consent.device (
    device_key bigint PRIMARY KEY CHECK (device_key <> 0),
    site_key bigint NOT NULL REFERENCES consent.site,
    gateway_key bigint NOT NULL REFERENCES consent.gateway,
    kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 6),
    serial_blind bytea NOT NULL CHECK (octet_length(serial_blind) = 16),
    plan_class integer NOT NULL DEFAULT 0 CHECK (plan_class >= 0),
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (site_key, serial_blind)
);
CREATE INDEX ON consent.device (serial_blind);
CREATE INDEX ON consent.device (gateway_key);

-- Sealed to the owner's public key and bound to (kind, attribute, subject): moved to another row, it does not open.
CREATE TABLE vault.entry (
    owner_key bigint NOT NULL REFERENCES consent.owner,
    subject_kind text NOT NULL CHECK (subject_kind IN ('owner', 'site', 'gateway', 'device')),
    subject_key bigint NOT NULL,
    attribute text NOT NULL CHECK (attribute ~ '^[a-z_]{1,32}$'),
    sealed bytea NOT NULL CHECK (octet_length(sealed) > 1137),
    PRIMARY KEY (owner_key, subject_kind, subject_key, attribute)
);
ALTER TABLE vault.entry ALTER COLUMN sealed SET STORAGE EXTERNAL; -- ciphertext does not compress

-- What was done with the registry and the vault, by whom. Append-only for every role; never holds a value.
CREATE TABLE audit.event (
    event_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text NOT NULL DEFAULT session_user,
    action text NOT NULL CHECK (action ~ '^[a-z_.]{1,64}$'),
    owner_key bigint,
    subject_key bigint,
    affected bigint NOT NULL DEFAULT 1 CHECK (affected >= 0)
);
CREATE INDEX ON audit.event (owner_key, at);

-- Nobody reads a row without a policy, the tables' owner included.
DO $$
DECLARE
    parent text;
BEGIN
    FOREACH parent IN ARRAY ARRAY[
        'consent.owner', 'consent.site', 'consent.gateway', 'consent.device', 'vault.entry', 'audit.event'
    ] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', parent);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', parent);
    END LOOP;
END
$$;

-- Ingest: reads the registry, adds devices, and puts their serials into a vault that it cannot read.
GRANT USAGE ON SCHEMA vault TO telemetry_ingest, telemetry_rights, telemetry_operator;
GRANT SELECT ON consent.owner, consent.site, consent.gateway TO telemetry_ingest;
GRANT SELECT, INSERT ON consent.device TO telemetry_ingest;
GRANT INSERT ON vault.entry TO telemetry_ingest;
CREATE POLICY ingest_reads ON consent.owner FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY ingest_reads ON consent.site FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY ingest_reads ON consent.gateway FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY ingest_reads ON consent.device FOR SELECT TO telemetry_ingest USING (true);
CREATE POLICY ingest_enrols ON consent.device FOR INSERT TO telemetry_ingest WITH CHECK (true);
CREATE POLICY ingest_seals ON vault.entry FOR INSERT TO telemetry_ingest
    WITH CHECK (subject_kind = 'device' AND attribute = 'serial');

-- Operator: runs the registry, deletes nothing.
GRANT SELECT, INSERT ON consent.owner, consent.site, consent.device, vault.entry TO telemetry_operator;
GRANT SELECT, INSERT, UPDATE (enrolment, device_limit, backfill_us, revoked_at)
    ON consent.gateway TO telemetry_operator;
CREATE POLICY operator_runs ON consent.owner TO telemetry_operator USING (true) WITH CHECK (true);
CREATE POLICY operator_runs ON consent.site TO telemetry_operator USING (true) WITH CHECK (true);
CREATE POLICY operator_runs ON consent.gateway TO telemetry_operator USING (true) WITH CHECK (true);
CREATE POLICY operator_runs ON consent.device TO telemetry_operator USING (true) WITH CHECK (true);
CREATE POLICY operator_runs ON vault.entry TO telemetry_operator USING (true) WITH CHECK (true);

-- Rights: acts for an owner, up to erasure.
GRANT SELECT, INSERT, UPDATE, DELETE
    ON consent.owner, consent.site, consent.gateway, consent.device, vault.entry TO telemetry_rights;
CREATE POLICY rights_act ON consent.owner TO telemetry_rights USING (true) WITH CHECK (true);
CREATE POLICY rights_act ON consent.site TO telemetry_rights USING (true) WITH CHECK (true);
CREATE POLICY rights_act ON consent.gateway TO telemetry_rights USING (true) WITH CHECK (true);
CREATE POLICY rights_act ON consent.device TO telemetry_rights USING (true) WITH CHECK (true);
CREATE POLICY rights_act ON vault.entry TO telemetry_rights USING (true) WITH CHECK (true);

GRANT USAGE ON SCHEMA audit TO telemetry_rights, telemetry_operator;
GRANT INSERT (action, owner_key, subject_key, affected) ON audit.event TO telemetry_rights, telemetry_operator;
GRANT SELECT ON audit.event TO telemetry_rights, telemetry_operator;
CREATE POLICY appends ON audit.event FOR INSERT TO telemetry_rights, telemetry_operator
    WITH CHECK (actor = session_user);
CREATE POLICY reads ON audit.event FOR SELECT TO telemetry_rights, telemetry_operator USING (true);
