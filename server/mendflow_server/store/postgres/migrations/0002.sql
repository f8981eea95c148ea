-- Many replicas. oldest: 2
--
-- A server of the first schema takes every workflow for its own, so it must not run on this one.

-- Until when the replica has its lease, by the clock of the database; who judges its end; how many workflows it has in
-- memory; the name of its code. A row is open until the replica has handed over its work, or its end is judged.
ALTER TABLE replicas
    ADD COLUMN lease_end bigint NOT NULL DEFAULT 0,
    ADD COLUMN judge text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN ended boolean NOT NULL DEFAULT false,
    ADD COLUMN load integer NOT NULL DEFAULT 0,
    ADD COLUMN build text COLLATE "C" NOT NULL DEFAULT '';
UPDATE replicas SET ended = true WHERE drained;
CREATE INDEX replicas_open ON replicas (id) WHERE NOT ended;

-- The replica that watches the unit, which is the judge of its last crash.
ALTER TABLE suspects ADD COLUMN replica_id text COLLATE "C" NOT NULL DEFAULT '';
UPDATE suspects SET replica_id = coalesce((SELECT replica_id FROM replicas ORDER BY id DESC LIMIT 1), '');

-- Each replica looks for its own workflows, and for those of replicas that are gone.
CREATE INDEX workflows_moving_of ON workflows (replica_id, key) WHERE state IN (1, 2, 6);
CREATE INDEX workflows_due_of ON workflows (replica_id, wake_time, key) WHERE wake_time IS NOT NULL;
CREATE INDEX workflows_stopped_of ON workflows (replica_id, reason, key) WHERE reason <> 0 AND state < 7;
DROP INDEX workflows_in_progress, workflows_due, workflows_stopped;

-- The builds whose code cannot continue a workflow. A replica of such a build does not claim it.
CREATE TABLE unfit (
    key bigint NOT NULL,
    build text COLLATE "C" NOT NULL,
    PRIMARY KEY (key, build)
);
