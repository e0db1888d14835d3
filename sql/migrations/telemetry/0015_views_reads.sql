-- Reading faster: names found again without adding up what everybody granted.

-- What has a name for the recipient, device by device: its site, its owner and the token epoch of both. It takes no
-- argument and tells no more than `consent.sight()` does: settings of the session decide, 'telemetry.scope' included.
CREATE FUNCTION consent.seen_names() RETURNS TABLE (
    devices bigint[], sites bigint[], owners bigint[], epochs integer[]
)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(s.device_key ORDER BY s.device_key), '{}'),
        coalesce(array_agg(s.site_key ORDER BY s.device_key), '{}'),
        coalesce(array_agg(s.owner_key ORDER BY s.device_key), '{}'),
        coalesce(array_agg(r.epoch ORDER BY s.device_key), '{}')
    FROM consent.seen_devices() AS s
    JOIN consent.relation AS r
        ON r.owner_key = s.owner_key
        AND r.recipient_key = (SELECT consent.viewing_recipient())
$$;
GRANT EXECUTE ON FUNCTION consent.seen_names() TO telemetry_views;

-- What is kept of each field (Resolution.rank, 255 for nothing) of devices that are seen, if the last pass of the
-- rollup is as of `up_to` or later and began after the device got the plan that it has: then a field that has no
-- window has not been reported, and readings need not be searched for it.
CREATE FUNCTION consent.kept_since(up_to timestamptz) RETURNS TABLE (device_key bigint, kept_resolution bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT d.device_key, c.kept_resolution
    FROM readings.rollup_pass AS p, consent.seen_devices() AS s
    JOIN consent.device AS d USING (device_key)
    JOIN consent.plan_class AS c USING (plan_class)
    WHERE p.done_as_of >= up_to AND age(d.xmin) > age(p.done_since::xid)
$$;
GRANT EXECUTE ON FUNCTION consent.kept_since(timestamptz) TO telemetry_views;
CREATE POLICY definer_looks ON consent.plan_class FOR SELECT TO telemetry_owner USING (true);
