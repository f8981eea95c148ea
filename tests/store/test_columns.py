"""A row's columns: the schema, `Row` and the statements have the same ones."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from mendflow_server.store.columns import (
    COLUMNS,
    GUARDED_COLUMNS,
    UPDATED_COLUMNS,
    row_of,
    to_insert,
    to_update,
)
from mendflow_server.store.records import Guard, Row
from mendflow_server.store.sqlite.migrate import migrations
from mendflow_server.store.sqlite.queries import QUERIES

#: Each field has a value of its own.
VALUES: list[Any] = [*COLUMNS[:-2], {"a": "b"}, True]
ROW = Row(*VALUES)


def test_columns_are_the_schema_in_its_order() -> None:
    connection = sqlite3.connect(":memory:")
    for script in migrations():
        connection.executescript(script)
    described = connection.execute("PRAGMA table_info(workflows)").fetchall()
    assert tuple(name for _, name, *_ in described) == COLUMNS


def test_inserted_values_are_in_the_order_of_the_columns() -> None:
    values = to_insert(ROW, 7, ROW.explanation)
    assert values[0] == 7
    assert values[1:-1] == COLUMNS[1:-2]
    assert json.loads(str(values[-1])) == ROW.labels


def test_updated_values_are_in_the_order_of_their_columns() -> None:
    values = to_update(ROW, Guard(3, 4), ROW.explanation)
    assert values == (*UPDATED_COLUMNS, "key", 3, 4)
    assert GUARDED_COLUMNS == ("key", "generation", "last_sequence")


def test_columns_become_the_same_row() -> None:
    assert row_of([*COLUMNS[:-2], json.dumps(ROW.labels), 1]) == ROW


def test_statements_have_no_placeholder_but_those_of_their_callers() -> None:
    assert not [name for name, query in QUERIES.items() if any(each in query for each in ("{c", "{a", "{g"))]


def test_an_advanced_row_differs_in_what_is_given() -> None:
    given = ("state", "reason", "explanation", "last_sequence", "wake_time", "end_time", "untaken_signals")
    new: list[Any] = [f"new {name}" for name in given]
    advanced = ROW.advanced(*new)
    assert {name: getattr(advanced, name) for name in given} == dict(zip(given, new, strict=True))
    assert all(getattr(advanced, name) == getattr(ROW, name) for name in COLUMNS if name not in given)
