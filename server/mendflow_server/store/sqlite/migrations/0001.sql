-- The first schema.
--
-- States are the numbers of mendflow.v1.WorkflowState. PENDING (1), RUNNING (2) and CANCELLING (6) need a driver, 3 to 5
-- wait, 7 to 10 are final. Times are microseconds since the epoch.

-- One row per workflow. The other tables refer to the integer key: with a text id as their key, new events would be
-- spread over the whole file.
CREATE TABLE workflows (
    key INTEGER PRIMARY KEY,
    workflow_id TEXT NOT NULL UNIQUE,
    uid TEXT NOT NULL,
    workflow_type TEXT NOT NULL,
    state INTEGER NOT NULL CHECK (state BETWEEN 1 AND 10),
    reason INTEGER NOT NULL CHECK (reason >= 0),
    explanation TEXT NOT NULL,
    generation INTEGER NOT NULL CHECK (generation >= 0),
    replica_id TEXT NOT NULL,
    last_sequence INTEGER NOT NULL CHECK (last_sequence >= 0),
    wake_time INTEGER,
    create_time INTEGER NOT NULL,
    end_time INTEGER,
    untaken_signals INTEGER NOT NULL CHECK (untaken_signals >= 0),
    trace_id TEXT NOT NULL,
    labels TEXT NOT NULL,
    -- A workflow has an end time if and only if it has ended, and then it has no wake time.
    CHECK ((end_time IS NOT NULL) = (state >= 7)),
    CHECK (state < 7 OR wake_time IS NULL)
) STRICT;

-- Partial indexes have only open workflows, so that their size does not grow with the finished ones.
CREATE INDEX workflows_under_way ON workflows (key) WHERE state IN (1, 2, 6);
CREATE INDEX workflows_due ON workflows (wake_time) WHERE wake_time IS NOT NULL;
CREATE INDEX workflows_stopped ON workflows (reason, key) WHERE reason <> 0 AND state < 7;

-- For lists, newest first.
CREATE INDEX workflows_by_time ON workflows (create_time);
CREATE INDEX workflows_by_type ON workflows (workflow_type, create_time);
CREATE INDEX workflows_by_state ON workflows (state, create_time);

CREATE TABLE labels (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    key INTEGER NOT NULL,
    PRIMARY KEY (name, value, create_time, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    key INTEGER NOT NULL,
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    bytes BLOB NOT NULL,
    PRIMARY KEY (key, sequence)
) STRICT, WITHOUT ROWID;

-- Messages for drivers. Ids are never reused.
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key INTEGER NOT NULL,
    kind INTEGER NOT NULL CHECK (kind BETWEEN 1 AND 4),
    request_id TEXT NOT NULL,
    time INTEGER NOT NULL,
    content BLOB NOT NULL
) STRICT;
CREATE INDEX inbox_by_workflow ON inbox (key, kind);

-- The request ids of all signals and commands that a workflow received.
CREATE TABLE signal_requests (
    key INTEGER NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (key, request_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE heartbeats (
    key INTEGER NOT NULL,
    step_key TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    details BLOB NOT NULL,
    PRIMARY KEY (key, step_key)
) STRICT, WITHOUT ROWID;

CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    key INTEGER NOT NULL,
    name TEXT NOT NULL,
    severity INTEGER NOT NULL,
    message TEXT NOT NULL
) STRICT;

-- Server processes, in the order of id. beats makes each update a change, even if the clock does not advance.
CREATE TABLE replicas (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    replica_id TEXT NOT NULL UNIQUE,
    start_time INTEGER NOT NULL,
    beat_time INTEGER NOT NULL,
    drained INTEGER NOT NULL CHECK (drained IN (0, 1)),
    beats INTEGER NOT NULL DEFAULT 0
) STRICT;

-- The crash budget's ledger.
CREATE TABLE suspects (
    key INTEGER NOT NULL,
    step_key TEXT NOT NULL,
    deaths INTEGER NOT NULL CHECK (deaths >= 0),
    alone INTEGER NOT NULL CHECK (alone >= 0),
    held INTEGER NOT NULL CHECK (held IN (0, 1)),
    PRIMARY KEY (key, step_key)
) STRICT, WITHOUT ROWID;
