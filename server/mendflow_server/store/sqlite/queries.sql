-- Every statement of the store, by name. The line under a name says what it does.
--
-- Python's sqlite3 gives up the interpreter's lock at each row that it writes or reads, and gets it back only after
-- some milliseconds while the event loop is busy. So a statement takes or answers many rows in one step: {values} are
-- as many tuples as are to be written, and some of NULLs, which do nothing (batching.py); and what is read comes as one
-- JSON array of rows. Only the inbox and the heartbeats, of which there are few and large ones, are read row by row.

-- name: next_key
-- The key of the next new workflow.
SELECT coalesce(max(key), 0) + 1 FROM workflows

-- name: insert_workflow
-- A new workflow; no row is written when the id is taken.
INSERT INTO workflows ({columns})
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL
ON CONFLICT (workflow_id) DO NOTHING

-- name: update_workflow
-- What a driver changes, while the row still holds its guard; and the end (a final state), only when nothing is left in
-- the inbox.
UPDATE workflows SET {assignments}
FROM (VALUES {values})
WHERE {guard}
    AND (column1 < 7 OR NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.key = workflows.key))

-- name: guard_holds
-- One row while a workflow still holds the guard.
SELECT 1 FROM workflows WHERE key = ? AND generation = ? AND last_sequence = ?

-- name: insert_event
-- An event at its place.
INSERT INTO events (key, sequence, bytes)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: insert_label
-- A label's place in the lists.
INSERT INTO labels (name, value, create_time, key)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: take_message
-- A message that the history has taken in leaves the inbox.
DELETE FROM inbox WHERE id IN (
    SELECT held.id FROM (VALUES {values}) AS taken
    CROSS JOIN inbox AS held ON held.id = taken.column1 AND held.key = taken.column2
)

-- name: write_heartbeat
-- The latest details of a step's attempt.
INSERT INTO heartbeats (key, step_key, attempt, details)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL
ON CONFLICT (key, step_key) DO UPDATE SET attempt = excluded.attempt, details = excluded.details

-- name: drop_heartbeats
-- A workflow that ended has no open attempts.
DELETE FROM heartbeats WHERE key IN (VALUES {values})

-- name: insert_alert
-- An alert beside its event.
INSERT INTO alerts (time, key, name, severity, message)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: receivers
-- The workflows that messages are for (a JSON array of workflow ids).
SELECT json_group_array(json_array(workflow_id, key, state, untaken_signals))
FROM workflows WHERE workflow_id IN (SELECT value FROM json_each(:workflow_ids))

-- name: requests_seen
-- Which of these requests were sent before (a JSON array of row key and request id).
SELECT json_group_array(json_array(key, request_id)) FROM signal_requests
WHERE (key, request_id) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:requests)
)

-- name: count_signals
-- How many signals lie in the inbox of these keys (a JSON array).
SELECT json_group_array(json_array(wanted.value, (SELECT count(*) FROM inbox WHERE key = wanted.value AND kind = 1)))
FROM json_each(:keys) AS wanted

-- name: insert_message
-- A message into the inbox. Ids rise by one, in the order of the tuples.
INSERT INTO inbox (key, kind, request_id, time, content)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: newest_message
-- The id that was given last.
SELECT max(id) FROM inbox

-- name: insert_request
-- The request, a signal's or a command's, will be known again.
INSERT INTO signal_requests (key, request_id)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: heads
-- Generation and last sequence of the workflows of these keys (a JSON array).
SELECT json_group_array(json_array(key, generation, last_sequence)) FROM workflows WHERE key IN (SELECT value FROM json_each(:keys))

-- name: find
-- The rows of these workflow ids (a JSON array).
SELECT json_group_array(json_array({columns})) FROM workflows WHERE workflow_id IN (SELECT value FROM json_each(:workflow_ids))

-- name: load_rows
-- The rows of these keys (a JSON array).
SELECT json_group_array(json_array({columns})) FROM workflows WHERE key IN (SELECT value FROM json_each(:keys))

-- name: load_events
-- The histories of these keys (a JSON array), one after the other, as far as there is room.
SELECT json_group_array(json_array(key, hex(bytes))) FROM (
    SELECT events.key, events.bytes FROM (
        SELECT key, sequence, sum(size) OVER (ORDER BY key, sequence) AS together FROM (
            SELECT key, sequence, length(bytes) AS size FROM events
            WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY key, sequence LIMIT :limit
        )
    ) AS sized
    CROSS JOIN events ON events.key = sized.key AND events.sequence = sized.sequence
    WHERE sized.together <= :max_bytes
)

-- name: load_inbox
-- What lies in the inbox of these keys (a JSON array), each workflow's in the order of commits.
SELECT inbox.key, inbox.id, inbox.kind, inbox.request_id, inbox.time, inbox.content
FROM json_each(:keys) AS wanted
CROSS JOIN inbox INDEXED BY inbox_by_workflow ON inbox.key = wanted.value
ORDER BY inbox.id

-- name: read_inbox
-- The messages in one workflow's inbox, in the order of commits.
SELECT inbox.id, workflows.workflow_id, inbox.kind, inbox.request_id, inbox.time, inbox.content
FROM workflows
CROSS JOIN inbox INDEXED BY inbox_by_workflow ON inbox.key = workflows.key
WHERE workflows.key = :key
ORDER BY inbox.id

-- name: load_heartbeats
-- The heartbeats of these keys (a JSON array).
SELECT key, step_key, attempt, details FROM heartbeats WHERE key IN (SELECT value FROM json_each(:keys))
ORDER BY key, step_key

