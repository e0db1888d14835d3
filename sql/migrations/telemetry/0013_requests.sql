-- Requests for access and invitations.
SELECT 1; -- filled in soon
