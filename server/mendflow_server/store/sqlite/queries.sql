-- The statements of the store, by name. The comment below a name says what the statement does.
--
-- Python's sqlite3 releases the interpreter's lock at each row that it writes or reads, and while the event loop is
-- busy it gets the lock back only after some milliseconds. So a statement writes or returns many rows in one step.
-- {values} stands for one tuple per row, and for some tuples of NULLs, which are ignored (bulk.py). A query returns one
-- JSON array of rows. Only the inbox and the heartbeats are read row by row, because their rows are few and large.
-- queries.py has the other placeholders.

-- name: next_key
-- Return the key of the next new workflow. No key is used twice, not even that of a purged workflow.
SELECT max(
    coalesce((SELECT max(key) FROM workflows), 0),
    coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'purged'), 0)
) + 1

-- name: insert_workflow
-- Insert new workflows. A row whose workflow id exists is skipped.
INSERT INTO workflows ({inserted})
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL
ON CONFLICT (workflow_id) DO NOTHING

-- name: update_workflow
-- Update workflows whose rows still match their guards. An update to a final state requires an empty inbox.
UPDATE workflows SET {assignments}
FROM (VALUES {values})
WHERE {guard}
    AND (column1 < 7 OR NOT EXISTS (SELECT 1 FROM inbox WHERE inbox.key = workflows.key))

-- name: guard_holds
-- Return one row if the workflow still matches the guard.
SELECT 1 FROM workflows WHERE key = ? AND generation = ? AND last_sequence = ?

-- name: insert_event
-- Append events.
INSERT INTO events (key, sequence, bytes)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: insert_label
-- Insert labels into the index for lists.
INSERT INTO labels (name, value, create_time, key)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: consume_message
-- Delete messages that the history has recorded.
DELETE FROM inbox WHERE id IN (
    SELECT held.id FROM (VALUES {values}) AS consumed
    CROSS JOIN inbox AS held ON held.id = consumed.column1 AND held.key = consumed.column2
)

-- name: write_heartbeat
-- Insert or replace the latest details of a step's attempt.
INSERT INTO heartbeats (key, step_key, attempt, details)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL
ON CONFLICT (key, step_key) DO UPDATE SET attempt = excluded.attempt, details = excluded.details

-- name: drop_heartbeats
-- Delete the heartbeats of workflows that ended.
DELETE FROM heartbeats WHERE key IN (VALUES {values})

-- name: insert_alert
-- Insert alerts.
INSERT INTO alerts (time, key, name, severity, message)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: receivers
-- Return the workflows that messages are for, by a JSON array of workflow ids.
SELECT json_group_array(json_array(workflow_id, key, state, untaken_signals))
FROM workflows WHERE workflow_id IN (SELECT value FROM json_each(:workflow_ids))

-- name: requests_seen
-- Return the known ones of these requests, by a JSON array of row key and request id.
SELECT json_group_array(json_array(key, request_id)) FROM signal_requests
WHERE (key, request_id) IN (
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:requests)
)

-- name: count_signals
-- Return the number of signals in the inbox of each key of a JSON array.
SELECT json_group_array(json_array(wanted.value, (SELECT count(*) FROM inbox WHERE key = wanted.value AND kind = 1)))
FROM json_each(:keys) AS wanted

-- name: insert_message
-- Add messages to the inbox. Their ids increase by one in the order of the tuples.
INSERT INTO inbox (key, kind, request_id, time, content)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: newest_message
-- Return the newest message id.
SELECT max(id) FROM inbox

-- name: insert_request
-- Remember the request ids of signals and commands.
INSERT INTO signal_requests (key, request_id)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: heads
-- Return generation and last sequence of the workflows with the keys of a JSON array.
SELECT json_group_array(json_array(key, generation, last_sequence)) FROM workflows WHERE key IN (SELECT value FROM json_each(:keys))

-- name: find
-- Return the rows of the workflow ids of a JSON array.
SELECT json_group_array(json_array({columns})) FROM workflows WHERE workflow_id IN (SELECT value FROM json_each(:workflow_ids))

-- name: load_rows
-- Return the rows of the keys of a JSON array.
SELECT json_group_array(json_array({columns})) FROM workflows WHERE key IN (SELECT value FROM json_each(:keys))

-- name: load_events
-- Return the histories of the keys of a JSON array, one after the other, within both limits.
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
-- Return the messages in the inboxes of the keys of a JSON array, in the order of commits.
SELECT inbox.key, inbox.id, inbox.kind, inbox.request_id, inbox.time, inbox.content
FROM json_each(:keys) AS wanted
CROSS JOIN inbox INDEXED BY inbox_by_workflow ON inbox.key = wanted.value
ORDER BY inbox.id

