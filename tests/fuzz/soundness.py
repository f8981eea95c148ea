"""Whether a store that a server has left is sound: every row is what its history says."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from mendflow.v1 import event_pb2
from mendflow_server.history import FINAL_DETAILS, FINAL_STATES, History

if TYPE_CHECKING:
    from pathlib import Path


def faults_of_store(path: Path) -> list[str]:
    """Answer what is wrong with the store of a server that has stopped."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        wrong = [] if connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)] else ["the file is damaged"]
        rows = connection.execute("SELECT key, workflow_id, state, last_sequence FROM workflows").fetchall()
        for key, workflow_id, state, last_sequence in rows:
            found = connection.execute("SELECT sequence, bytes FROM events WHERE key = ? ORDER BY sequence", (key,))
            wrong += [f"{workflow_id}: {each}" for each in _faults_of_history(state, last_sequence, found.fetchall())]
        (orphans,) = connection.execute(
            "SELECT count(*) FROM events WHERE key NOT IN (SELECT key FROM workflows)"
        ).fetchone()
        return wrong + ([f"{orphans} events of no workflow"] if orphans else [])
    finally:
        connection.close()


def _faults_of_history(state: int, last_sequence: int, found: list[tuple[int, bytes]]) -> list[str]:
    wrong = []
    history = History()
    for place, (sequence, data) in enumerate(found, start=1):
        event = event_pb2.Event.FromString(data)
        if not place == sequence == event.sequence:
            wrong.append(f"event {event.sequence} is stored as {sequence}, at place {place}")
        if history.final is not None:
            wrong.append(f"event {sequence} follows the final event")
        history.apply(event)
    if history.last_sequence != last_sequence or not found:
        wrong.append(f"the row says {last_sequence} events, the history has {len(found)}")
    if history.started is None:
        wrong.append("the history has no beginning")
    final = FINAL_DETAILS.get(history.final.WhichOneof("detail") or "") if history.final is not None else None
    if final != (state if state in FINAL_STATES else None):
        wrong.append(f"the row's state is {state}, the final event's {final}")
    if history.final is not None and history.open_attempts():
        wrong.append(f"attempts are open: {[record.key for record in history.open_attempts()]}")
    return wrong
