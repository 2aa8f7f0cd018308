-- Who owns a run. Times are the server's.

-- name: register
INSERT INTO bulkgrok.run (key, name, tally) VALUES ($1, $2, $3) ON CONFLICT (key) DO NOTHING

-- name: find
SELECT no, mark::text FROM bulkgrok.run WHERE key = $1

-- name: try_lock
SELECT pg_try_advisory_lock($1, $2)

-- name: look
SELECT
    epoch, owner, locked, lease_until > clock_timestamp(),
    extract(epoch FROM lease_until - clock_timestamp())::double precision, applied, scope
FROM bulkgrok.run WHERE no = $1 FOR UPDATE

-- name: end_tenure
UPDATE bulkgrok.tenure SET ended_at = clock_timestamp(), applied = $3 WHERE run = $1 AND epoch = $2 AND ended_at IS NULL

-- name: begin_tenure
INSERT INTO bulkgrok.tenure (run, epoch, owner) VALUES ($1, $2, $3)

-- name: take
UPDATE bulkgrok.run
SET epoch = $2, owner = $3, locked = $4, applied = 0, lease_until = clock_timestamp() + $5, scope = $6 WHERE no = $1

-- name: renew
UPDATE bulkgrok.run SET lease_until = clock_timestamp() + $3 WHERE no = $1 AND epoch = $2

-- name: locked
UPDATE bulkgrok.run SET locked = $3, lease_until = clock_timestamp() + $4 WHERE no = $1 AND epoch = $2

-- name: release
UPDATE bulkgrok.run SET owner = NULL, locked = false, lease_until = 'epoch' WHERE no = $1 AND epoch = $2

-- name: applied_then
SELECT applied FROM bulkgrok.tenure WHERE run = $1 AND epoch = $2

-- name: holder_of_lock
SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = $2 AND objsubid = 2 AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())

-- name: terminate
SELECT pg_terminate_backend($1)

-- name: runs
-- A runner whose session held the lock is gone when nobody holds it.
SELECT name, owner, lease_until > clock_timestamp() AND (NOT locked OR EXISTS (
    SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $1 AND objid = no AND objsubid = 2
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
))
FROM bulkgrok.run ORDER BY no DESC
