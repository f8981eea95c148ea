"""The query plans prove that no query's cost grows with the number of finished workflows."""

from __future__ import annotations

import re
import sqlite3
from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

from mendflow_server.store.columns import GUARDED_COLUMNS, INSERTED_COLUMNS, UPDATED_COLUMNS
from mendflow_server.store.records import Filter
from mendflow_server.store.sqlite import SqliteStore
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

#: Tables with only a few rows in every case: lives and suspects. A backup counts all workflows, in its copy.
SMALL = {"newest_life", "last_beat", "drop_old_lives", "suspects", "drop_suspects", "count_all"}
SMALL |= {"last_life", "count_rows", "next_numbers", "torn_histories"}

#: The number of values in a row.
WIDTHS = {
    "insert_workflow": len(INSERTED_COLUMNS), "update_workflow": len(UPDATED_COLUMNS) + len(GUARDED_COLUMNS),
    "insert_event": 3, "insert_label": 4,
    "consume_message": 2, "write_heartbeat": 4, "drop_heartbeats": 1, "insert_alert": 5, "insert_message": 5,
    "insert_request": 2, "insert_suspect": 5,
}  # fmt: skip

SEEN = {
    "time": "workflows_by_time (create_time>? AND ",
    "type": "workflows_by_type (workflow_type=? AND create_time>? AND ",
    "state": "workflows_by_state (state=? AND create_time>? AND ",
    "label": "PRIMARY KEY (name=? AND value=? AND create_time>? AND ",
}


@pytest.fixture
async def connection(tmp_path: Path) -> AsyncIterator[sqlite3.Connection]:
    path = tmp_path / "mendflow.db"
    store = SqliteStore(path)
    await store.open()
    await store.list_workflows(Filter(), limit=1, after=None)
    await store.close()
    connection = sqlite3.connect(path)
    yield connection
    connection.close()


def statement(name: str) -> str:
    """Return a statement for three rows."""
    one = f"({', '.join('?' * WIDTHS.get(name, 0))})"
    return QUERIES[name].replace("{values}", ", ".join([one] * 3))


def plan(connection: sqlite3.Connection, query: str) -> list[str]:
    values: object = defaultdict(int) if re.search(r":[a-z]", query) else (0,) * query.count("?")
    steps = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + query, values)]  # type: ignore[arg-type]  # either kind of values
    # Not a Mendflow table: a list of keys or labels, a subquery that is checked separately, a single row, one row for
    # each table with AUTOINCREMENT.
    return [
        step
        for step in steps
        if not re.match(
            r"SCAN (CONSTANT|json_each|wanted|label|types|sqlite_sequence|seen|sized|consumed|\(subquery|\d+ CONST)",
            step,
        )
    ]


@pytest.mark.parametrize("name", sorted(set(QUERIES) - SMALL - {name for name in QUERIES if "{s" in QUERIES[name]}))
def test_no_statement_reads_a_whole_table(connection: sqlite3.Connection, name: str) -> None:
    steps = plan(connection, statement(name))
    assert not [step for step in steps if step.startswith("SCAN")], steps


@pytest.mark.parametrize("kind", sorted(SEEN))
@pytest.mark.parametrize("name", ["list_page", "list_last_seen"])
def test_lists_walk_an_index_and_never_sort(connection: sqlite3.Connection, name: str, kind: str) -> None:
    seen = QUERIES[f"seen_by_{kind}"]
    for query in {seen, " UNION ALL ".join([seen] * 3)} if kind == "state" else {seen}:
        steps = plan(connection, QUERIES[name].replace("{seen}", query.replace("{state}", ":state")))
        assert any(SEEN[kind] in step for step in steps), steps
        assert not [step for step in steps if step.startswith("SCAN") or "B-TREE" in step], steps


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("due", "INDEX workflows_due (wake_time>? AND wake_time<?)"),
        ("due", "COVERING INDEX workflows_due"),
        ("in_progress", "INDEX workflows_in_progress (key>?)"),
        ("in_progress", "INDEX inbox_by_workflow (key>?)"),
        ("stopped_for", "INDEX workflows_stopped (reason=? AND key>?)"),
        ("read_events", "events USING PRIMARY KEY (key=? AND sequence>?)"),
        ("load_events", "events USING PRIMARY KEY (key=?)"),
        ("load_events", "events USING PRIMARY KEY (key=? AND sequence=?)"),
        ("load_inbox", "inbox USING INDEX inbox_by_workflow (key=?)"),
        ("read_inbox", "inbox USING INDEX inbox_by_workflow (key=?)"),
        ("read_inbox", "workflows USING INTEGER PRIMARY KEY (rowid=?)"),
        ("load_rows", "workflows USING INTEGER PRIMARY KEY (rowid=?)"),
        ("heads", "workflows USING INTEGER PRIMARY KEY (rowid=?)"),
        ("find", "(workflow_id=?)"),
        ("update_workflow", "workflows USING INTEGER PRIMARY KEY (rowid=?)"),
        ("update_workflow", "inbox USING COVERING INDEX inbox_by_workflow (key=?)"),
        ("consume_message", "held USING INTEGER PRIMARY KEY (rowid=?)"),
        ("expired", "INDEX workflows_ended (workflow_type=? AND end_time>? AND end_time<?)"),
        ("first_ended", "INDEX workflows_ended (workflow_type>?)"),
        ("first_ended", "INDEX workflows_ended (workflow_type=? AND end_time>?)"),
        ("purge_labels", "labels USING PRIMARY KEY (name=? AND value=? AND create_time=? AND key=?)"),
        ("reclaim_events", "events USING PRIMARY KEY (key=? AND sequence=?)"),
        ("requests_left", "signal_requests USING PRIMARY KEY (key=?)"),
        ("reclaim_requests", "signal_requests USING PRIMARY KEY (key=?)"),
        ("reclaim_some_requests", "signal_requests USING PRIMARY KEY (key=? AND request_id<?)"),
        ("reclaim_alerts", "alerts USING INTEGER PRIMARY KEY (rowid=?)"),
        ("reclaim_alerts", "alerts USING COVERING INDEX alerts_by_workflow (key=?)"),
        ("count_signals", "inbox USING COVERING INDEX inbox_by_workflow (key=? AND kind=?)"),
    ],
)
def test_a_statement_uses_its_index(connection: sqlite3.Connection, name: str, index: str) -> None:
    steps = plan(connection, statement(name))
    assert any(index in step for step in steps), steps


@pytest.mark.parametrize("name", ["due", "stopped_for", "expired", "purged"])
def test_a_page_is_read_in_order_without_sorting(connection: sqlite3.Connection, name: str) -> None:
    assert not [step for step in plan(connection, statement(name)) if "B-TREE" in step]
