-- The statements of reads.sql for PostgreSQL: the same names and columns; $1 is the run, the rest are the parameters.
-- Where an answer is among the columns, its size comes last of all: of one larger than 1 MiB the size takes its place.

-- name: succeeded_rows
SELECT coalesce(json_agg(row)::text, '[]') FROM bulkgrok.item WHERE run = $1 AND seq BETWEEN $2 AND $3

-- name: open_rows
SELECT row FROM bulkgrok.item WHERE run = $1 AND state = $2 AND state <> 4 AND row > $3 ORDER BY row LIMIT $4

-- name: waiting
SELECT row, posts, attempts, doubts, losses, digest FROM bulkgrok.item
WHERE run = $1 AND state = 0 AND state <> 4 AND row > $2 ORDER BY row LIMIT $3

-- name: counts
SELECT posts, attempts, doubts, losses, digest FROM bulkgrok.item WHERE run = $1 AND row = $2

-- name: jobs
SELECT row, kind, request_id, submitted_at, deadline_at, model FROM bulkgrok.item
WHERE run = $1 AND state = 2 AND (deadline_at, row) > ($2, $3) ORDER BY deadline_at, row LIMIT $4

-- name: next_deadline
SELECT min(deadline_at) FROM bulkgrok.item WHERE run = $1 AND state = 2

-- name: record
SELECT
    row, line, custom_id, kind, mode, model, posts, attempts, submitted_at, completed_at, request_id, status_code,
    (SELECT raw FROM bulkgrok.answer WHERE answer.run = item.run AND answer.row = item.row AND piece = 0
        AND kept_bytes <= 1048576),
    max_usd, kept_bytes
FROM bulkgrok.item WHERE run = $1 AND row = $2 AND held = 1 AND state >= 3

-- name: outbox
-- No more than about 8 MiB of answers are read at once, however many rows are asked for.
WITH page AS (
    SELECT run, row, sum(kept_bytes) OVER (ORDER BY seq) - kept_bytes AS before
    FROM bulkgrok.item WHERE run = $1 AND seq > $2 ORDER BY seq LIMIT $3
)
SELECT
    seq, row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id, status_code,
    (SELECT raw FROM bulkgrok.answer WHERE answer.run = page.run AND answer.row = page.row AND piece = 0
        AND kept_bytes <= 1048576),
    cost_usd, usage, assets, NULL, NULL, NULL, false, kept_bytes
FROM page JOIN bulkgrok.item USING (run, row) WHERE before <= 8388608 ORDER BY seq

-- name: failures
SELECT
    0, row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id, status_code,
    (SELECT raw FROM bulkgrok.answer WHERE answer.run = item.run AND answer.row = item.row AND piece = 0
        AND held <> 0 AND kept_bytes <= 1048576),
    coalesce(cost_usd, (
        SELECT cost_usd FROM bulkgrok.ledger WHERE ledger.run = item.run AND ledger.row = item.row AND attempt = posts
    )),
    usage, assets, error_code, error_message, error_status, retryable, CASE WHEN held <> 0 THEN kept_bytes END
FROM bulkgrok.item WHERE run = $1 AND state = 5 AND state <> 4 AND row > $2 ORDER BY row LIMIT $3

-- name: outcome
SELECT
    coalesce(seq, 0), row, line, custom_id, kind, mode, model, posts, submitted_at, completed_at, request_id,
    status_code,
    (SELECT raw FROM bulkgrok.answer WHERE answer.run = item.run AND answer.row = item.row AND piece = 0
        AND held <> 0 AND kept_bytes <= 1048576),
    coalesce(cost_usd, (
        SELECT cost_usd FROM bulkgrok.ledger WHERE ledger.run = item.run AND ledger.row = item.row AND attempt = posts
    )),
    usage, assets, error_code, error_message, error_status, retryable, CASE WHEN held <> 0 THEN kept_bytes END
FROM bulkgrok.item WHERE run = $1 AND row = $2 AND state >= 4

-- name: large
SELECT raw FROM bulkgrok.answer WHERE run = $1 AND row = $2 ORDER BY piece

-- name: position
SELECT seq, state FROM bulkgrok.sink WHERE run = $1 AND name = $2

-- name: fact
SELECT value FROM bulkgrok.fact WHERE run = $1 AND key = $2

-- name: last_seq
SELECT seq FROM bulkgrok.run WHERE no = $1

-- name: tally
SELECT tally FROM bulkgrok.run WHERE no = $1

-- name: ledger
SELECT id, row, custom_id, attempt, at, entry, reason, max_usd, request_id, cost_usd FROM bulkgrok.ledger
WHERE run = $1 AND id > $2 ORDER BY id LIMIT $3

-- name: submitting
SELECT row, custom_id, posts, submitted_at, max_usd, request_id FROM bulkgrok.item
WHERE run = $1 AND state = 1 AND state <> 4 ORDER BY row

-- name: unexplained
-- Every POST ended in a refusal, in the ledger, or is what the row's present state stands on.
WITH entered AS (
    SELECT row, count(*) AS entries FROM bulkgrok.ledger WHERE run = $1 GROUP BY row
), found AS (
    SELECT item.row, custom_id, posts, submitted_at, max_usd, request_id, refused, coalesce(entries, 0) AS entries,
        (state IN (1, 2, 3, 4) OR (state = 5 AND held = 1))::int AS stands
    FROM bulkgrok.item LEFT JOIN entered USING (row) WHERE run = $1
)
SELECT row, custom_id, posts, submitted_at, max_usd, request_id, refused, entries, stands FROM found
WHERE posts <> refused + entries + stands
UNION ALL
SELECT row, custom_id, attempt, at, max_usd, request_id, 0, 1, 0 FROM bulkgrok.ledger
WHERE run = $1 AND row NOT IN (SELECT row FROM found)
ORDER BY 1

-- name: count_states
SELECT state, count(*) FROM bulkgrok.item WHERE run = $1 GROUP BY state

-- name: count_codes
SELECT error_code, count(*), count(*) FILTER (WHERE held = 1) FROM bulkgrok.item
WHERE run = $1 AND state = 5 GROUP BY error_code

-- name: count_entries
SELECT entry, count(*) FROM bulkgrok.ledger WHERE run = $1 GROUP BY entry

-- name: count_costs
SELECT cost_usd, spent_ticks FROM bulkgrok.item WHERE run = $1 AND (cost_usd IS NOT NULL OR spent_ticks <> 0)

-- name: count_untold
SELECT max_usd FROM bulkgrok.item
WHERE run = $1 AND cost_usd IS NULL AND max_usd <> 0 AND (state = 4 OR (state = 5 AND held = 1))

-- name: count_on_its_way
SELECT max_usd FROM bulkgrok.item WHERE run = $1 AND state IN (1, 2, 3)

-- name: count_written_off
SELECT entry, max_usd FROM bulkgrok.ledger WHERE run = $1 AND cost_usd IS NULL

-- name: count_tokens
SELECT prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens FROM bulkgrok.item WHERE run = $1 AND state = 4
