-- Owners whose plan is older than what they settled. A change of settings commits with a row here and obeys at once
-- in every view; what workers keep is compiled afterwards, and the row goes with that (decision 0030).
--
-- Whoever compiles reads the row before the settings, and deletes it only if no later change has written it anew.
CREATE TABLE consent.dirty_owner (
    owner_key bigint PRIMARY KEY REFERENCES consent.owner,
    since timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE consent.dirty_owner ENABLE ROW LEVEL SECURITY;
ALTER TABLE consent.dirty_owner FORCE ROW LEVEL SECURITY;
CREATE POLICY rights_act ON consent.dirty_owner TO telemetry_rights USING (true) WITH CHECK (true);
CREATE POLICY operator_runs ON consent.dirty_owner TO telemetry_operator USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON consent.dirty_owner TO telemetry_rights;
-- Closing a recipient and handing a home over mark owners too.
GRANT SELECT, INSERT, UPDATE (since) ON consent.dirty_owner TO telemetry_operator;
-- A home that is sold becomes a new site, whose tenure begins then.
GRANT UPDATE (tenure_from) ON consent.site TO telemetry_operator;
