-- One statement a change, each guarded by the state it starts from: a change that finds another state changes nothing.

-- name: submit_new
INSERT INTO item (row, state, digest, line, custom_id, kind, mode, model, posts, max_usd, submitted_at)
VALUES (?, 1, ?, ?, ?, ?, ?, ?, 1, ?, ?)
ON CONFLICT DO NOTHING

-- name: submit_again
UPDATE item SET
    state = 1, digest = ?, line = ?, custom_id = ?, kind = ?, mode = ?, model = ?, max_usd = ?, submitted_at = ?,
    posts = posts + 1, held = 0, request_id = NULL, deadline_at = NULL, completed_at = NULL, status_code = NULL,
    usage = NULL, assets = NULL, error_code = NULL, error_message = NULL, error_status = NULL, retryable = 0
WHERE row = ? AND state = 0 AND posts = ?

-- name: most
-- What a row's request costs at most, for the sums.
SELECT max_usd FROM item WHERE row = ?

-- name: unsent
UPDATE item SET state = 0, refused = refused + 1 WHERE row = ? AND state = ?

-- name: refuse
UPDATE item SET state = 0, refused = refused + ?, attempts = attempts + ? WHERE row = ? AND state = ?

-- name: doubt
UPDATE item SET state = 0, doubts = doubts + 1, attempts = attempts + 1 WHERE row = ? AND state = ?

-- name: holder
SELECT row FROM item WHERE request_id = ? AND deadline_at IS NOT NULL AND row <> ?

-- name: accept
UPDATE item SET state = 2, request_id = ?, deadline_at = ? WHERE row = ? AND state = ?

-- name: redeem
UPDATE item SET state = 3, held = 1, completed_at = ?, status_code = ?, request_id = coalesce(?, request_id)
WHERE row = ? AND state = ?

-- name: keep
-- The last reply of a row takes the place of an older one.
INSERT INTO answer (row, raw) VALUES (?, ?)
ON CONFLICT DO UPDATE SET raw = excluded.raw

-- name: close_job
-- Lost, expired or failed: what was redeemed is no answer, and what it cost stays in the sum.
UPDATE item SET
    state = 0, losses = losses + ?, attempts = attempts + ?, held = 0, spent_ticks = spent_ticks + ?, cost_usd = NULL,
    usage = NULL, assets = NULL
WHERE row = ? AND state = ?

-- name: enter
-- The ledger names the row's present attempt.
INSERT INTO ledger (row, custom_id, attempt, at, entry, reason, max_usd, request_id, cost_usd)
SELECT row, custom_id, posts, ?, ?, ?, coalesce(?, max_usd), request_id, ? FROM item WHERE row = ?

-- name: answer
-- Redeemed and settled at once.
UPDATE item SET
    state = 4, held = 1, completed_at = ?, status_code = ?, request_id = coalesce(?, request_id), model = ?,
    cost_usd = ?, usage = ?, prompt_tokens = ?, completion_tokens = ?, reasoning_tokens = ?, cached_tokens = ?,
    assets = ?, seq = ?
WHERE row = ? AND state = ?

-- name: succeed
UPDATE item SET
    state = 4, model = ?, cost_usd = ?, usage = ?, prompt_tokens = ?, completion_tokens = ?, reasoning_tokens = ?,
    cached_tokens = ?, assets = ?, seq = ?
WHERE row = ? AND state = ?

-- name: fail_new
INSERT INTO item (
    row, state, digest, line, custom_id, kind, mode, model, held, request_id, completed_at, status_code, cost_usd,
    usage, assets, error_code, error_message, error_status, retryable
)
VALUES (?, 5, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING

-- name: fail
UPDATE item SET
    state = 5, line = coalesce(?, line), held = ?, request_id = coalesce(?, request_id), completed_at = ?,
    status_code = ?, cost_usd = ?, usage = ?, assets = ?, error_code = ?, error_message = ?, error_status = ?,
    retryable = ?
WHERE row = ? AND state = ?

-- name: rename
UPDATE item SET digest = ?, custom_id = ?, kind = ?, mode = ?, model = ? WHERE row = ?

-- name: retry
UPDATE item SET
    state = 0, attempts = 0, doubts = 0, losses = 0, held = 0, spent_ticks = spent_ticks + ?, cost_usd = NULL,
    usage = NULL, assets = NULL, request_id = NULL, deadline_at = NULL, completed_at = NULL, status_code = NULL,
    error_code = NULL, error_message = NULL, error_status = NULL, retryable = 0
WHERE row = ? AND state = ?

-- name: redownload
UPDATE item SET
    state = 3, cost_usd = NULL, usage = NULL, assets = NULL,
    error_code = NULL, error_message = NULL, error_status = NULL, retryable = 0
WHERE row = ? AND state = ?

-- name: facts_of_row
SELECT state, posts, held, cost_usd, max_usd, error_code, completed_at, status_code FROM item WHERE row = ?

-- name: tally
UPDATE tally SET value = ? WHERE one = 1

-- name: advance
INSERT INTO sink (name, seq, state) VALUES (?, ?, ?)
ON CONFLICT DO UPDATE SET seq = excluded.seq, state = excluded.state

-- name: note
INSERT INTO fact (key, value) VALUES (?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value

-- name: move_deadlines
UPDATE item SET deadline_at = deadline_at + ? WHERE state = 2
