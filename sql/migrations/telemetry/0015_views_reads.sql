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