-- name: read_inbox
-- Return the messages in one workflow's inbox, in the order of commits.
SELECT inbox.id, workflows.workflow_id, inbox.kind, inbox.request_id, inbox.time, inbox.content
FROM workflows
CROSS JOIN inbox INDEXED BY inbox_by_workflow ON inbox.key = workflows.key
WHERE workflows.key = :key
ORDER BY inbox.id

-- name: load_heartbeats
-- Return the heartbeats of the keys of a JSON array.
SELECT key, step_key, attempt, details FROM heartbeats WHERE key IN (SELECT value FROM json_each(:keys))
ORDER BY key, step_key

-- name: read_events
-- Return the events after a sequence, oldest first, within both limits but always the first one. The inner query reads
-- only lengths, so that SQLite does not read the events beyond the limit. A purged workflow has no events, also while
-- some are still there.
SELECT json_group_array(hex(bytes)) FROM (
    SELECT events.bytes FROM (
        SELECT sequence, sum(size) OVER (ORDER BY sequence) AS together FROM (
            SELECT sequence, length(bytes) AS size FROM events
            WHERE key = :key AND sequence > :after_sequence AND EXISTS (SELECT 1 FROM workflows WHERE key = :key)
            ORDER BY sequence LIMIT :limit
        )
    ) AS sized
    CROSS JOIN events ON events.key = :key AND events.sequence = sized.sequence
    WHERE sized.together <= :max_bytes OR sized.sequence = :after_sequence + 1
)

-- name: due
-- Return the workflows whose wake time has come, earliest first.
SELECT json_group_array(json_array(wake_time, key)) FROM (
    SELECT wake_time, key FROM workflows INDEXED BY workflows_due
    WHERE wake_time IS NOT NULL AND wake_time <= :until ORDER BY wake_time, key LIMIT :limit
)

-- name: in_progress
-- Return the keys of the workflows that need a driver, after a key.
SELECT json_group_array(key) FROM (
    SELECT key FROM (
        SELECT key FROM workflows INDEXED BY workflows_in_progress
        WHERE state IN (1, 2, 6) AND key > :after_key ORDER BY key LIMIT :limit
    )
    UNION
    SELECT key FROM (
        SELECT DISTINCT key FROM inbox INDEXED BY inbox_by_workflow WHERE key > :after_key ORDER BY key LIMIT :limit
    )
    ORDER BY key LIMIT :limit
)

-- name: stopped_for
-- Return the keys of the open workflows with this reason, after a key.
SELECT json_group_array(key) FROM (
    SELECT key FROM workflows INDEXED BY workflows_stopped
    WHERE reason = :reason AND reason <> 0 AND state < 7 AND key > :after_key ORDER BY key LIMIT :limit
)

-- name: seen_by_time
-- The rows that a list examines if no other index fits: all workflows.
SELECT create_time, key FROM workflows INDEXED BY workflows_by_time
WHERE create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: seen_by_type
-- The rows that a list of one type examines.
SELECT create_time, key FROM workflows INDEXED BY workflows_by_type
WHERE workflow_type = :workflow_type
    AND create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: seen_by_state
-- The rows that a list of some states examines: one of these queries per state.
SELECT create_time, key FROM workflows INDEXED BY workflows_by_state
WHERE state = {state} AND create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: seen_by_label
-- The rows that a list with labels examines: the workflows with the first label.
SELECT create_time, key FROM labels
WHERE name = :label_name AND value = :label_value
    AND create_time >= :earliest AND (create_time, key) < (:create_time, :key)

