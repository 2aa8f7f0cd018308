-- `state <> 4` beside another condition on the state is what lets SQLite use the partial index item_open.

-- Of an answer larger than 1 MiB the size is returned in its place: see blobs.py.

-- name: succeeded_rows
-- From the index of seq alone: a million rows are some megabytes.
SELECT json_group_array(row) FROM item INDEXED BY item_seq WHERE seq BETWEEN ? AND ? AND seq IS NOT NULL

-- name: open_rows
SELECT row FROM item INDEXED BY item_open WHERE state = ? AND state <> 4 AND row > ? ORDER BY row LIMIT ?

-- name: waiting
SELECT row, posts, attempts, doubts, losses, digest FROM item INDEXED BY item_open
WHERE state = 0 AND state <> 4 AND row > ? ORDER BY row LIMIT ?

-- name: counts
SELECT posts, attempts, doubts, losses, digest FROM item WHERE row = ?

-- name: jobs
SELECT row, kind, request_id, submitted_at, deadline_at, model FROM item INDEXED BY item_deadline
WHERE state = 2 AND (deadline_at, row) > (?, ?) ORDER BY deadline_at, row LIMIT ?

-- name: next_deadline
SELECT min(deadline_at) FROM item INDEXED BY item_deadline WHERE state = 2

-- name: record
SELECT
    row, line, custom_id, kind, mode, model, posts, attempts, submitted_at, completed_at, request_id, status_code,
    CASE WHEN length(answer.raw) <= 1048576 THEN answer.raw ELSE length(answer.raw) END, max_usd
FROM item JOIN answer USING (row) WHERE row = ? AND held = 1 AND state >= 3

-- name: outbox
SELECT
    seq, row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id, status_code,
    CASE WHEN length(answer.raw) <= 1048576 THEN answer.raw ELSE length(answer.raw) END, cost_usd, usage, assets,
    NULL, NULL, NULL, 0
FROM item INDEXED BY item_seq LEFT JOIN answer USING (row)
WHERE seq > ? AND seq IS NOT NULL ORDER BY seq LIMIT ?

-- name: failures
SELECT
    0, row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id, status_code,
    CASE WHEN held = 0 THEN NULL WHEN length(answer.raw) <= 1048576 THEN answer.raw ELSE length(answer.raw) END,
    coalesce(cost_usd, (SELECT cost_usd FROM ledger WHERE ledger.row = item.row AND attempt = posts)),
    usage, assets, error_code, error_message, error_status, retryable
FROM item INDEXED BY item_open LEFT JOIN answer USING (row)
WHERE state = 5 AND state <> 4 AND row > ? ORDER BY row LIMIT ?

-- name: outcome
SELECT
    coalesce(seq, 0), row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id,
    status_code,
    CASE WHEN held = 0 THEN NULL WHEN length(answer.raw) <= 1048576 THEN answer.raw ELSE length(answer.raw) END,
    coalesce(cost_usd, (SELECT cost_usd FROM ledger WHERE ledger.row = item.row AND attempt = posts)),
    usage, assets, error_code, error_message, error_status, retryable
FROM item LEFT JOIN answer USING (row) WHERE row = ? AND state >= 4

-- name: position
SELECT seq, state FROM sink WHERE name = ?

-- name: fact
SELECT value FROM fact WHERE key = ?

-- name: last_seq
SELECT coalesce(max(seq), 0) FROM item INDEXED BY item_seq WHERE seq IS NOT NULL

-- name: tally
SELECT value FROM tally WHERE one = 1

-- name: ledger
SELECT id, row, custom_id, attempt, at, entry, reason, max_usd, request_id, cost_usd FROM ledger
WHERE id > ? ORDER BY id LIMIT ?

-- name: submitting
SELECT row, custom_id, posts, submitted_at, max_usd, request_id FROM item INDEXED BY item_open
WHERE state = 1 AND state <> 4 ORDER BY row

-- name: unexplained
-- Every POST ended in a refusal, in the ledger, or is what the row's present state stands on.
SELECT item.row, custom_id, posts, submitted_at, max_usd, request_id, refused, coalesce(entries, 0),
    state IN (1, 2, 3, 4) OR (state = 5 AND held = 1)
FROM item LEFT JOIN (SELECT row AS entered, count(*) AS entries FROM ledger GROUP BY row) ON entered = item.row
WHERE posts <> refused + coalesce(entries, 0) + (state IN (1, 2, 3, 4) OR (state = 5 AND held = 1))
UNION ALL
SELECT row, custom_id, attempt, at, max_usd, request_id, 0, 1, 0 FROM ledger WHERE row NOT IN (SELECT row FROM item)
ORDER BY 1

-- name: count_states
SELECT state, count(*) FROM item GROUP BY state

-- name: count_codes
SELECT error_code, count(*), sum(held = 1) FROM item WHERE state = 5 GROUP BY error_code

-- name: count_entries
SELECT entry, count(*) FROM ledger GROUP BY entry

-- name: count_costs
SELECT cost_usd, spent_ticks FROM item WHERE cost_usd IS NOT NULL OR spent_ticks <> 0

-- name: count_untold
SELECT max_usd FROM item WHERE cost_usd IS NULL AND max_usd <> 0 AND (state = 4 OR (state = 5 AND held = 1))

-- name: count_on_its_way
SELECT max_usd FROM item WHERE state IN (1, 2, 3)

-- name: count_written_off
SELECT entry, max_usd FROM ledger WHERE cost_usd IS NULL

-- name: count_tokens
SELECT prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens FROM item WHERE state = 4
