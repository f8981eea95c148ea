-- The statements of the store, by name. The comment below a name says what the statement does.
--
-- queries.py fills in the placeholders. Every statement runs with one generic plan, without sequential scans, hash joins
-- and merge joins (connection.py), so that a plan does not change with the size of the tables.

-- name: commit
-- Write the changes of a batch in one statement; return the keys of the accepted ones. A new workflow whose id exists is
-- skipped, and so is an update whose row no longer matches its guard. Everything else is written only for the accepted
-- ones. "IS TRUE" makes PostgreSQL put their keys into a hash table; the join that it would make of a plain IN is ten
-- times slower. An update to a final state requires an empty inbox.
WITH fresh AS (
    INSERT INTO workflows ({inserted})
    SELECT * FROM unnest({inserted_arrays})
    ON CONFLICT (workflow_id) DO NOTHING
    RETURNING key
), changed AS (
    UPDATE workflows SET {assignments}
    FROM unnest({updated_arrays}) AS given ({given})
    WHERE {guard} AND (given.state < 7 OR workflows.inbox_size = 0)
    RETURNING workflows.key
), accepted AS (
    SELECT key FROM fresh UNION ALL SELECT key FROM changed
), appended AS (
    INSERT INTO events (key, sequence, bytes)
    SELECT given.key, given.sequence, given.bytes
    FROM unnest({event_arrays}) AS given (key, sequence, bytes)
    WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE
), labelled AS (
    INSERT INTO labels (name, value, create_time, key)
    SELECT given.name, given.value, given.create_time, given.key
    FROM unnest({label_arrays}) AS given (name, value, create_time, key)
    WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE
), silenced AS (
    DELETE FROM heartbeats USING unnest({ended_arrays}) AS given (key)
    WHERE heartbeats.key = given.key AND (given.key IN (SELECT key FROM accepted)) IS TRUE
)
SELECT key FROM accepted

-- name: commit_beside
-- Write the changes of a batch as "commit" does, together with the messages that they consume, heartbeats and alerts.
WITH taken AS MATERIALIZED (
    SELECT inbox.id, inbox.key
    FROM unnest({consumed_arrays}) AS given (id, key)
    CROSS JOIN LATERAL (SELECT id, key FROM inbox WHERE inbox.id = given.id AND inbox.key = given.key) AS inbox
), fresh AS (
    INSERT INTO workflows ({inserted})
    SELECT * FROM unnest({inserted_arrays})
    ON CONFLICT (workflow_id) DO NOTHING
    RETURNING key
), changed AS (
    UPDATE workflows SET {assignments},
        inbox_size = workflows.inbox_size - (SELECT count(*) FROM taken WHERE taken.key = given.key)
    FROM unnest({updated_arrays}) AS given ({given})
    WHERE {guard}
        AND (given.state < 7 OR workflows.inbox_size = (SELECT count(*) FROM taken WHERE taken.key = given.key))
    RETURNING workflows.key
), accepted AS (
    SELECT key FROM fresh UNION ALL SELECT key FROM changed
), consumed AS (
    DELETE FROM inbox USING taken WHERE inbox.id = taken.id AND (taken.key IN (SELECT key FROM changed)) IS TRUE
), appended AS (
    INSERT INTO events (key, sequence, bytes)
    SELECT given.key, given.sequence, given.bytes
    FROM unnest({event_arrays}) AS given (key, sequence, bytes)
    WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE
), labelled AS (
    INSERT INTO labels (name, value, create_time, key)
    SELECT given.name, given.value, given.create_time, given.key
    FROM unnest({label_arrays}) AS given (name, value, create_time, key)
    WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE
), beating AS (
    INSERT INTO heartbeats (key, step_key, attempt, details)
    SELECT given.key, given.step_key, given.attempt, given.details
    FROM unnest({heartbeat_arrays}) AS given (key, step_key, attempt, details)
    WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE
    ON CONFLICT (key, step_key) DO UPDATE SET attempt = excluded.attempt, details = excluded.details
), silenced AS (
    DELETE FROM heartbeats USING unnest({ended_arrays}) AS given (key)
    WHERE heartbeats.key = given.key AND (given.key IN (SELECT key FROM accepted)) IS TRUE
), raised AS (
    INSERT INTO alerts (time, key, name, severity, message)
    SELECT given.time, given.key, given.name, given.severity, given.message
    FROM unnest({alert_arrays}) AS given (time, key, name, severity, message)
    WHERE (given.key IN (SELECT key FROM accepted)) IS TRUE
)
SELECT key FROM accepted

