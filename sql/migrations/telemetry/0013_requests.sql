-- Requests for access and invitations: what a recipient asks for, and what an owner answers (decision 0071).
--
-- A request has two parts. The recipient's (access.request) is written for every request, whether or not there is an
-- owner whom it reaches, and changes by nothing but the recipient's own acts, acceptance and time. The owner's
-- (consent.request) exists where an owner is reached, and the role of the recipients' side can neither read it nor
-- tell whether it exists.
--
-- Whoever acts for a recipient says so inside its transaction: set_config('telemetry.recipient', …, true).

CREATE TABLE access.request (
    request_key bigint PRIMARY KEY CHECK (request_key <> 0),
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    by_code boolean NOT NULL,
    site_token text CHECK (length(site_token) <= 64), -- as the recipient named it; nothing is looked up by it
    reason text NOT NULL CHECK (reason ~ '^[a-z_]{1,32}$'),
    terms jsonb NOT NULL, -- model.sharing.GrantTerms, without sites
    made_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    withdrawn_at timestamptz
);
CREATE INDEX ON access.request (recipient_key, made_at);
CREATE INDEX ON access.request (expires_at);

-- What an installer proposes before it knows the owner. Whoever holds the code, as an owner, may accept.
CREATE TABLE access.invitation (
    invitation_key bigint PRIMARY KEY CHECK (invitation_key <> 0),
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    code_hash bytea NOT NULL UNIQUE CHECK (octet_length(code_hash) = 32), -- SHA-256 of 256 random bits
    terms jsonb NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    accepted_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX ON access.invitation (recipient_key, made_at);

-- A code by which an owner lets itself be found once. Keyed hash: 40 bits would not survive a dictionary.
CREATE TABLE consent.connection_code (
    code_hash bytea PRIMARY KEY CHECK (octet_length(code_hash) = 32),
    owner_key bigint NOT NULL REFERENCES consent.owner,
    made_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON consent.connection_code (owner_key);

CREATE TABLE consent.request (
    request_key bigint PRIMARY KEY REFERENCES access.request ON DELETE CASCADE,
    owner_key bigint NOT NULL REFERENCES consent.owner,
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    sites bigint[] CHECK (cardinality(sites) > 0), -- null: all
    has_text boolean NOT NULL, -- in the vault, sealed to the owner
    made_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    decided_at timestamptz,
    grant_key bigint, -- where it was accepted
    CHECK (grant_key IS NULL OR decided_at IS NOT NULL)
);
CREATE INDEX ON consent.request (owner_key, made_at);

-- Whose requests an owner does not want to see.
CREATE TABLE consent.request_block (
    owner_key bigint NOT NULL REFERENCES consent.owner,
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    blocked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (owner_key, recipient_key)
);

ALTER TABLE vault.entry DROP CONSTRAINT entry_subject_kind_check;
ALTER TABLE vault.entry ADD CONSTRAINT entry_subject_kind_check
    CHECK (subject_kind IN ('owner', 'site', 'gateway', 'device', 'member', 'request'));

DO $$
DECLARE
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY[
        'access.request', 'access.invitation', 'consent.connection_code', 'consent.request', 'consent.request_block'
    ] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', place);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', place);
        EXECUTE format('CREATE POLICY owner_keeps ON %s TO telemetry_owner USING (true) WITH CHECK (true)', place);
        EXECUTE format('CREATE POLICY rights_act ON %s TO telemetry_rights USING (true) WITH CHECK (true)', place);
    END LOOP;
END
$$;
-- The functions below put a request's text into the vault and remove it; they read nothing there.
CREATE POLICY requests_seal ON vault.entry FOR INSERT TO telemetry_owner WITH CHECK (subject_kind = 'request');
CREATE POLICY requests_forget ON vault.entry FOR DELETE TO telemetry_owner USING (subject_kind = 'request');
CREATE POLICY requests_find ON vault.entry FOR SELECT TO telemetry_owner USING (subject_kind = 'request');

-- The recipients' side: its own rows, and no column that leads to an owner.
GRANT SELECT ON access.request TO telemetry_access;
GRANT SELECT, INSERT (invitation_key, recipient_key, code_hash, terms, expires_at), UPDATE (revoked_at)
    ON access.invitation TO telemetry_access;
CREATE POLICY recipient_sees ON access.request FOR SELECT TO telemetry_access USING (
    recipient_key = nullif(current_setting('telemetry.recipient', true), '')::bigint -- predicate: own requests
);
CREATE POLICY recipient_invites ON access.invitation TO telemetry_access USING (
    recipient_key = nullif(current_setting('telemetry.recipient', true), '')::bigint -- predicate: own invitations
) WITH CHECK (
    recipient_key = nullif(current_setting('telemetry.recipient', true), '')::bigint -- predicate: own invitations only
);

-- The owners' side.
GRANT USAGE ON SCHEMA access TO telemetry_rights;
GRANT SELECT, UPDATE (accepted_at) ON access.request, access.invitation TO telemetry_rights;
GRANT SELECT, INSERT, DELETE ON consent.connection_code, consent.request_block TO telemetry_rights;
GRANT SELECT, UPDATE (decided_at, grant_key), DELETE ON consent.request TO telemetry_rights;

-- Whom a request reaches, if anybody: by a code, or by a site that the recipient is shown. One place decides it.
CREATE FUNCTION access.reached(asker bigint, code bytea, seen_owner bigint, seen_site bigint) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT o.owner_key
    FROM consent.owner AS o
    WHERE o.owner_key IN (
            SELECT c.owner_key FROM consent.connection_code AS c
            WHERE c.code_hash = code
                AND now() < c.expires_at -- predicate: code lives
            UNION ALL
            SELECT s.owner_key
            FROM consent.site AS s
            JOIN consent.active_grant AS g USING (owner_key)
            WHERE code IS NULL AND s.site_key = seen_site AND s.owner_key = seen_owner
                AND g.recipient_key = asker -- predicate: seen by the asker
                AND (g.sites IS NULL OR s.site_key = ANY (g.sites)) -- predicate: this site
                AND g.start <= now() AND (g.until IS NULL OR now() < g.until) -- predicate: in force
        )
        AND o.erased_at IS NULL -- predicate: not erased
        AND NOT EXISTS ( -- predicate: not blocked
            SELECT FROM consent.request_block AS b WHERE b.owner_key = o.owner_key AND b.recipient_key = asker
        ) -- end
        AND EXISTS ( -- predicate: recipient open
            SELECT FROM consent.recipient AS r WHERE r.recipient_key = asker AND r.closed_at IS NULL
        ) -- end
        AND ( -- predicate: few at this owner
            SELECT count(*) FROM consent.request AS q
            WHERE q.owner_key = o.owner_key AND q.recipient_key = asker AND q.decided_at IS NULL
                AND now() < q.expires_at
        ) < 3 -- end
$$;

-- What the text is sealed to, null where nobody is reached; the caller then seals to a key that nobody has.
CREATE FUNCTION access.letterbox(code bytea, seen_owner bigint, seen_site bigint) RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT o.public_key FROM consent.owner AS o
    WHERE o.owner_key = access.reached(
        nullif(current_setting('telemetry.recipient', true), '')::bigint, code, seen_owner, seen_site
    )
$$;

-- Record a request, and deliver it where it reaches somebody. The outcome follows from the recipient's own requests:
-- 'made', 'open' (too many are pending) or 'codes' (too many codes were tried), with the seconds to wait.
CREATE FUNCTION access.ask(
    new_key bigint, why text, wanted jsonb, token text, code bytea, seen_owner bigint, seen_site bigint, sealed bytea,
    OUT outcome text, OUT wait_s double precision, OUT until timestamptz
)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asker bigint := nullif(current_setting('telemetry.recipient', true), '')::bigint;
    reached_owner bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7313, hashint8(asker));
    SELECT extract(epoch FROM min(recent.made_at) + interval '1 day' - now()) INTO wait_s
    FROM (
        SELECT r.made_at FROM access.request AS r
        WHERE code IS NOT NULL AND r.recipient_key = asker AND r.by_code AND r.made_at > now() - interval '1 day'
        ORDER BY r.made_at DESC LIMIT 20
    ) AS recent
    HAVING count(*) >= 20;
    IF wait_s IS NOT NULL THEN
        outcome := 'codes';
        RETURN;
    END IF;
    SELECT extract(epoch FROM min(r.expires_at) - now()) INTO wait_s
    FROM access.request AS r
    WHERE r.recipient_key = asker AND r.accepted_at IS NULL AND r.withdrawn_at IS NULL AND now() < r.expires_at
    HAVING count(*) >= 200;
    IF wait_s IS NOT NULL THEN
        outcome := 'open';
        RETURN;
    END IF;
    outcome := 'made';
    until := now() + interval '30 days';
    INSERT INTO access.request (request_key, recipient_key, by_code, site_token, reason, terms, expires_at)
    VALUES (new_key, asker, code IS NOT NULL, token, why, wanted, until);
    reached_owner := access.reached(asker, code, seen_owner, seen_site);
    IF code IS NOT NULL AND reached_owner IS NOT NULL THEN
        -- A code is used once: of two that use it at the same time one finds it gone.
        DELETE FROM consent.connection_code AS c WHERE c.code_hash = code;
        IF NOT FOUND THEN
            reached_owner := NULL;
        END IF;
    END IF;
    IF reached_owner IS NOT NULL THEN
        INSERT INTO consent.request (request_key, owner_key, recipient_key, sites, has_text, expires_at)
        VALUES (
            new_key, reached_owner, asker, CASE WHEN code IS NULL THEN ARRAY[seen_site] END, sealed IS NOT NULL, until
        );
        IF sealed IS NOT NULL THEN
            INSERT INTO vault.entry (owner_key, subject_kind, subject_key, attribute, sealed)
            VALUES (reached_owner, 'request', new_key, 'text', sealed);
        END IF;
    END IF;
