-- name: version
SELECT version FROM consent.state;

-- name: bump_version
SELECT consent.bump_version();