-- name: receivers
-- Lock and return the workflows that messages are for. The end of a workflow waits for this lock.
SELECT workflow_id, key, state, untaken_signals FROM workflows WHERE workflow_id = ANY ($1::text[])
ORDER BY key FOR NO KEY UPDATE

-- name: requests_seen
-- Return the known ones of these requests.
SELECT given.key, given.request_id FROM unnest($1::bigint[], $2::text[]) AS given (key, request_id)
WHERE EXISTS (SELECT 1 FROM signal_requests AS seen WHERE seen.key = given.key AND seen.request_id = given.request_id)

-- name: count_signals
-- Return the number of signals in the inbox of each key.
SELECT given.key, (SELECT count(*) FROM inbox WHERE inbox.key = given.key AND inbox.kind = 1)
FROM unnest($1::bigint[]) AS given (key)

-- name: insert_messages
-- Add messages to the inbox, remember their request ids, and return the messages' ids in the order of the arrays.
WITH counted AS (
    UPDATE workflows SET inbox_size = workflows.inbox_size + given.number
    FROM (SELECT key, count(*) AS number FROM unnest($1::bigint[]) AS given (key) GROUP BY key ORDER BY key) AS given
    WHERE workflows.key = given.key
), remembered AS (
    INSERT INTO signal_requests (key, request_id)
    SELECT given.key, given.request_id FROM unnest($1::bigint[], $3::text[]) AS given (key, request_id)
    WHERE given.request_id <> ''
)
INSERT INTO inbox (key, kind, request_id, time, content)
SELECT given.key, given.kind, given.request_id, given.time, given.content
FROM unnest($1::bigint[], $2::integer[], $3::text[], $4::bigint[], $5::bytea[])
    WITH ORDINALITY AS given (key, kind, request_id, time, content, number)
ORDER BY given.number
RETURNING id

-- name: next_keys
-- Return the first key of a new block, which no other server gets.
SELECT nextval('workflow_keys')

-- name: heads
-- Return generation and last sequence of workflows.
SELECT key, generation, last_sequence FROM workflows WHERE key = ANY ($1::bigint[])

-- name: find
-- Return the rows of workflow ids.
SELECT {columns} FROM workflows WHERE workflow_id = ANY ($1::text[])

-- name: load_rows
-- Return the rows of keys.
SELECT {columns} FROM workflows WHERE key = ANY ($1::bigint[])

-- name: load_events
-- Return the histories of keys, one after the other, within both limits. The inner query reads only lengths.
SELECT events.key, events.bytes FROM (
    SELECT key, sequence, sum(size) OVER (ORDER BY key, sequence) AS together FROM (
        SELECT key, sequence, octet_length(bytes) AS size FROM events
        WHERE key = ANY ($1::bigint[]) ORDER BY key, sequence LIMIT $2
    ) AS lengths
) AS sized
JOIN events ON events.key = sized.key AND events.sequence = sized.sequence
WHERE sized.together <= $3
ORDER BY sized.key, sized.sequence

-- name: load_inbox
-- Return the messages in the inboxes of keys, in the order of commits.
SELECT inbox.key, inbox.id, inbox.kind, inbox.request_id, inbox.time, inbox.content
FROM inbox WHERE key = ANY ($1::bigint[]) ORDER BY inbox.id

-- name: read_inbox
-- Return the messages in one workflow's inbox, in the order of commits.
SELECT inbox.id, workflows.workflow_id, inbox.kind, inbox.request_id, inbox.time, inbox.content
FROM workflows JOIN inbox ON inbox.key = workflows.key
WHERE workflows.key = $1
ORDER BY inbox.id

