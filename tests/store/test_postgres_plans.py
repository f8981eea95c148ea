"""The plans of PostgreSQL prove that no statement's cost grows with the number of finished workflows.

Each is the plan that the store's sessions use: the generic one of a prepared statement, with their settings.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from mendflow_server.store.factory import open_store
from mendflow_server.store.postgres.connection import SETTINGS
from mendflow_server.store.postgres.listing import seen_by
from mendflow_server.store.postgres.queries import QUERIES
from mendflow_server.store.postgres.replicas import CLAIMS
from mendflow_server.store.records import Filter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.support.postgres import Postgres

#: Tables with only a few rows in every case.
SMALL = {"replicas", "suspects"}
#: Indexes that a statement walks from one end, as far as its limit. What has an empty ledger is walked whole.
WALKED = {
    "first_ended": {"workflows_ended"},
    "orphaned": {"workflows_moving_of", "workflows_due_of"},
    "orphaned_stopped": {"workflows_stopped_of"},
    "waiting_messages": {"inbox_pkey"},
}
STATEMENTS = {
    name: query
    for name, query in {**QUERIES, **{f"claim_{name}": query for name, query in CLAIMS.items()}}.items()
    if "{" not in query and not name.startswith(("seen_by", "chosen_", "fits"))
}
LISTS = {
    "workflows_by_time": Filter(),
    "workflows_by_type": Filter(workflow_type="a"),
    "workflows_by_state": Filter(states=(2, 3, 7)),
    "labels_pkey": Filter(labels=(("a", "b"),)),
}


@pytest.fixture
async def connection(postgres: Postgres) -> AsyncIterator[Any]:
    url = postgres.url(await postgres.new_schema())
    store = open_store(url)
    await store.open()
    await store.close()
    connection = await asyncpg.connect(url, server_settings=dict(SETTINGS))
    yield connection
    await connection.close()


async def plan(connection: Any, query: str) -> list[dict[str, Any]]:
    """Return the nodes of a statement's generic plan."""
    await connection.execute(f"PREPARE examined AS {query}")
    number = max(map(int, re.findall(r"\$(\d+)", query)), default=0)
    values = f"({', '.join(['NULL'] * number)})" if number else ""
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE examined{values}")
    return list(nodes(json.loads(text)[0]["Plan"]))


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for each in node.get("Plans", ()):
        yield from nodes(each)


def indexes(found: list[dict[str, Any]]) -> set[str]:
    return {node["Index Name"] for node in found if "Index Name" in node}


@pytest.mark.parametrize("name", sorted(STATEMENTS))
async def test_no_statement_reads_a_whole_table_or_hashes_one(connection: Any, name: str) -> None:
    found = await plan(connection, STATEMENTS[name])
    scans = [node["Relation Name"] for node in found if node["Node Type"] == "Seq Scan"]
    assert set(scans) <= SMALL, found
    walked = [node for node in found if node["Node Type"].startswith("Index") and "Index Cond" not in node]
    assert {node["Index Name"] for node in walked} <= WALKED.get(name, set()) | {"replicas_pkey", "suspects_pkey"}, (
        walked
    )
    assert not [node for node in found if node["Node Type"] in {"Hash Join", "Merge Join", "Hash"}], found


@pytest.mark.parametrize("name", ["commit", "commit_beside"])
async def test_a_commit_finds_each_row_by_its_key(connection: Any, name: str) -> None:
    found = await plan(connection, QUERIES[name])
    assert "workflows_pkey" in indexes(found)
    # The events of accepted changes are chosen by a hash table of keys, and not by a join.
    filters = [str(node.get("Filter", "")) for node in found if node["Node Type"] == "Function Scan"]
    assert len([each for each in filters if "hashed SubPlan" in each or "hashed any" in each.lower()]) >= 2, filters


@pytest.mark.parametrize("index", LISTS)
@pytest.mark.parametrize("name", ["list_page", "list_last_seen"])
async def test_lists_walk_an_index_and_never_sort_what_they_examine(connection: Any, name: str, index: str) -> None:
    found = await plan(connection, QUERIES[name].replace("{seen}", seen_by(LISTS[index])))
    assert index in indexes(found)
    kinds = [node["Node Type"] for node in found]
    assert "Seq Scan" not in kinds
    assert not {"Sort", "Incremental Sort"} & set(kinds), kinds


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("due", "workflows_due_of"),
        ("in_progress", "workflows_moving_of"),
        ("in_progress", "inbox_by_workflow"),
        ("stopped_for", "workflows_stopped_of"),
        ("orphaned", "workflows_moving_of"),
        ("orphaned", "workflows_due_of"),
        ("orphaned_stopped", "workflows_stopped_of"),
        ("claim_moving", "workflows_moving_of"),
        ("moving", "workflows_moving_of"),
        ("claim_due", "workflows_due_of"),
        ("claim_stopped", "workflows_stopped_of"),
        ("claim_keys", "workflows_pkey"),
        ("expired", "workflows_ended"),
        ("first_ended", "workflows_ended"),
        ("read_events", "events_pkey"),
        ("load_events", "events_pkey"),
        ("find", "workflows_workflow_id_key"),
        ("receivers", "workflows_workflow_id_key"),
        ("requests_seen", "signal_requests_pkey"),
        ("count_signals", "inbox_by_workflow"),
        ("detach", "labels_pkey"),
        ("reclaim_alerts", "alerts_by_workflow"),
    ],
)
async def test_a_statement_uses_its_index(connection: Any, name: str, index: str) -> None:
    assert index in indexes(await plan(connection, STATEMENTS[name]))


@pytest.mark.parametrize("name", ["due", "stopped_for", "expired", "purged"])
async def test_a_page_is_read_in_order_without_sorting(connection: Any, name: str) -> None:
    assert "Sort" not in [node["Node Type"] for node in await plan(connection, QUERIES[name])]
