-- The ledger counts crashes of the server.
ALTER TABLE suspects RENAME COLUMN deaths TO crashes;