-- name: load_heartbeats
-- Return the heartbeats of keys.
SELECT key, step_key, attempt, details FROM heartbeats WHERE key = ANY ($1::bigint[]) ORDER BY key, step_key

-- name: read_events
-- Return the events after a sequence, oldest first, within both limits but always the first one. The inner query reads
-- only lengths. A purged workflow has no events, also while some are still there.
SELECT events.bytes FROM (
    SELECT sequence, sum(size) OVER (ORDER BY sequence) AS together FROM (
        SELECT sequence, octet_length(bytes) AS size FROM events
        WHERE key = $1 AND sequence > $2 AND EXISTS (SELECT 1 FROM workflows WHERE workflows.key = $1)
        ORDER BY sequence LIMIT $3
    ) AS lengths
) AS sized
JOIN events ON events.key = $1 AND events.sequence = sized.sequence
WHERE sized.together <= $4 OR sized.sequence = $2 + 1
ORDER BY sized.sequence

-- name: snapshot
-- Return a workflow's row with its first event and, if it has ended, its last one.
SELECT {columns},
    (SELECT bytes FROM events WHERE events.key = workflows.key AND events.sequence = 1) AS first,
    CASE WHEN state >= 7 THEN (
        SELECT bytes FROM events WHERE events.key = workflows.key AND events.sequence = workflows.last_sequence
    ) END AS last
FROM workflows WHERE workflow_id = $1

-- name: due
-- Return the workflows of a replica whose wake time has come, earliest first.
SELECT wake_time, key FROM workflows
WHERE replica_id = $1 AND wake_time IS NOT NULL AND wake_time <= $2 ORDER BY wake_time, key LIMIT $3

-- name: in_progress
-- Return the keys of the workflows of a replica that need a driver, after a key.
SELECT key FROM (
    (SELECT key FROM workflows WHERE replica_id = $1 AND state IN (1, 2, 6) AND key > $2 ORDER BY key LIMIT $3)
    UNION
    (SELECT key FROM (SELECT DISTINCT key FROM inbox WHERE key > $2) AS receivers
        WHERE (SELECT replica_id FROM workflows WHERE workflows.key = receivers.key) = $1 ORDER BY key LIMIT $3)
) AS found
ORDER BY key LIMIT $3

-- name: stopped_for
-- Return the keys of the open workflows of a replica with this reason, after a key.
SELECT key FROM workflows
WHERE replica_id = $1 AND reason = $2 AND reason <> 0 AND state < 7 AND key > $3 ORDER BY key LIMIT $4

-- name: seen_by_time
-- The rows that a list examines if no other index fits: all workflows.
SELECT create_time, key FROM workflows
WHERE create_time >= $1 AND (create_time, key) < ($2, $3)

-- name: seen_by_type
-- The rows that a list of one type examines.
SELECT create_time, key FROM workflows
WHERE workflow_type = $4 AND create_time >= $1 AND (create_time, key) < ($2, $3)

-- name: seen_by_state
-- The rows that a list of some states examines: one of these queries per state. Each has a limit of its own,
-- without which PostgreSQL would sort all of them instead of merging them.
SELECT create_time, key FROM workflows
WHERE state = {state} AND create_time >= $1 AND (create_time, key) < ($2, $3)
ORDER BY create_time DESC, key DESC LIMIT $8

-- name: seen_by_states
-- The rows that a list of some states examines, in order.
SELECT create_time, key FROM ({branches}) AS branches

-- name: seen_by_label
-- The rows that a list with labels examines: the workflows with the first label.
SELECT create_time, key FROM labels
WHERE name = ($6::text[])[1] AND value = ($7::text[])[1] AND create_time >= $1 AND (create_time, key) < ($2, $3)

