-- The checkpoint of one run, version 2. Times are UNIX seconds (UTC), money is in USD, a tick is 1e-10 USD.
-- Text that is no Unicode (halves of surrogate pairs) is stored as a BLOB of WTF-8.

-- name: item
-- Rows that were begun. What is not here is pending.
CREATE TABLE item (
    row INTEGER PRIMARY KEY,
    state INTEGER NOT NULL,
    digest BLOB NOT NULL,
    line INTEGER,
    custom_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    mode TEXT NOT NULL,
    model TEXT NOT NULL,
    posts INTEGER NOT NULL DEFAULT 0,
    refused INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    doubts INTEGER NOT NULL DEFAULT 0,
    losses INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0,
    max_usd REAL NOT NULL DEFAULT 0,
    request_id TEXT,
    submitted_at REAL,
    deadline_at REAL,
    completed_at REAL,
    status_code INTEGER,
    seq INTEGER,
    cost_usd REAL,
    spent_ticks INTEGER NOT NULL DEFAULT 0,
    usage BLOB,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0,
    reasoning_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    assets TEXT,
    error_code TEXT,
    error_message TEXT,
    error_status INTEGER,
    retryable INTEGER NOT NULL DEFAULT 0
)

-- name: item_open
-- Everything but successes, which are found by their seq. Small while a run goes well.
CREATE INDEX item_open ON item (state) WHERE state <> 4

-- name: item_deadline
CREATE INDEX item_deadline ON item (deadline_at) WHERE state = 2

-- name: item_receipt
-- One poller an id: a server that repeats one would have a row be given another row's answer.
CREATE UNIQUE INDEX item_receipt ON item (request_id) WHERE deadline_at IS NOT NULL

-- name: item_seq
CREATE UNIQUE INDEX item_seq ON item (seq) WHERE seq IS NOT NULL

-- name: answer
-- The raw bytes of a row's last reply that was kept; item.held tells what they are to the row now.
CREATE TABLE answer (row INTEGER PRIMARY KEY REFERENCES item (row), raw BLOB NOT NULL)

-- name: ledger
-- What the request of an entry cost at most, and what it cost where the API told it: then item counts it as well.
CREATE TABLE ledger (
    id INTEGER PRIMARY KEY,
    row INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    at REAL NOT NULL,
    entry TEXT NOT NULL,
    reason TEXT NOT NULL,
    max_usd REAL NOT NULL,
    request_id TEXT,
    cost_usd REAL
)

-- name: ledger_attempt
-- An attempt ends once.
CREATE UNIQUE INDEX ledger_attempt ON ledger (row, attempt)

-- name: ledger_no_update
CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END

-- name: ledger_no_delete
CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger
BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END

-- name: sink
CREATE TABLE sink (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, state TEXT NOT NULL) WITHOUT ROWID

-- name: fact
CREATE TABLE fact (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID

-- name: tally
-- What totals() says, kept in the transaction that changes it: counting 10 million rows takes seconds.
CREATE TABLE tally (one INTEGER PRIMARY KEY CHECK (one = 1), value TEXT NOT NULL)
