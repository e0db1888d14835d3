-- run as: admin
-- Who may ask: the role of accounts, sessions and tokens, which reads no data of homes.
--
-- No address, token, code or session is here in clear: addresses as blind index and sealed, what is random and long as
-- SHA-256, password hashes and second factors sealed, all under a key that no database holds. Instants are the caller's.

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

-- A person who asks: for a home (as its owner, or as a member of the household), for a recipient, or as the operator.
CREATE TABLE access.account (
    account_key bigint PRIMARY KEY CHECK (account_key <> 0),
    role text NOT NULL,
    owner_key bigint REFERENCES consent.owner,
    member_key bigint REFERENCES consent.member,
    recipient_key bigint REFERENCES consent.recipient,
    email_blind bytea NOT NULL UNIQUE CHECK (octet_length(email_blind) = 16),
    email_sealed bytea NOT NULL,
    password_sealed bytea NOT NULL,
    password_version integer NOT NULL DEFAULT 1, -- a login that began under an earlier one begins no session
    adult_stated_at timestamptz NOT NULL, -- CHILD-1
    created_at timestamptz NOT NULL,
    -- The second factor, once confirmed; `totp_step` is the last one accepted: none is accepted twice.
    totp_sealed bytea,
    totp_step bigint NOT NULL DEFAULT 0,
    totp_proposed bytea,
    CHECK (CASE role
        WHEN 'owner' THEN owner_key IS NOT NULL AND recipient_key IS NULL
        WHEN 'recipient' THEN recipient_key IS NOT NULL AND owner_key IS NULL AND member_key IS NULL
        WHEN 'operator' THEN owner_key IS NULL AND recipient_key IS NULL AND member_key IS NULL
        ELSE false END)
);
CREATE INDEX ON access.account (owner_key);
CREATE INDEX ON access.account (recipient_key);

-- Each stands in for the second factor once.
CREATE TABLE access.recovery_code (
    account_key bigint NOT NULL REFERENCES access.account ON DELETE CASCADE,
    code_hash bytea NOT NULL CHECK (octet_length(code_hash) = 32),
    PRIMARY KEY (account_key, code_hash)
);

CREATE TABLE access.session (
    session_key bigint PRIMARY KEY CHECK (session_key <> 0),
    account_key bigint NOT NULL REFERENCES access.account ON DELETE CASCADE,
    secret_hash bytea NOT NULL UNIQUE CHECK (octet_length(secret_hash) = 32),
    second_factor boolean NOT NULL,
    begun_at timestamptz NOT NULL,
    seen_at timestamptz NOT NULL, -- to the minute
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON access.session (account_key);
CREATE INDEX ON access.session (expires_at);

-- A machine's token. `member_key`: whose rights it has, where a member of the household issued it.
CREATE TABLE access.token (
    token_key bigint PRIMARY KEY CHECK (token_key <> 0),
    role text NOT NULL,
    owner_key bigint REFERENCES consent.owner,
    member_key bigint REFERENCES consent.member,
    recipient_key bigint REFERENCES consent.recipient,
    secret_hash bytea NOT NULL UNIQUE CHECK (octet_length(secret_hash) = 32),
    scopes text[] NOT NULL CHECK (cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'live', 'export', 'manage']),
    purposes text[] CHECK (cardinality(purposes) > 0),
    issued_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at BETWEEN issued_at AND issued_at + interval '366 days'),
    last_used_on date,
    revoked_at timestamptz,
    successor_key bigint REFERENCES access.token ON DELETE SET NULL,
    CHECK (CASE role
        WHEN 'owner' THEN owner_key IS NOT NULL AND recipient_key IS NULL AND purposes IS NULL
        WHEN 'recipient' THEN recipient_key IS NOT NULL AND owner_key IS NULL AND member_key IS NULL
        WHEN 'operator' THEN owner_key IS NULL AND recipient_key IS NULL AND member_key IS NULL AND purposes IS NULL
        ELSE false END)
);
CREATE INDEX ON access.token (owner_key);
CREATE INDEX ON access.token (recipient_key);