-- name: list_page
-- Return the first of the examined rows that match the conditions, in the order in which they are examined.
SELECT {columns} FROM (
    SELECT seen.create_time AS seen_time, workflows.*
    FROM ({seen} ORDER BY create_time DESC, key DESC LIMIT $8) AS seen
    JOIN workflows ON workflows.key = seen.key
    WHERE ($4::text IS NULL OR workflows.workflow_type = $4)
        AND ($5::integer[] IS NULL OR workflows.state = ANY ($5))
        AND NOT EXISTS (
            SELECT 1 FROM unnest($6::text[], $7::text[]) AS wanted (name, value)
            WHERE NOT EXISTS (
                SELECT 1 FROM labels
                WHERE labels.name = wanted.name AND labels.value = wanted.value
                    AND labels.create_time = workflows.create_time AND labels.key = workflows.key
            )
        )
    ORDER BY seen.create_time DESC, seen.key DESC
    LIMIT $9
) AS page
ORDER BY seen_time DESC, key DESC

-- name: list_last_seen
-- Return the position of the last row that a page may examine; no row if there are fewer. The condition is always true;
-- it gives types to the parameters of list_page that are not used here.
SELECT create_time, key FROM ({seen} ORDER BY create_time DESC, key DESC LIMIT $8) AS seen
WHERE true OR ($4::text, $5::integer[], $6::text[], $7::text[]) IS NULL
ORDER BY create_time DESC, key DESC LIMIT 1 OFFSET $8 - 1

-- name: newest_life
-- Return the server process that started last, except this one. An empty replica id is none.
SELECT replica_id, start_time, beat_time, drained FROM replicas WHERE replica_id <> $1 ORDER BY id DESC LIMIT 1

-- name: last_beat
-- Return the time of the last beat of the server process that started last.
SELECT beat_time FROM replicas ORDER BY id DESC LIMIT 1

-- name: insert_life
-- Record the start of a replica, with its lease. The process may repeat it after an unknown outcome.
INSERT INTO replicas (id, replica_id, start_time, beat_time, drained, ended, build, lease_end) OVERRIDING SYSTEM VALUE
VALUES ($1, $2, $3, $4, $5, $5, $6, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $7)
ON CONFLICT DO NOTHING

-- name: end_life
-- Close the row of an earlier life of this process, unless another replica judges it.
UPDATE replicas SET ended = true WHERE replica_id = $1 AND judge = ''

-- name: drop_old_lives
-- Delete all but the last ten lives, except open ones.
DELETE FROM replicas WHERE ended AND id <= (SELECT id FROM replicas ORDER BY id DESC LIMIT 1 OFFSET 10)

