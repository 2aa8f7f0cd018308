-- From version 1 to 2. Never changes: what it makes of a checkpoint of version 1 is tested with one that was kept.

-- name: states
SELECT state, count(*) FROM item GROUP BY state

-- name: codes
SELECT error_code, count(*), sum(held = 1) FROM item WHERE state = 5 GROUP BY error_code

-- name: entries
SELECT entry, count(*) FROM ledger GROUP BY entry

-- name: costs
SELECT cost_usd, spent_ticks FROM item WHERE cost_usd IS NOT NULL OR spent_ticks <> 0

-- name: tokens
SELECT prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens FROM item WHERE state = 4

-- name: rows
SELECT
    (SELECT count(*) FROM item), (SELECT count(*) FROM answer), (SELECT count(*) FROM ledger),
    (SELECT total(max_usd) FROM ledger), (SELECT count(*) FROM sink), (SELECT count(*) FROM fact),
    (SELECT coalesce(max(seq), 0) FROM item)

-- name: tally
SELECT value FROM tally

-- name: shown_ledger
-- What the request of an entry cost, where it is certain that the sum of all costs holds it. An answer that was replaced
-- was entered with what it cost, or with what it cost at most if that was not known; the row's sum tells which.
CREATE TEMP VIEW ledger AS SELECT
    id, row, custom_id, attempt, at, entry, reason, max_usd, request_id,
    CASE
        WHEN entry = 'replaced' THEN CASE WHEN (
            SELECT sum(CAST(round(other.max_usd * 10000000000) AS INTEGER)) FROM main.ledger AS other
            WHERE other.row = found.row AND other.entry = 'replaced'
        ) = (SELECT spent_ticks FROM item WHERE item.row = found.row) THEN max_usd END
        WHEN entry IN ('job_failed', 'expired') THEN (
            SELECT item.cost_usd FROM item
            WHERE item.row = found.row AND item.posts = found.attempt AND item.state = 5 AND item.held <> 1
        )
    END AS cost_usd
FROM main.ledger AS found

-- name: shown_tally
CREATE TEMP TABLE tally (one INTEGER PRIMARY KEY, value TEXT NOT NULL)

-- name: untold
SELECT max_usd FROM item WHERE cost_usd IS NULL AND max_usd <> 0 AND (state = 4 OR (state = 5 AND held = 1))

-- name: on_its_way
SELECT max_usd FROM item WHERE state IN (1, 2, 3)

-- name: written_off
SELECT entry, max_usd FROM ledger WHERE cost_usd IS NULL

-- name: known
SELECT id, cost_usd FROM ledger WHERE cost_usd IS NOT NULL

-- name: hide
DROP VIEW temp.ledger

-- name: cost_column
ALTER TABLE main.ledger ADD COLUMN cost_usd REAL

-- name: unlock
DROP TRIGGER ledger_no_update

-- name: cost
UPDATE main.ledger SET cost_usd = ? WHERE id = ?

-- name: lock
CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END

-- name: sums
UPDATE tally SET value = ?
