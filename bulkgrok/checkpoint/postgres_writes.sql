-- What a group of changes needs to know and writes; $1 is the run.

-- name: own
-- The first statement of every writing transaction: who comes later waits, and a runner that is none any more sees it.
SELECT epoch, applied, seq, tally FROM bulkgrok.run WHERE no = $1 FOR UPDATE

-- name: rows
SELECT
    row, state, digest, line, custom_id, kind, mode, model, posts, refused, attempts, doubts, losses, held, kept_bytes,
    max_usd, request_id, submitted_at, deadline_at, completed_at, status_code, seq, cost_usd, spent_ticks, usage,
    prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, assets, error_code, error_message, error_status,
    retryable
FROM bulkgrok.item WHERE run = $1 AND row = ANY($2)

-- name: holders
SELECT request_id, row FROM bulkgrok.item WHERE run = $1 AND request_id = ANY($2) AND deadline_at IS NOT NULL

-- name: store
-- The order of the columns is that of `rows`.
INSERT INTO bulkgrok.item (
    run, row, state, digest, line, custom_id, kind, mode, model, posts, refused, attempts, doubts, losses, held,
    kept_bytes, max_usd, request_id, submitted_at, deadline_at, completed_at, status_code, seq, cost_usd, spent_ticks,
    usage, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, assets, error_code, error_message,
    error_status, retryable
)
SELECT $1, * FROM unnest(
    $2::bigint[], $3::smallint[], $4::bytea[], $5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[],
    $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::smallint[], $16::bigint[],
    $17::double precision[], $18::text[], $19::double precision[], $20::double precision[], $21::double precision[],
    $22::bigint[], $23::bigint[], $24::double precision[], $25::bigint[], $26::bytea[], $27::bigint[], $28::bigint[],
    $29::bigint[], $30::bigint[], $31::text[], $32::text[], $33::text[], $34::bigint[], $35::boolean[]
)
ON CONFLICT (run, row) DO UPDATE SET
    state = excluded.state, digest = excluded.digest, line = excluded.line, custom_id = excluded.custom_id,
    kind = excluded.kind, mode = excluded.mode, model = excluded.model, posts = excluded.posts,
    refused = excluded.refused, attempts = excluded.attempts, doubts = excluded.doubts, losses = excluded.losses,
    held = excluded.held, kept_bytes = excluded.kept_bytes, max_usd = excluded.max_usd,
    request_id = excluded.request_id, submitted_at = excluded.submitted_at, deadline_at = excluded.deadline_at,
    completed_at = excluded.completed_at, status_code = excluded.status_code, seq = excluded.seq,
    cost_usd = excluded.cost_usd, spent_ticks = excluded.spent_ticks, usage = excluded.usage,
    prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens,
    reasoning_tokens = excluded.reasoning_tokens, cached_tokens = excluded.cached_tokens, assets = excluded.assets,
    error_code = excluded.error_code, error_message = excluded.error_message, error_status = excluded.error_status,
    retryable = excluded.retryable

-- name: forget
DELETE FROM bulkgrok.answer WHERE run = $1 AND row = ANY($2)

-- name: keep
INSERT INTO bulkgrok.answer (run, row, piece, raw) SELECT $1, * FROM unnest($2::bigint[], $3::integer[], $4::bytea[])

-- name: enter
INSERT INTO bulkgrok.ledger (run, row, custom_id, attempt, at, entry, reason, max_usd, request_id, cost_usd)
SELECT $1, * FROM unnest(
    $2::bigint[], $3::text[], $4::bigint[], $5::double precision[], $6::text[], $7::text[], $8::double precision[],
    $9::text[], $10::double precision[]
)

-- name: done
-- The last statement of every writing transaction; it renews the lease as well.
UPDATE bulkgrok.run SET applied = $2, seq = $3, tally = $4, lease_until = clock_timestamp() + $5 WHERE no = $1

-- name: salvaged
-- By a runner that owns the run no more: only the sums follow.
UPDATE bulkgrok.run SET tally = $2 WHERE no = $1

-- name: advance
INSERT INTO bulkgrok.sink (run, name, seq, state) VALUES ($1, $2, $3, $4)
ON CONFLICT (run, name) DO UPDATE SET seq = excluded.seq, state = excluded.state

-- name: note
INSERT INTO bulkgrok.fact (run, key, value) VALUES ($1, $2, $3)
ON CONFLICT (run, key) DO UPDATE SET value = excluded.value

-- name: rename
UPDATE bulkgrok.run SET key = $2, name = $3 WHERE no = $1

-- name: move_deadlines
UPDATE bulkgrok.item SET deadline_at = deadline_at + $2 WHERE run = $1 AND state = 2