-- name: beat
-- Record that a replica is alive, and renew its lease. A recorded drain stays recorded, and closes the row.
UPDATE replicas SET beat_time = $2, drained = drained OR $3, ended = ended OR $3, load = $4,
    lease_end = (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + $5
WHERE replica_id = $1 AND judge = '' AND (drained OR NOT ended)

-- name: judged
-- Return whether another replica judges, or has judged, the end of a replica.
SELECT judge <> '' FROM replicas WHERE replica_id = $1

-- name: database_time
-- Return the time by the clock of the database.
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint

-- name: peers
-- Return the open replicas. A lock is held on the schema and the number of each that lives.
WITH locks AS MATERIALIZED (
    SELECT objid::bigint AS number FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = $1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
)
SELECT id, replica_id, start_time, beat_time, lease_end, judge, load, build,
    lease_end > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS has_lease,
    EXISTS (SELECT 1 FROM locks WHERE locks.number = replicas.id) AS has_lock
FROM replicas WHERE NOT ended ORDER BY id

-- name: begin_judgement
-- Become the judge of a replica whose row is as it was seen.
UPDATE replicas SET judge = $2 WHERE id = $1 AND NOT ended AND judge = $3 AND lease_end = $4
    AND EXISTS (SELECT 1 FROM replicas AS mine WHERE mine.replica_id = $2 AND NOT mine.ended AND mine.judge = '')

-- name: end_judgement
-- Close the row of a replica that this one has judged, and drop what the judge did not take into its own part of the
-- ledger. A judge whose own end is judged leaves that to its judge.
WITH closed AS (
    UPDATE replicas SET ended = true WHERE id = $1 AND judge = $2
        AND EXISTS (SELECT 1 FROM replicas AS mine WHERE mine.replica_id = $2 AND NOT mine.ended AND mine.judge = '')
    RETURNING replica_id
)
DELETE FROM suspects USING closed WHERE suspects.replica_id = closed.replica_id

-- name: moving
-- Return the keys of a replica's workflows in progress, after a key.
SELECT key FROM workflows WHERE replica_id = $1 AND state IN (1, 2, 6) AND key > $2 ORDER BY key LIMIT $3

-- name: orphaned
-- Return the replicas that are not open, and have a workflow that is in progress or due. Each step of the recursions
-- finds the next replica in an index.
WITH RECURSIVE moving (replica_id) AS (
    (SELECT replica_id FROM workflows WHERE state IN (1, 2, 6) ORDER BY replica_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT replica_id FROM workflows
        WHERE state IN (1, 2, 6) AND replica_id > moving.replica_id ORDER BY replica_id LIMIT 1
    ) FROM moving WHERE moving.replica_id IS NOT NULL
), waiting (replica_id) AS (
    (SELECT replica_id FROM workflows WHERE wake_time IS NOT NULL ORDER BY replica_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT replica_id FROM workflows
        WHERE wake_time IS NOT NULL AND replica_id > waiting.replica_id ORDER BY replica_id LIMIT 1
    ) FROM waiting WHERE waiting.replica_id IS NOT NULL
), found AS (
    SELECT replica_id FROM moving WHERE replica_id IS NOT NULL
    UNION
    SELECT replica_id FROM waiting WHERE replica_id IS NOT NULL AND (
        SELECT wake_time FROM workflows
        WHERE workflows.replica_id = waiting.replica_id AND wake_time IS NOT NULL ORDER BY wake_time LIMIT 1
    ) <= $1
)
SELECT replica_id FROM found
WHERE NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.replica_id = found.replica_id AND NOT replicas.ended)

-- name: orphaned_stopped
-- Return the replicas that are not open, and have a workflow that waits for one of some reasons.
WITH RECURSIVE stopped (replica_id) AS (
    (SELECT replica_id FROM workflows WHERE reason <> 0 AND state < 7 ORDER BY replica_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT replica_id FROM workflows
        WHERE reason <> 0 AND state < 7 AND replica_id > stopped.replica_id ORDER BY replica_id LIMIT 1
    ) FROM stopped WHERE stopped.replica_id IS NOT NULL
)
SELECT replica_id FROM stopped
WHERE replica_id IS NOT NULL
    AND EXISTS (
        SELECT 1 FROM workflows
        WHERE workflows.replica_id = stopped.replica_id AND reason = ANY ($1::integer[]) AND reason <> 0 AND state < 7
    )
    AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.replica_id = stopped.replica_id AND NOT replicas.ended)

-- name: claim
-- Move workflows to a replica that is open: one of these queries per way to choose them.
WITH chosen AS MATERIALIZED ({chosen} FOR NO KEY UPDATE SKIP LOCKED)
UPDATE workflows SET replica_id = $1, generation = workflows.generation + 1 FROM chosen
WHERE workflows.key = chosen.key
    AND EXISTS (SELECT 1 FROM replicas WHERE replicas.replica_id = $1 AND NOT replicas.ended AND replicas.judge = '')
RETURNING workflows.key, chosen.replica_id, workflows.generation, workflows.last_sequence

-- name: fits
-- The code of this build may continue the workflow, or no replica has other code. Then this one pauses it.
(
    NOT EXISTS (SELECT 1 FROM unfit WHERE unfit.key = workflows.key AND unfit.build = $4)
    OR NOT EXISTS (
        SELECT 1 FROM replicas WHERE NOT replicas.ended AND replicas.judge = ''
            AND NOT EXISTS (SELECT 1 FROM unfit WHERE unfit.key = workflows.key AND unfit.build = replicas.build)
    )
)

-- name: chosen_moving
-- The workflows in progress of some replicas.
SELECT key, replica_id FROM workflows WHERE replica_id = ANY ($2::text[]) AND state IN (1, 2, 6) AND {fits}
ORDER BY replica_id, key LIMIT $3

