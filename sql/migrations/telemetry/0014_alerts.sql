-- Alerts, and where they are delivered to.
SELECT 1; -- filled in soon