-- name: list_page
-- Return the first of the examined rows that match the conditions. They keep the order in which they are examined,
-- because the subquery is a co-routine and the outer loop. An ORDER BY here would read all of them for each page.
SELECT json_group_array(json_array({columns})) FROM (
    SELECT w.*
    FROM ({seen} ORDER BY create_time DESC, key DESC LIMIT :examined) AS seen
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

-- name: count_all
-- Return the number of all workflows, and when the newest one was created. Only a backup counts them, once.
SELECT count(*), coalesce(max(create_time), 0) FROM workflows INDEXED BY workflows_by_time

-- name: count_open
-- Return the number of open workflows.
SELECT count(*) FROM workflows INDEXED BY workflows_by_state WHERE state IN (1, 2, 3, 4, 5, 6)

-- name: count_rows
-- Return the number of all rows, as far as it can be known without the events of purged workflows. For a move.
SELECT (SELECT count(*) + coalesce(sum(last_sequence), 0) FROM workflows) + (SELECT count(*) FROM labels)
    + (SELECT count(*) FROM inbox) + (SELECT count(*) FROM signal_requests) + (SELECT count(*) FROM heartbeats)
    + (SELECT count(*) FROM suspects) + (SELECT count(*) FROM alerts) + (SELECT count(*) FROM purged)
    + (SELECT count(*) FROM replicas)

-- name: next_numbers
-- Return the next number of each sequence, by the table that it is for: "purged" has the greatest key ever used.
-- sqlite_sequence remembers the greatest number where none is used again. For a move.
SELECT name, coalesce(max(number), 0) + 1 FROM (
    SELECT name, seq AS number FROM sqlite_sequence
    UNION ALL SELECT 'purged', max(key) FROM workflows
    UNION ALL SELECT 'inbox', max(id) FROM inbox
    UNION ALL SELECT 'replicas', max(id) FROM replicas
    UNION ALL SELECT 'alerts', max(id) FROM alerts
) GROUP BY name

-- name: torn_histories
-- Return a workflow whose history does not have all of its events. Only a move reads this, once.
SELECT workflow_id, last_sequence, number FROM (
    SELECT workflow_id, last_sequence, (
        SELECT count(*) FROM events WHERE events.key = workflows.key AND sequence BETWEEN 1 AND last_sequence
    ) AS number FROM workflows
) WHERE number <> last_sequence LIMIT 1

-- name: list_last_seen
-- Return the position of the last row that a page may examine; no row if there are fewer.
SELECT create_time, key FROM ({seen} ORDER BY create_time DESC, key DESC LIMIT :examined) LIMIT 1 OFFSET :examined - 1

-- name: newest_life
-- Return the server process that started last before this one.
SELECT replica_id, start_time, beat_time, drained FROM replicas WHERE replica_id <> ? ORDER BY id DESC LIMIT 1

-- name: last_life
-- Return the number of the server process that started last, and whether it recorded its drain.
SELECT id, drained FROM replicas ORDER BY id DESC LIMIT 1

-- name: last_beat
-- Return the time of the last beat of the server process that started last.
SELECT json_group_array(beat_time) FROM (SELECT beat_time FROM replicas ORDER BY id DESC LIMIT 1)

-- name: insert_life
-- Record the start of a server process. The process may repeat it after an unknown outcome.
INSERT INTO replicas (replica_id, start_time, beat_time, drained) VALUES (?, ?, ?, ?) ON CONFLICT (replica_id) DO NOTHING

-- name: drop_old_lives
-- Delete all but the last ten lives.
DELETE FROM replicas WHERE id NOT IN (SELECT id FROM replicas ORDER BY id DESC LIMIT 10)

-- name: beat
-- Record that a server process is alive. A recorded drain stays recorded.
UPDATE replicas SET beat_time = ?, drained = max(drained, ?), beats = beats + 1 WHERE replica_id = ?

-- name: suspects
-- Return the crash budget's ledger. The column crashes holds the evidence of crashes.
SELECT json_group_array(json_array(key, step_key, crashes, alone, held)) FROM (
    SELECT key, step_key, crashes, alone, held FROM suspects ORDER BY key, step_key
)

-- name: drop_suspects
-- Delete the ledger, which is always written as a whole.
DELETE FROM suspects

-- name: insert_suspect
-- Insert rows of the ledger.
INSERT INTO suspects (key, step_key, crashes, alone, held)
SELECT * FROM (VALUES {values}) WHERE column1 IS NOT NULL

-- name: set_held
-- Hold a workflow, or release it.
UPDATE workflows SET held = :held WHERE workflow_id = :workflow_id

-- name: purge_candidate
-- Return what decides whether a workflow can be purged.
SELECT key, uid, state, held FROM workflows WHERE workflow_id = :workflow_id

-- name: first_ended
-- Return the types of the workflows that can be purged, each with its earliest end: two steps in the index for each type.
WITH RECURSIVE types (name) AS (
    SELECT min(workflow_type) FROM workflows INDEXED BY workflows_ended WHERE end_time IS NOT NULL AND held = 0
    UNION ALL
    SELECT (
        SELECT min(workflow_type) FROM workflows INDEXED BY workflows_ended
        WHERE end_time IS NOT NULL AND held = 0 AND workflow_type > types.name
    ) FROM types WHERE types.name IS NOT NULL
)
SELECT json_group_array(json_array(name, (
    SELECT end_time FROM workflows INDEXED BY workflows_ended
    WHERE workflow_type = types.name AND end_time IS NOT NULL AND held = 0 ORDER BY end_time LIMIT 1
))) FROM types WHERE name IS NOT NULL

-- name: expired
-- Return the keys of the workflows of a type that ended at or before a time and are not held, earliest first.
SELECT json_group_array(key) FROM (
    SELECT key FROM workflows INDEXED BY workflows_ended
    WHERE workflow_type = :workflow_type AND end_time IS NOT NULL AND end_time <= :until AND held = 0
    ORDER BY end_time LIMIT :limit
)

-- name: purge_labels
-- Delete the labels of the workflows with the keys of a JSON array. Damaged labels are no JSON. Their rows stay, and no
-- list finds them without their workflow, whose key is not used again.
DELETE FROM labels WHERE (name, value, create_time, key) IN (
    SELECT label.key, label.value, workflows.create_time, workflows.key
    FROM json_each(:keys) AS wanted
    CROSS JOIN workflows ON workflows.key = wanted.value
    CROSS JOIN json_each(iif(json_valid(workflows.labels), workflows.labels, '{}')) AS label
)

-- name: purge_rows
-- Delete the rows of the workflows with the keys of a JSON array.
DELETE FROM workflows WHERE key IN (SELECT value FROM json_each(:keys))

-- name: purge_inbox
-- Delete the messages to the workflows with the keys of a JSON array.
DELETE FROM inbox WHERE key IN (SELECT value FROM json_each(:keys))

-- name: purge_heartbeats
-- Delete the heartbeats of the workflows with the keys of a JSON array.
DELETE FROM heartbeats WHERE key IN (SELECT value FROM json_each(:keys))

-- name: purge_suspects
-- Delete the workflows with the keys of a JSON array from the ledger.
DELETE FROM suspects WHERE key IN (SELECT value FROM json_each(:keys))

-- name: insert_purged
-- Note that the workflows with the keys of a JSON array are purged.
INSERT INTO purged (key) SELECT value FROM json_each(:keys)

-- name: purged
-- Return the keys of some purged workflows that left something.
SELECT json_group_array(key) FROM (SELECT key FROM purged WHERE key > 0 ORDER BY key LIMIT :limit)

-- name: reclaim_events
-- Delete a portion of the events of purged workflows, within both limits but at least one. The inner query reads only
-- lengths.
DELETE FROM events WHERE (key, sequence) IN (
    SELECT key, sequence FROM (
        SELECT key, sequence, size, sum(size) OVER (ORDER BY key, sequence) AS together FROM (
            SELECT key, sequence, length(bytes) AS size FROM events
            WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY key, sequence LIMIT :limit
        )
    ) AS sized
    WHERE sized.together - sized.size < :max_bytes
)

-- name: requests_left
-- Return how many request ids each of the keys of a JSON array has left, up to a total.
SELECT json_group_array(json_array(key, number)) FROM (
    SELECT key, count(*) AS number FROM (
        SELECT key FROM signal_requests WHERE key IN (SELECT value FROM json_each(:keys)) ORDER BY key LIMIT :limit
    ) GROUP BY key
)

-- name: reclaim_requests
-- Delete the request ids of purged workflows with the keys of a JSON array.
DELETE FROM signal_requests WHERE key IN (SELECT value FROM json_each(:keys))

-- name: reclaim_some_requests
-- Delete a portion of the request ids of one purged workflow. SQLite would read all of them to find a list of pairs.
DELETE FROM signal_requests WHERE key = :key AND request_id <= (
    SELECT max(request_id) FROM (
        SELECT request_id FROM signal_requests WHERE key = :key ORDER BY request_id LIMIT :limit
    )
)

-- name: reclaim_alerts
-- Delete a portion of the alerts of purged workflows.
DELETE FROM alerts WHERE id IN (
    SELECT id FROM alerts INDEXED BY alerts_by_workflow
    WHERE key IN (SELECT value FROM json_each(:keys)) LIMIT :limit
)

-- name: drop_purged
-- Forget the purged workflows with the keys of a JSON array that have nothing left.
DELETE FROM purged WHERE key IN (SELECT value FROM json_each(:keys))
    AND NOT EXISTS (SELECT 1 FROM events WHERE events.key = purged.key)
    AND NOT EXISTS (SELECT 1 FROM signal_requests WHERE signal_requests.key = purged.key)
    AND NOT EXISTS (SELECT 1 FROM alerts INDEXED BY alerts_by_workflow WHERE alerts.key = purged.key)

-- name: any_purged
-- Return one row if a purged workflow has left something.
SELECT 1 FROM purged WHERE key > 0 LIMIT 1
