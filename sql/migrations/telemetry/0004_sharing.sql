-- Recipients, grants, keeping settings, and what stands against a grant: restriction, objection, an expired policy.
--
-- Histories are append-only: `*_version` tables take INSERT and nothing else, and say what was allowed when. The
-- tables without that suffix hold the newest version, kept by triggers in the same statement.

-- An organisation that may be granted something. The handle is chosen by the operator and names no person.
CREATE TABLE consent.recipient (
    recipient_key bigint PRIMARY KEY CHECK (recipient_key <> 0),
    handle text NOT NULL UNIQUE CHECK (handle ~ '^[a-z0-9][a-z0-9-]{2,63}$'),
    kind text NOT NULL CHECK (
        kind IN ('installer', 'energy_partner', 'service_provider', 'api_developer', 'product_improvement')
    ),
    created_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz
);

-- A purpose not covered by an unexpired policy version needs new consent (NOTE-1).
CREATE TABLE consent.policy (
    policy text PRIMARY KEY CHECK (policy ~ '^[a-z0-9.-]{1,32}$'),
    effective_from timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
INSERT INTO consent.policy (policy) VALUES ('2026-11');

-- The token epoch of (owner, recipient): the next one begins when a grant is made while none is in force (rule 23).
CREATE TABLE consent.relation (
    owner_key bigint NOT NULL REFERENCES consent.owner,
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    epoch integer NOT NULL DEFAULT 1 CHECK (epoch > 0),
    PRIMARY KEY (owner_key, recipient_key)
);

CREATE TABLE consent.grant_version (
    grant_key bigint NOT NULL CHECK (grant_key <> 0),
    version integer NOT NULL CHECK (version > 0),
    owner_key bigint NOT NULL REFERENCES consent.owner,
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    state text NOT NULL CHECK (state IN ('active', 'withdrawn')),
    purpose text NOT NULL,
    sites bigint[] CHECK (cardinality(sites) > 0),
    kinds smallint[] CHECK (cardinality(kinds) > 0),
    classes text[] NOT NULL,
    fields text[] NOT NULL,
    resolution smallint NOT NULL CHECK (resolution BETWEEN 0 AND 6), -- Resolution.rank
    serial text NOT NULL CHECK (serial IN ('withheld', 'pseudonym', 'real')),
    place text NOT NULL CHECK (
        place IN ('withheld', 'country', 'region', 'cell4', 'cell5', 'cell6', 'cell7', 'exact')
    ),
    extremes boolean NOT NULL,
    history interval,
    data_from timestamptz NOT NULL,
    start timestamptz NOT NULL,
    until timestamptz CHECK (until > start),
    epoch integer NOT NULL CHECK (epoch > 0),
    policy text NOT NULL REFERENCES consent.policy,
    -- The solar-curve warning that the owner confirmed (rule 19): the expected error in kilometres that it stated.
    confirmed_km double precision,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    recorded_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (grant_key, version),
    CHECK (cardinality(classes) + cardinality(fields) > 0)
);
CREATE INDEX ON consent.grant_version (owner_key, recorded_at);

-- The newest version of every grant that is not withdrawn.
CREATE TABLE consent.active_grant (
    LIKE consent.grant_version INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    PRIMARY KEY (grant_key)
);
CREATE INDEX ON consent.active_grant (recipient_key, purpose);
CREATE INDEX ON consent.active_grant (owner_key);

-- One signed receipt for each version (ISO/IEC TS 27560), as a compact JWS without personal data in it.
CREATE TABLE consent.receipt (
    grant_key bigint NOT NULL,
    version integer NOT NULL,
    owner_key bigint NOT NULL REFERENCES consent.owner,
    jws text NOT NULL,
    PRIMARY KEY (grant_key, version),
    FOREIGN KEY (grant_key, version) REFERENCES consent.grant_version
);

CREATE TABLE consent.keeping_version (
    owner_key bigint NOT NULL REFERENCES consent.owner,
    version integer NOT NULL CHECK (version > 0),
    settings jsonb NOT NULL, -- model.sharing.Keeping
    recorded_at timestamptz NOT NULL DEFAULT now(),
    recorded_by text NOT NULL DEFAULT session_user,
    PRIMARY KEY (owner_key, version)
);
CREATE TABLE consent.keeping (
    owner_key bigint PRIMARY KEY REFERENCES consent.owner,
    version integer NOT NULL,
    settings jsonb NOT NULL
);

-- Restriction (GDPR Art. 18): while lifted_at is null nothing of the owner is used; what was measured between both
-- stays unseen by recipients.
CREATE TABLE consent.restriction (
    owner_key bigint NOT NULL REFERENCES consent.owner,
    from_at timestamptz NOT NULL DEFAULT now(),
    lifted_at timestamptz CHECK (lifted_at > from_at),
    PRIMARY KEY (owner_key, from_at)
);

-- Objection (GDPR Art. 21) to a purpose, for one recipient or (null) for all.
CREATE TABLE consent.objection (
    objection_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner_key bigint NOT NULL REFERENCES consent.owner,
    purpose text NOT NULL,
    recipient_key bigint REFERENCES consent.recipient,
    made_at timestamptz NOT NULL DEFAULT now(),
    withdrawn_at timestamptz
);
CREATE INDEX ON consent.objection (owner_key);

-- People of the household beside the owner. Their names are in the vault.
CREATE TABLE consent.member (
    member_key bigint PRIMARY KEY CHECK (member_key <> 0),
    owner_key bigint NOT NULL REFERENCES consent.owner,
    rights text[] NOT NULL CHECK (rights <@ ARRAY['see', 'share', 'rights']),
    added_at timestamptz NOT NULL DEFAULT now(),
    removed_at timestamptz
);
CREATE INDEX ON consent.member (owner_key);

ALTER TABLE vault.entry DROP CONSTRAINT entry_subject_kind_check;
ALTER TABLE vault.entry ADD CONSTRAINT entry_subject_kind_check
    CHECK (subject_kind IN ('owner', 'site', 'gateway', 'device', 'member'));

-- A site is a home for one tenure: when the home is sold, the new owner gets a new site and its devices new keys.
-- Readings from before `tenure_from` belong to somebody else and are withheld; null: from ever. The operator sets
-- `tenure_until` when the home is handed over.
ALTER TABLE consent.site ADD COLUMN tenure_from timestamptz;
ALTER TABLE consent.site ADD COLUMN tenure_until timestamptz;
ALTER TABLE consent.device ADD COLUMN retired_at timestamptz; -- replaced or handed over

-- Where a site is, as coarse as is ever shown: exact coordinates are in the vault only.
CREATE TABLE consent.site_place (
    site_key bigint PRIMARY KEY REFERENCES consent.site,
    cell7 bigint, -- H3 cell of resolution 7
    country text CHECK (country ~ '^[A-Z]{2}$'), -- ISO 3166-1
    region text CHECK (region ~ '^[A-Z]{2}-[A-Z0-9]{1,3}$'), -- ISO 3166-2
    timezone text NOT NULL DEFAULT 'UTC' -- IANA; grid of the site's own days (rule 10)
);
CREATE INDEX ON consent.site_place (cell7);

-- The label that a recipient is shown for a site instead of its cell (rule 24): null where place is withheld.
CREATE TABLE consent.site_label (
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    site_key bigint NOT NULL REFERENCES consent.site,
    granted smallint NOT NULL CHECK (granted BETWEEN 4 AND 7),
    label bigint,
    changed_on date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    PRIMARY KEY (recipient_key, site_key)
);

-- Who looked: one row a read and owner, for the owner to see. Never holds a value.
CREATE TABLE audit.read (
    read_key bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    recipient_key bigint NOT NULL,
    owner_key bigint NOT NULL,
    purpose text NOT NULL,
    way text NOT NULL CHECK (way IN ('view', 'stream', 'export', 'preview')),
    fields text[] NOT NULL,
    resolution smallint NOT NULL,
    from_at timestamptz NOT NULL,
    to_at timestamptz NOT NULL
);
CREATE INDEX ON audit.read (owner_key, at);

-- The newest version becomes the one in force, in the same statement that records it.
CREATE FUNCTION consent.apply_grant_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM consent.active_grant WHERE grant_key = NEW.grant_key;
    IF NEW.state = 'active' THEN
        INSERT INTO consent.active_grant SELECT NEW.*;
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER apply AFTER INSERT ON consent.grant_version
    FOR EACH ROW EXECUTE FUNCTION consent.apply_grant_version();

CREATE FUNCTION consent.apply_keeping_version() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO consent.keeping AS k (owner_key, version, settings)
    VALUES (NEW.owner_key, NEW.version, NEW.settings)
    ON CONFLICT (owner_key) DO UPDATE SET version = EXCLUDED.version, settings = EXCLUDED.settings
    WHERE k.version < EXCLUDED.version;
    RETURN NULL;
END
$$;
CREATE TRIGGER apply AFTER INSERT ON consent.keeping_version
    FOR EACH ROW EXECUTE FUNCTION consent.apply_keeping_version();

DO $$
DECLARE
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY[
        'consent.recipient', 'consent.policy', 'consent.relation', 'consent.grant_version', 'consent.active_grant',
        'consent.receipt', 'consent.keeping_version', 'consent.keeping', 'consent.restriction', 'consent.objection',
        'consent.member', 'consent.site_place', 'consent.site_label', 'audit.read'
    ] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', place);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', place);
        -- The triggers write as the owner of the tables, whom FORCE binds too; nobody can log in as it.
        EXECUTE format('CREATE POLICY owner_keeps ON %s TO telemetry_owner USING (true) WITH CHECK (true)', place);
        EXECUTE format('CREATE POLICY rights_act ON %s TO telemetry_rights USING (true) WITH CHECK (true)', place);
        EXECUTE format('CREATE POLICY operator_sees ON %s FOR SELECT TO telemetry_operator USING (true)', place);
    END LOOP;