END
$$;

-- The recipient takes a request back: it is gone from both sides, unless the owner has decided.
CREATE FUNCTION access.withdraw_request(own_key bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    asker bigint := nullif(current_setting('telemetry.recipient', true), '')::bigint;
BEGIN
    -- The owner's part first, as whoever decides does.
    PERFORM FROM consent.request AS q WHERE q.request_key = own_key AND q.recipient_key = asker FOR UPDATE;
    UPDATE access.request AS r SET withdrawn_at = now()
    WHERE r.request_key = own_key AND r.recipient_key = asker AND r.withdrawn_at IS NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM vault.entry AS e
    USING consent.request AS q
    WHERE q.request_key = own_key AND e.owner_key = q.owner_key
        AND e.subject_kind = 'request' AND e.subject_key = own_key;
    DELETE FROM consent.request AS q WHERE q.request_key = own_key AND q.decided_at IS NULL;
    RETURN true;
END
$$;
GRANT EXECUTE ON FUNCTION access.letterbox(bytea, bigint, bigint),
    access.ask(bigint, text, jsonb, text, bytea, bigint, bigint, bytea), access.withdraw_request(bigint)
    TO telemetry_access;

-- What is over: texts at once, the rest after 30 days more.
CREATE FUNCTION consent.prune_requests() RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    pruned bigint;
BEGIN
    DELETE FROM consent.connection_code WHERE expires_at <= now();
    DELETE FROM vault.entry AS e
    USING consent.request AS q
    WHERE q.has_text AND (q.expires_at <= now() OR q.decided_at IS NOT NULL)
        AND e.owner_key = q.owner_key AND e.subject_kind = 'request' AND e.subject_key = q.request_key;
    DELETE FROM access.invitation WHERE expires_at <= now() - interval '30 days';
    DELETE FROM access.request WHERE expires_at <= now() - interval '30 days';
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;
GRANT EXECUTE ON FUNCTION consent.prune_requests() TO telemetry_rights;

-- How far the rollup is: for whoever runs the service.
GRANT SELECT (done_as_of) ON readings.rollup_pass TO telemetry_operator;