-- name: chosen_due
-- The workflows of some replicas that are due.
SELECT key, replica_id FROM workflows
WHERE replica_id = ANY ($2::text[]) AND wake_time IS NOT NULL AND wake_time <= $5 AND {fits} LIMIT $3

-- name: chosen_stopped
-- The workflows of some replicas that wait for some reasons.
SELECT key, replica_id FROM workflows
WHERE replica_id = ANY ($2::text[]) AND reason = ANY ($5::integer[]) AND reason <> 0 AND state < 7 AND {fits}
LIMIT $3

-- name: chosen_keys
-- The open ones of these workflows whose replica is gone.
SELECT key, replica_id FROM workflows
WHERE key = ANY ($2::bigint[]) AND state < 7
    AND NOT EXISTS (SELECT 1 FROM replicas WHERE replicas.replica_id = workflows.replica_id AND NOT replicas.ended)
LIMIT $3

-- name: release
-- Give up workflows, so that any replica may claim them.
UPDATE workflows SET replica_id = '', generation = generation + 1
WHERE key = ANY ($2::bigint[]) AND replica_id = $1 AND state < 7

-- name: release_stopped
-- Give up the workflows of a replica that wait for some reasons, and note that its build cannot continue them.
WITH released AS (
    UPDATE workflows SET replica_id = '', generation = generation + 1
    WHERE replica_id = $1 AND reason = ANY ($2::integer[]) AND reason <> 0 AND state < 7
    RETURNING key
)
INSERT INTO unfit (key, build) SELECT key, $3 FROM released ON CONFLICT DO NOTHING

-- name: release_unfit
-- Give up a workflow that the code of a build cannot continue, and note that.
WITH released AS (
    UPDATE workflows SET replica_id = '', generation = generation + 1
    WHERE key = $1 AND replica_id = $2 AND state < 7
    RETURNING key
)
INSERT INTO unfit (key, build) SELECT key, $3 FROM released ON CONFLICT DO NOTHING

-- name: unfit_builds
-- Return the builds whose code cannot continue a workflow.
SELECT build FROM unfit WHERE key = $1

-- name: waiting_messages
-- Return the workflows of the oldest messages in the inbox that came before a time.
SELECT DISTINCT oldest.key, workflows.replica_id
FROM (SELECT key, time FROM inbox ORDER BY id LIMIT $2) AS oldest
JOIN workflows ON workflows.key = oldest.key
WHERE oldest.time <= $1

-- name: suspects
-- Return the part of the crash budget's ledger that a replica watches.
SELECT key, step_key, crashes, alone, held FROM suspects WHERE replica_id = $1 ORDER BY key, step_key

-- name: is_fenced
-- Return whether a replica has ended, or its end is judged. A judgement waits until the transaction ends.
SELECT ended OR judge <> '' FROM replicas WHERE replica_id = $1 FOR SHARE

-- name: drop_suspects
-- Delete that part of the ledger, which is always written as a whole.
DELETE FROM suspects WHERE replica_id = $1

-- name: insert_suspects
-- Insert rows of the ledger. A unit is watched by the judge of its last crash.
INSERT INTO suspects (key, step_key, crashes, alone, held, replica_id)
SELECT given.*, $6 FROM unnest($1::bigint[], $2::text[], $3::integer[], $4::integer[], $5::boolean[]) AS given
ON CONFLICT (key, step_key) DO UPDATE SET crashes = excluded.crashes, alone = excluded.alone, held = excluded.held,
    replica_id = excluded.replica_id

-- name: set_held
-- Hold a workflow, or release it; return its row.
UPDATE workflows SET held = $2 WHERE workflow_id = $1 RETURNING {columns}

-- name: purge_candidate
-- Lock a workflow and return what decides whether it can be purged.
SELECT key, uid, state, held FROM workflows WHERE workflow_id = $1 FOR UPDATE