-- What the operator hands out so that somebody may sign up for an owner, a member, a recipient, or as an operator.
CREATE TABLE access.claim (
    claim_key bigint PRIMARY KEY CHECK (claim_key <> 0),
    code_hash bytea NOT NULL UNIQUE CHECK (octet_length(code_hash) = 32),
    role text NOT NULL,
    owner_key bigint REFERENCES consent.owner,
    member_key bigint REFERENCES consent.member,
    recipient_key bigint REFERENCES consent.recipient,
    expires_at timestamptz NOT NULL,
    CHECK (CASE role
        WHEN 'owner' THEN owner_key IS NOT NULL AND recipient_key IS NULL
        WHEN 'recipient' THEN recipient_key IS NOT NULL AND owner_key IS NULL AND member_key IS NULL
        WHEN 'operator' THEN owner_key IS NULL AND recipient_key IS NULL AND member_key IS NULL
        ELSE false END)
);
CREATE INDEX ON access.claim (expires_at);

-- Who asked to sign up and has not followed the mail yet. Without a claim: a new owner, of this sealed name.
CREATE TABLE access.sign_up (
    secret_hash bytea PRIMARY KEY CHECK (octet_length(secret_hash) = 32),
    sign_up_key bigint NOT NULL CHECK (sign_up_key <> 0), -- what the sealed values are bound to; the account's key
    email_blind bytea NOT NULL CHECK (octet_length(email_blind) = 16),
    email_sealed bytea NOT NULL,
    name_sealed bytea NOT NULL,
    claim_key bigint REFERENCES access.claim ON DELETE CASCADE,
    adult_stated_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON access.sign_up (email_blind);
CREATE INDEX ON access.sign_up (expires_at);
CREATE INDEX ON access.sign_up (claim_key);

CREATE TABLE access.reset (
    secret_hash bytea PRIMARY KEY CHECK (octet_length(secret_hash) = 32),
    account_key bigint NOT NULL REFERENCES access.account ON DELETE CASCADE,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON access.reset (account_key);
CREATE INDEX ON access.reset (expires_at);

-- How often something was tried, by a keyed hash of what and where from. Nothing stays a day after the last try.
CREATE TABLE access.attempt (
    bucket bytea PRIMARY KEY CHECK (octet_length(bucket) = 16),
    tries integer NOT NULL CHECK (tries >= 0),
    next_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX ON access.attempt (expires_at);

-- Half of the key of those hashes: of today. Once it is gone nobody can tell where from.
CREATE TABLE access.day_key (
    day date PRIMARY KEY,
    half bytea NOT NULL CHECK (octet_length(half) = 32)
);

DO $$
DECLARE
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY[
        'account', 'recovery_code', 'session', 'token', 'claim', 'sign_up', 'reset', 'attempt', 'day_key'
    ] LOOP
        EXECUTE format('ALTER TABLE access.%I ENABLE ROW LEVEL SECURITY', place);
        EXECUTE format('ALTER TABLE access.%I FORCE ROW LEVEL SECURITY', place);
        EXECUTE format('CREATE POLICY access_keeps ON access.%I TO telemetry_access USING (true) WITH CHECK (true)', place);
    END LOOP;
END
$$;

GRANT SELECT, INSERT, UPDATE (password_sealed, password_version, totp_sealed, totp_step, totp_proposed) ON access.account
    TO telemetry_access;
GRANT SELECT, INSERT, DELETE ON access.recovery_code, access.claim, access.sign_up, access.reset, access.day_key
    TO telemetry_access;
GRANT SELECT, INSERT, UPDATE (seen_at, second_factor), DELETE ON access.session TO telemetry_access;
GRANT SELECT, INSERT, UPDATE (expires_at, last_used_on, revoked_at, successor_key), DELETE ON access.token
    TO telemetry_access;
GRANT SELECT, INSERT, UPDATE, DELETE ON access.attempt TO telemetry_access;

-- Whether an owner is erased, a recipient closed, and what a member may: asked at every request.
GRANT USAGE ON SCHEMA consent, audit TO telemetry_access;
GRANT SELECT (owner_key, erased_at) ON consent.owner TO telemetry_access;
GRANT SELECT (recipient_key, closed_at) ON consent.recipient TO telemetry_access;
GRANT SELECT (member_key, owner_key, rights, removed_at) ON consent.member TO telemetry_access;
CREATE POLICY access_looks ON consent.owner FOR SELECT TO telemetry_access USING (true);
CREATE POLICY access_looks ON consent.recipient FOR SELECT TO telemetry_access USING (true);
CREATE POLICY access_looks ON consent.member FOR SELECT TO telemetry_access USING (true);

GRANT INSERT (action, owner_key, subject_key, affected) ON audit.event TO telemetry_access;
CREATE POLICY access_appends ON audit.event FOR INSERT TO telemetry_access WITH CHECK (actor = session_user);