-- name: read_events
-- Events after a sequence, oldest first: as many as have room, and always the first. Only lengths are summed up, so
-- that what has no room is not read.
SELECT json_group_array(hex(bytes)) FROM (
    SELECT events.bytes FROM (
        SELECT sequence, sum(size) OVER (ORDER BY sequence) AS together FROM (
            SELECT sequence, length(bytes) AS size FROM events
            WHERE key = :key AND sequence > :after_sequence ORDER BY sequence LIMIT :limit
        )
    ) AS sized
    CROSS JOIN events ON events.key = :key AND events.sequence = sized.sequence
    WHERE sized.together <= :max_bytes OR sized.sequence = :after_sequence + 1
)

-- name: due
-- The workflows that shall go on by now, earliest first.
SELECT json_group_array(json_array(wake_time, key)) FROM (
    SELECT wake_time, key FROM workflows INDEXED BY workflows_due
    WHERE wake_time IS NOT NULL AND wake_time <= :until ORDER BY wake_time, key LIMIT :limit
)

-- name: in_progress
-- The keys of all that a driver must look at, from a key on.
SELECT json_group_array(key) FROM (
    SELECT key FROM (
        SELECT key FROM workflows INDEXED BY workflows_under_way
        WHERE state IN (1, 2, 6) AND key > :after_key ORDER BY key LIMIT :limit
    )
    UNION
    SELECT key FROM (
        SELECT DISTINCT key FROM inbox INDEXED BY inbox_by_workflow WHERE key > :after_key ORDER BY key LIMIT :limit
    )
    ORDER BY key LIMIT :limit
)

-- name: stopped_for
-- The keys of open workflows with this reason, from a key on.
SELECT json_group_array(key) FROM (
    SELECT key FROM workflows INDEXED BY workflows_stopped
    WHERE reason = :reason AND reason <> 0 AND state < 7 AND key > :after_key ORDER BY key LIMIT :limit
)

-- name: seen_by_time
-- Where a list looks when no index fits better: everything, newest first.
SELECT create_time, key FROM workflows INDEXED BY workflows_by_time
WHERE create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: seen_by_type
-- Where a list of one type looks.
SELECT create_time, key FROM workflows INDEXED BY workflows_by_type
WHERE workflow_type = :workflow_type
    AND create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: seen_by_state
-- Where a list of some states looks: one of these for each state.
SELECT create_time, key FROM workflows INDEXED BY workflows_by_state
WHERE state = {state} AND create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: seen_by_label
-- Where a list with labels looks: the first label.
SELECT create_time, key FROM labels
WHERE name = :label_name AND value = :label_value
    AND create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: list_page
-- The first rows of those seen for which the conditions hold. The rows come in the order in which they are seen,
-- because the subquery is a co-routine and the outer loop; an ORDER BY here would read all of them for each page.
SELECT json_group_array(json_array({columns})) FROM (
    SELECT w.*
    FROM ({seen} ORDER BY create_time DESC, key DESC LIMIT :looks) AS seen
    CROSS JOIN workflows AS w ON w.key = seen.key
    WHERE (:workflow_type IS NULL OR w.workflow_type = :workflow_type)
        AND (:states IS NULL OR w.state IN (SELECT value FROM json_each(:states)))
        AND (:labels IS NULL OR NOT EXISTS (
            SELECT 1 FROM json_each(:labels) AS wanted
            WHERE NOT EXISTS (
                SELECT 1 FROM labels
                WHERE labels.name = json_extract(wanted.value, '$[0]') AND labels.value = json_extract(wanted.value, '$[1]')
                    AND labels.create_time = w.create_time AND labels.key = w.key
            )
        ))
    LIMIT :limit
)

-- name: count_open
-- How many workflows have not ended.
SELECT count(*) FROM workflows INDEXED BY workflows_by_state WHERE state IN (1, 2, 3, 4, 5, 6)

-- name: list_last_seen
-- The last place that a page may look at; no row when there are fewer.
SELECT create_time, key FROM ({seen} ORDER BY create_time DESC, key DESC LIMIT :looks) LIMIT 1 OFFSET :looks - 1

-- name: newest_life
-- The server process that began last before this one.
SELECT replica_id, start_time, beat_time, drained FROM replicas WHERE replica_id <> ? ORDER BY id DESC LIMIT 1

-- name: last_beat
-- When the server process that began last was last alive.
SELECT json_group_array(beat_time) FROM (SELECT beat_time FROM replicas ORDER BY id DESC LIMIT 1)

-- name: insert_life
-- A server process begins. It may ask again, when it was not told that it has begun.
INSERT INTO replicas (replica_id, start_time, beat_time, drained) VALUES (?, ?, ?, ?) ON CONFLICT (replica_id) DO NOTHING

-- name: drop_old_lives
-- The last ten lives are kept.
DELETE FROM replicas WHERE id NOT IN (SELECT id FROM replicas ORDER BY id DESC LIMIT 10)

-- name: beat
-- A server process renews its row. A drain, once recorded, stays.
UPDATE replicas SET beat_time = ?, drained = max(drained, ?), beats = beats + 1 WHERE replica_id = ?

-- name: suspects
-- The crash budget's ledger.
SELECT json_group_array(json_array(key, step_key, crashes, alone, held)) FROM (
    SELECT key, step_key, crashes, alone, held FROM suspects ORDER BY key, step_key
)

-- name: drop_suspects
-- The ledger is written as a whole.
DELETE FROM suspects

-- name: insert_suspect
-- One row of the ledger.
INSERT INTO suspects (key, step_key, crashes, alone, held)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL
