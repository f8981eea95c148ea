-- The names of columns and indexes are those that the rest of the server uses.

-- The ledger counts crashes of the server.
ALTER TABLE suspects RENAME COLUMN deaths TO crashes;

DROP INDEX workflows_under_way;
CREATE INDEX workflows_in_progress ON workflows (key) WHERE state IN (1, 2, 6);