-- name: first_ended
-- Return the types of the workflows that can be purged, each with its earliest end: two steps in the index for each type.
WITH RECURSIVE types (name) AS (
    (SELECT workflow_type FROM workflows WHERE end_time IS NOT NULL AND NOT held ORDER BY workflow_type LIMIT 1)
    UNION ALL
    SELECT (
        SELECT workflow_type FROM workflows
        WHERE end_time IS NOT NULL AND NOT held AND workflow_type > types.name ORDER BY workflow_type LIMIT 1
    ) FROM types WHERE types.name IS NOT NULL
)
SELECT name, (
    SELECT end_time FROM workflows
    WHERE workflow_type = types.name AND end_time IS NOT NULL AND NOT held ORDER BY end_time LIMIT 1
) FROM types WHERE name IS NOT NULL

-- name: expired
-- Lock and return the keys of the workflows of a type that ended at or before a time and are not held, earliest first.
-- Each replica takes others.
SELECT key FROM workflows
WHERE workflow_type = $1 AND end_time IS NOT NULL AND end_time <= $2 AND NOT held
ORDER BY end_time LIMIT $3 FOR UPDATE SKIP LOCKED

-- name: detach
-- Delete the rows of workflows with their labels and what else a reader could find, and note their keys.
WITH unlabelled AS (
    DELETE FROM labels USING (
        SELECT label.key AS name, label.value, workflows.create_time, workflows.key
        FROM workflows CROSS JOIN LATERAL json_each_text(workflows.labels::json) AS label
        WHERE workflows.key = ANY ($1::bigint[])
    ) AS given
    WHERE labels.name = given.name AND labels.value = given.value
        AND labels.create_time = given.create_time AND labels.key = given.key
), emptied AS (
    DELETE FROM inbox WHERE key = ANY ($1::bigint[])
), silenced AS (
    DELETE FROM heartbeats WHERE key = ANY ($1::bigint[])
), cleared AS (
    DELETE FROM suspects WHERE key = ANY ($1::bigint[])
), noted AS (
    INSERT INTO purged (key) SELECT unnest($1::bigint[])
)
DELETE FROM workflows WHERE key = ANY ($1::bigint[])

-- name: purged
-- Lock and return the keys of some purged workflows that left something. Each replica takes others.
SELECT key FROM purged WHERE key > 0 ORDER BY key LIMIT $1 FOR UPDATE SKIP LOCKED

-- name: reclaim_events
-- Delete a portion of the events of purged workflows, within both limits but at least one. The inner query reads only
-- lengths.
DELETE FROM events USING (
    SELECT key, sequence, size, sum(size) OVER (ORDER BY key, sequence) AS together FROM (
        SELECT key, sequence, octet_length(bytes) AS size FROM events
        WHERE key = ANY ($1::bigint[]) ORDER BY key, sequence LIMIT $2
    ) AS lengths
) AS sized
WHERE events.key = sized.key AND events.sequence = sized.sequence AND sized.together - sized.size < $3

-- name: reclaim_requests
-- Delete a portion of the request ids of purged workflows.
DELETE FROM signal_requests USING (
    SELECT key, request_id FROM signal_requests
    WHERE key = ANY ($1::bigint[]) ORDER BY key, request_id LIMIT $2
) AS given
WHERE signal_requests.key = given.key AND signal_requests.request_id = given.request_id

-- name: reclaim_alerts
-- Delete a portion of the alerts of purged workflows.
DELETE FROM alerts USING (SELECT id FROM alerts WHERE key = ANY ($1::bigint[]) LIMIT $2) AS given
WHERE alerts.id = given.id

-- name: reclaim_unfit
-- Forget which builds cannot continue purged workflows.
DELETE FROM unfit WHERE key = ANY ($1::bigint[])

-- name: drop_purged
-- Forget the purged workflows that have nothing left.
DELETE FROM purged WHERE key = ANY ($1::bigint[])
    AND NOT EXISTS (SELECT 1 FROM events WHERE events.key = purged.key)
    AND NOT EXISTS (SELECT 1 FROM signal_requests WHERE signal_requests.key = purged.key)
    AND NOT EXISTS (SELECT 1 FROM alerts WHERE alerts.key = purged.key)
