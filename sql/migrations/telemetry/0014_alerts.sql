-- Alerts: what is wrong with a device, from when to when. Never a value, and no key but surrogate ones.
--
-- Found by the job of role telemetry_rollup; shown through row-level security like readings, and only where the class
-- `alert` is granted as a class. Told by webhook and mail from a queue of the role telemetry_access.

CREATE TABLE readings.alert (
    alert_key bigint PRIMARY KEY CHECK (alert_key <> 0),
    device_key bigint NOT NULL REFERENCES consent.device ON DELETE CASCADE,
    kind smallint NOT NULL CHECK (kind BETWEEN 1 AND 3), -- AlertKind
    opened_at timestamptz NOT NULL,
    closed_at timestamptz CHECK (closed_at >= opened_at),
    severity smallint NOT NULL CHECK (severity BETWEEN 0 AND 7), -- RFC 5424
    found_at timestamptz NOT NULL, -- when the job saw it: nobody is shown it before
    settled_at timestamptz CHECK ((settled_at IS NULL) = (closed_at IS NULL)), -- the same of its end
    UNIQUE (device_key, kind, opened_at)
);
CREATE UNIQUE INDEX ON readings.alert (device_key, kind) WHERE closed_at IS NULL;
CREATE INDEX ON readings.alert (closed_at);

-- How long a device is usually silent at most, and when it was heard of last as far as anybody looked.
CREATE TABLE readings.alert_rhythm (
    device_key bigint PRIMARY KEY REFERENCES consent.device ON DELETE CASCADE,
    heard_at timestamptz NOT NULL,
    silence_s integer CHECK (silence_s > 0), -- null: it has no rhythm
    learnt_at timestamptz NOT NULL
);
CREATE INDEX ON readings.alert_rhythm (learnt_at);

ALTER TABLE readings.alert ENABLE ROW LEVEL SECURITY;
ALTER TABLE readings.alert FORCE ROW LEVEL SECURITY;
ALTER TABLE readings.alert_rhythm ENABLE ROW LEVEL SECURITY;
ALTER TABLE readings.alert_rhythm FORCE ROW LEVEL SECURITY;
CREATE POLICY rollup_keeps ON readings.alert TO telemetry_rollup USING (true) WITH CHECK (true);
CREATE POLICY rollup_keeps ON readings.alert_rhythm TO telemetry_rollup USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE (closed_at, settled_at), DELETE ON readings.alert TO telemetry_rollup;
GRANT SELECT, INSERT, UPDATE (heard_at, silence_s, learnt_at), DELETE ON readings.alert_rhythm TO telemetry_rollup;

