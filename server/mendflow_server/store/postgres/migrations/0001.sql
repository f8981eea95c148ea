-- The first schema. oldest: 1
--
-- "oldest" is the number of the newest migration that a server must know to run on this schema. It rises only when a
-- migration takes away what the servers before it need, which is one release after they stopped using it.
--
-- States are the numbers of mendflow.v1.WorkflowState. PENDING (1), RUNNING (2) and CANCELLING (6) need a driver, 3 to 5
-- wait, 7 to 10 are final. Times are microseconds since the epoch. Text is compared by its bytes, as in every store.

-- Keys of workflows are given out in blocks, so that a commit needs no round trip for them. No key is used twice.
CREATE SEQUENCE workflow_keys START 1 INCREMENT 1000;

-- One row per workflow. The other tables refer to the integer key, which rises with time: with a text id as their key,
-- new rows would be spread over all pages, and the write-ahead log would more than double.
CREATE TABLE workflows (
    key bigint PRIMARY KEY,
    workflow_id text COLLATE "C" NOT NULL UNIQUE,
    uid text COLLATE "C" NOT NULL,
    workflow_type text COLLATE "C" NOT NULL,
    state integer NOT NULL CHECK (state BETWEEN 1 AND 10),
    reason integer NOT NULL CHECK (reason >= 0),
    explanation text NOT NULL,
    generation bigint NOT NULL CHECK (generation >= 0),
    replica_id text COLLATE "C" NOT NULL,
    last_sequence bigint NOT NULL CHECK (last_sequence >= 0),
    wake_time bigint,
    create_time bigint NOT NULL,
    end_time bigint,
    untaken_signals integer NOT NULL CHECK (untaken_signals >= 0),
    trace_id text COLLATE "C" NOT NULL,
    labels text NOT NULL,
    -- An operator keeps the workflow from being purged.
    held boolean NOT NULL DEFAULT false,
    -- The number of messages in the inbox. A message raises it, so a message and the end of its workflow lock one row,
    -- and a final change is checked against the newest number whichever of them comes first.
    inbox_size integer NOT NULL DEFAULT 0 CHECK (inbox_size >= 0),
    -- A workflow has an end time if and only if it has ended, and then it has no wake time.
    CHECK ((end_time IS NOT NULL) = (state >= 7)),
    CHECK (state < 7 OR wake_time IS NULL)
)
-- Each row is updated a few times soon after its insert. With room in its page no index is touched, and a workflow of
-- four commits writes a fifth less to the write-ahead log.
WITH (fillfactor = 50);

-- Partial indexes have only open workflows, so that their size does not grow with the finished ones.
CREATE INDEX workflows_in_progress ON workflows (key) WHERE state IN (1, 2, 6);
CREATE INDEX workflows_due ON workflows (wake_time, key) WHERE wake_time IS NOT NULL;
CREATE INDEX workflows_stopped ON workflows (reason, key) WHERE reason <> 0 AND state < 7;

-- For lists, newest first.
CREATE INDEX workflows_by_time ON workflows (create_time, key);
CREATE INDEX workflows_by_type ON workflows (workflow_type, create_time, key);
CREATE INDEX workflows_by_state ON workflows (state, create_time, key);

-- What a purge looks at: the finished workflows of a type, the one that ended first coming first.
CREATE INDEX workflows_ended ON workflows (workflow_type, end_time) WHERE end_time IS NOT NULL AND NOT held;

CREATE TABLE labels (
    name text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    create_time bigint NOT NULL,
    key bigint NOT NULL,
    PRIMARY KEY (name, value, create_time, key)
);

CREATE TABLE events (
    key bigint NOT NULL,
    sequence bigint NOT NULL CHECK (sequence >= 1),
    bytes bytea NOT NULL,
    PRIMARY KEY (key, sequence)
);

-- Messages for drivers. Ids are never reused.
CREATE TABLE inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key bigint NOT NULL,
    kind integer NOT NULL CHECK (kind BETWEEN 1 AND 4),
    request_id text COLLATE "C" NOT NULL,
    time bigint NOT NULL,
    content bytea NOT NULL
);
CREATE INDEX inbox_by_workflow ON inbox (key, kind);

-- The request ids of all signals and commands that a workflow received.
CREATE TABLE signal_requests (
    key bigint NOT NULL,
    request_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, request_id)
);

CREATE TABLE heartbeats (
    key bigint NOT NULL,
    step_key text COLLATE "C" NOT NULL,
    attempt integer NOT NULL,
    details bytea NOT NULL,
    PRIMARY KEY (key, step_key)
);

CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time bigint NOT NULL,
    key bigint NOT NULL,
    name text COLLATE "C" NOT NULL,
    severity integer NOT NULL,
    message text NOT NULL
);
CREATE INDEX alerts_by_workflow ON alerts (key);

-- Server processes, in the order of id.
CREATE TABLE replicas (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    replica_id text COLLATE "C" NOT NULL UNIQUE,
    start_time bigint NOT NULL,
    beat_time bigint NOT NULL,
    drained boolean NOT NULL
);

-- The crash budget's ledger. crashes holds the evidence of crashes.
CREATE TABLE suspects (
    key bigint NOT NULL,
    step_key text COLLATE "C" NOT NULL,
    crashes integer NOT NULL CHECK (crashes >= 0),
    alone integer NOT NULL CHECK (alone >= 0),
    held boolean NOT NULL,
    PRIMARY KEY (key, step_key)
);

-- Retention. A purge first moves the keys of workflows from workflows to purged, so that no reader sees a history with a
-- hole. Then it deletes what they left in the other tables, a portion at a time.
CREATE TABLE purged (key bigint PRIMARY KEY);