END
$$;

-- Rights: settles for an owner. Histories take INSERT alone.
GRANT SELECT ON consent.recipient, consent.policy, consent.active_grant, consent.keeping, consent.site_place,
    consent.site_label, audit.read TO telemetry_rights;
GRANT SELECT, INSERT, UPDATE (epoch) ON consent.relation TO telemetry_rights;
GRANT SELECT, INSERT ON consent.grant_version, consent.receipt, consent.keeping_version TO telemetry_rights;
GRANT SELECT, INSERT, UPDATE (lifted_at) ON consent.restriction TO telemetry_rights;
GRANT SELECT, INSERT, UPDATE (withdrawn_at) ON consent.objection TO telemetry_rights;
GRANT SELECT, INSERT, UPDATE (rights, removed_at) ON consent.member TO telemetry_rights;

-- Operator: recipients, places and tenures.
GRANT SELECT ON consent.policy, consent.relation, consent.active_grant, consent.keeping, consent.restriction
    TO telemetry_operator;
GRANT SELECT, INSERT, UPDATE (closed_at) ON consent.recipient TO telemetry_operator;
GRANT SELECT, INSERT, UPDATE (cell7, country, region, timezone) ON consent.site_place TO telemetry_operator;
CREATE POLICY operator_runs ON consent.recipient TO telemetry_operator USING (true) WITH CHECK (true);
CREATE POLICY operator_runs ON consent.site_place TO telemetry_operator USING (true) WITH CHECK (true);
GRANT UPDATE (tenure_until) ON consent.site TO telemetry_operator;
GRANT UPDATE (site_key) ON consent.gateway TO telemetry_operator;
GRANT UPDATE (serial_blind, retired_at) ON consent.device TO telemetry_operator;
GRANT UPDATE (sealed) ON vault.entry TO telemetry_operator;