-- Devices that can have alerts, by cell and site: in use, of a home that is the owner's still, the owner not erased.
CREATE FUNCTION consent.alert_subjects() RETURNS TABLE (
    device_key bigint, kind smallint, plan_class integer, cell7 bigint, timezone text
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.device_key, d.kind, d.plan_class, p.cell7, coalesce(p.timezone, 'UTC')
    FROM consent.device AS d
    JOIN consent.site AS s USING (site_key)
    JOIN consent.owner AS o USING (owner_key)
    LEFT JOIN consent.site_place AS p USING (site_key)
    WHERE o.erased_at IS NULL
        AND d.retired_at IS NULL
        AND (s.tenure_until IS NULL OR now() < s.tenure_until)
    ORDER BY p.cell7 NULLS LAST, d.site_key, d.device_key
$$;
GRANT EXECUTE ON FUNCTION consent.alert_subjects() TO telemetry_rollup;

-- What consent.sight() is to readings: devices of which the class `alert` may be seen, and from when on.
CREATE FUNCTION consent.alert_sight() RETURNS consent.sight
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    WITH seen AS MATERIALIZED (
        SELECT d.device_key, s.owner_key,
            min(greatest(
                g.data_from, -- predicate: alert, data_from
                now() - g.history, -- predicate: alert, history
                '-infinity'
            )) AS seen_from,
            coalesce(s.tenure_from, '-infinity') AS tenure_from,
            coalesce(s.tenure_until, 'infinity') AS tenure_until
        FROM consent.grants_in_force() AS g
        JOIN consent.site AS s
            ON s.owner_key = g.owner_key -- predicate: alert, owner
            AND (g.sites IS NULL OR s.site_key = ANY (g.sites)) -- predicate: alert, site
        JOIN consent.device AS d
            ON d.site_key = s.site_key
            AND (g.kinds IS NULL OR d.kind = ANY (g.kinds)) -- predicate: alert, kind
        WHERE 'alert' = ANY (g.classes) -- predicate: alert, class
        GROUP BY d.device_key, s.site_key
        UNION ALL
        SELECT d.device_key, s.owner_key, '-infinity',
            coalesce(s.tenure_from, '-infinity'), coalesce(s.tenure_until, 'infinity')
        FROM consent.owner AS o
        JOIN consent.site AS s USING (owner_key)
        JOIN consent.device AS d USING (site_key)
        WHERE o.owner_key = (SELECT consent.viewing_owner()) -- predicate: alert, own
            AND o.erased_at IS NULL -- predicate: alert, own, not erased
    ),
    shut AS (
        SELECT s.device_key, x.from_at, x.lifted_at
        FROM seen AS s
        JOIN consent.restriction AS x USING (owner_key)
        WHERE consent.viewing_recipient() IS NOT NULL
    )
    SELECT (
        (SELECT coalesce(array_agg(device_key ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(seen_from ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(tenure_from ORDER BY device_key), '{}') FROM seen),
        (SELECT coalesce(array_agg(tenure_until ORDER BY device_key), '{}') FROM seen),
        '{}', '{}', '{}',
        (SELECT coalesce(array_agg(device_key ORDER BY device_key, from_at), '{}') FROM shut),
        (SELECT coalesce(array_agg(from_at ORDER BY device_key, from_at), '{}') FROM shut),
        (SELECT coalesce(array_agg(lifted_at ORDER BY device_key, from_at), '{}') FROM shut)
    )::consent.sight
$$;
GRANT EXECUTE ON FUNCTION consent.alert_sight() TO telemetry_views;

-- An alert is seen where its end may be (now, while it is open): when it began before that, it is not told when.
GRANT SELECT ON readings.alert TO telemetry_views;
CREATE POLICY views_read ON readings.alert FOR SELECT TO telemetry_views USING (
    EXISTS (
        SELECT
        FROM (SELECT (SELECT consent.alert_sight()) AS sight OFFSET 0) AS once
        CROSS JOIN LATERAL (SELECT width_bucket(device_key, (sight).devices) AS place OFFSET 0) AS found
        WHERE (sight).devices[place] = device_key -- predicate: device
            AND coalesce(closed_at, now()) >= (sight).seen_from[place] -- predicate: first instant
            AND opened_at >= (sight).tenure_from[place] -- predicate: tenure_from
            AND opened_at < (sight).tenure_until[place] -- predicate: tenure_until
            AND NOT EXISTS ( -- predicate: ended while restricted
                SELECT FROM unnest((sight).shut, (sight).shut_from, (sight).shut_until) AS x (device, start, lifted)
                WHERE x.device = device_key AND x.start <= coalesce(closed_at, now())
                    AND coalesce(closed_at, now()) < coalesce(x.lifted, 'infinity')
            ) -- end
    )
);

-- Where a recipient wants to be told. Address and secret are sealed: neither is in any database in clear.
CREATE TABLE access.webhook (
    webhook_key bigint PRIMARY KEY CHECK (webhook_key <> 0),
    recipient_key bigint NOT NULL REFERENCES consent.recipient,
    purpose text NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    failing_since timestamptz,
    disabled_at timestamptz,
    disabled_as text CHECK (disabled_as IN ('failing', 'gone')),
    CHECK ((disabled_at IS NULL) = (disabled_as IS NULL))
);
CREATE INDEX ON access.webhook (recipient_key);

-- Whose account wants mails: of a recipient for one purpose, or of an owner.
CREATE TABLE access.alert_mail (
    alert_mail_key bigint PRIMARY KEY CHECK (alert_mail_key <> 0),
    account_key bigint NOT NULL,
    recipient_key bigint REFERENCES consent.recipient,
    owner_key bigint REFERENCES consent.owner,
    purpose text,
    created_at timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (account_key, purpose),
    CHECK (CASE WHEN owner_key IS NULL THEN recipient_key IS NOT NULL AND purpose IS NOT NULL
        ELSE recipient_key IS NULL AND purpose IS NULL END)
);
CREATE INDEX ON access.alert_mail (recipient_key);
CREATE INDEX ON access.alert_mail (owner_key);

-- What is to be told. A row is made once for a target, alert and event, and stays: it is what keeps it from being told
-- twice. Its key is the webhook-id, the same at every attempt. Nothing of the alert is here but its key.
CREATE TABLE access.outbox (
    message_key uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    webhook_key bigint REFERENCES access.webhook ON DELETE CASCADE,
    alert_mail_key bigint REFERENCES access.alert_mail ON DELETE CASCADE,
    alert_key bigint, -- null for a test
    event text NOT NULL CHECK (event IN ('opened', 'closed', 'test')),
    created_at timestamptz NOT NULL,
    due_at timestamptz NOT NULL, -- while somebody is at it: when that is given up
    attempts integer NOT NULL DEFAULT 0,
    ended_at timestamptz,
    ended_as text CHECK (ended_as IN ('delivered', 'withdrawn', 'given_up', 'refused')),
    CHECK ((webhook_key IS NULL) <> (alert_mail_key IS NULL)),
    CHECK ((alert_key IS NULL) = (event = 'test')),
    CHECK ((ended_at IS NULL) = (ended_as IS NULL))
);
CREATE UNIQUE INDEX ON access.outbox (webhook_key, alert_key, event) WHERE webhook_key IS NOT NULL AND event <> 'test';
CREATE UNIQUE INDEX ON access.outbox (alert_mail_key, alert_key, event) WHERE alert_mail_key IS NOT NULL;
CREATE INDEX ON access.outbox (due_at) WHERE ended_at IS NULL;
CREATE INDEX ON access.outbox (ended_at);

DO $$
DECLARE
    place text;
BEGIN
    FOREACH place IN ARRAY ARRAY['webhook', 'alert_mail', 'outbox'] LOOP
        EXECUTE format('ALTER TABLE access.%I ENABLE ROW LEVEL SECURITY', place);
        EXECUTE format('ALTER TABLE access.%I FORCE ROW LEVEL SECURITY', place);
        EXECUTE format('CREATE POLICY access_keeps ON access.%I TO telemetry_access USING (true) WITH CHECK (true)', place);
    END LOOP;
END
$$;
GRANT SELECT, INSERT, UPDATE (failing_since, disabled_at, disabled_as), DELETE ON access.webhook TO telemetry_access;
GRANT SELECT, INSERT, DELETE ON access.alert_mail TO telemetry_access;
GRANT SELECT, INSERT, UPDATE (due_at, attempts, ended_at, ended_as), DELETE ON access.outbox TO telemetry_access;
