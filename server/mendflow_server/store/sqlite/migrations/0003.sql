-- Retention. A purge first moves the keys of workflows from workflows to purged, so that no reader sees a history with a
-- hole. Then it deletes what they left in the other tables, a portion at a time.

-- Whether an operator keeps the workflow from being purged.
ALTER TABLE workflows ADD COLUMN held INTEGER NOT NULL DEFAULT 0 CHECK (held IN (0, 1));

-- What a purge looks at: the finished workflows of a type, the one that ended first coming first.
CREATE INDEX workflows_ended ON workflows (workflow_type, end_time) WHERE end_time IS NOT NULL AND held = 0;

CREATE INDEX alerts_by_workflow ON alerts (key);

-- AUTOINCREMENT remembers the greatest key, so that no key is used again.
CREATE TABLE purged (key INTEGER PRIMARY KEY AUTOINCREMENT) STRICT;
