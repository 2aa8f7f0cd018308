-- Checkpoints of many runs in one database, version 1. Every table is keyed by run. Times are UNIX seconds (UTC) where
-- they are the run's, and timestamps by the server's clock where they decide who owns it. Money is in USD, a tick is
-- 1e-10 USD. Text that PostgreSQL cannot hold (NUL, halves of surrogate pairs) is stored as "\x01wtf8:" and hex digits.

-- name: version
CREATE TABLE bulkgrok.version (one boolean PRIMARY KEY DEFAULT true CHECK (one), number integer NOT NULL)

-- name: run
-- Every writing transaction begins by locking its run's row here, which holds the epoch, and ends by changing it.
-- `applied` counts the transactions of the present epoch, `tally` the sums of the run.
CREATE TABLE bulkgrok.run (
    no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key bytea NOT NULL UNIQUE,
    name text NOT NULL,
    mark uuid NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch bigint NOT NULL DEFAULT 0,
    owner text,
    scope text,
    locked boolean NOT NULL DEFAULT false,
    lease_until timestamptz NOT NULL DEFAULT 'epoch',
    applied bigint NOT NULL DEFAULT 0,
    seq bigint NOT NULL DEFAULT 0,
    tally text NOT NULL
) WITH (fillfactor = 40)

-- name: tenure
-- Who owned a run, and how far it got: what tells a runner that lost its connection whether its last commit was done.
CREATE TABLE bulkgrok.tenure (
    run integer NOT NULL REFERENCES bulkgrok.run (no),
    epoch bigint NOT NULL,
    owner text NOT NULL,
    began_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    applied bigint,
    PRIMARY KEY (run, epoch)
)

-- name: item
-- Rows that were begun. What is not here is pending.
CREATE TABLE bulkgrok.item (
    run integer NOT NULL,
    row bigint NOT NULL,
    state smallint NOT NULL,
    digest bytea NOT NULL,
    line bigint,
    custom_id text NOT NULL,
    kind text NOT NULL,
    mode text NOT NULL,
    model text NOT NULL,
    posts bigint NOT NULL,
    refused bigint NOT NULL,
    attempts bigint NOT NULL,
    doubts bigint NOT NULL,
    losses bigint NOT NULL,
    held smallint NOT NULL,
    kept_bytes bigint,
    max_usd double precision NOT NULL,
    request_id text,
    submitted_at double precision,
    deadline_at double precision,
    completed_at double precision,
    status_code bigint,
    seq bigint,
    cost_usd double precision,
    spent_ticks bigint NOT NULL,
    usage bytea,
    prompt_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    reasoning_tokens bigint NOT NULL,
    cached_tokens bigint NOT NULL,
    assets text,
    error_code text,
    error_message text,
    error_status bigint,
    retryable boolean NOT NULL,
    PRIMARY KEY (run, row)
)

-- name: item_open
CREATE INDEX item_open ON bulkgrok.item (run, state, row) WHERE state <> 4

-- name: item_deadline
CREATE INDEX item_deadline ON bulkgrok.item (run, deadline_at, row) WHERE state = 2

-- name: item_receipt
-- One poller an id: a server that repeats one would have a row be given another row's answer.
CREATE UNIQUE INDEX item_receipt ON bulkgrok.item (run, request_id) WHERE deadline_at IS NOT NULL

-- name: item_seq
CREATE UNIQUE INDEX item_seq ON bulkgrok.item (run, seq) INCLUDE (row) WHERE seq IS NOT NULL

-- name: answer
-- The raw bytes of a row's last reply that was kept, in pieces of 1 MiB; item.held tells what they are to the row now.
CREATE TABLE bulkgrok.answer (
    run integer NOT NULL,
    row bigint NOT NULL,
    piece integer NOT NULL,
    raw bytea NOT NULL,
    PRIMARY KEY (run, row, piece)
)

-- name: ledger
-- What the request of an entry cost at most, and what it cost where the API told it: then item counts it as well.
CREATE TABLE bulkgrok.ledger (
    run integer NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    row bigint NOT NULL,
    custom_id text NOT NULL,
    attempt bigint NOT NULL,
    at double precision NOT NULL,
    entry text NOT NULL,
    reason text NOT NULL,
    max_usd double precision NOT NULL,
    request_id text,
    cost_usd double precision,
    PRIMARY KEY (run, id)
)

-- name: ledger_attempt
-- An attempt ends once.
CREATE UNIQUE INDEX ledger_attempt ON bulkgrok.ledger (run, row, attempt)

-- name: append_only
CREATE FUNCTION bulkgrok.append_only() RETURNS trigger LANGUAGE plpgsql AS
$$BEGIN RAISE EXCEPTION 'the ledger is append-only'; END$$

-- name: ledger_append_only
CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE ON bulkgrok.ledger
FOR EACH ROW EXECUTE FUNCTION bulkgrok.append_only()

-- name: sink
CREATE TABLE bulkgrok.sink (
    run integer NOT NULL, name text NOT NULL, seq bigint NOT NULL, state text NOT NULL, PRIMARY KEY (run, name)
)

-- name: fact
CREATE TABLE bulkgrok.fact (run integer NOT NULL, key text NOT NULL, value text NOT NULL, PRIMARY KEY (run, key))

-- name: first
INSERT INTO bulkgrok.version (number) VALUES (1)
