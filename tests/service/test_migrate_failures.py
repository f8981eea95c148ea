"""`mendflow migrate` that must not move anything: stores that cannot be used, damage, and a database that fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sqlite3
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import as_text, run_command
from tests.support.command_process import COMMAND, SECONDS, environment
from tests.support.moving import (
    begin,
    fetch,
    fill_up,
    is_empty,
    is_untouched,
    migrate,
    prepare,
    url_of,
)
from tests.support.servers import serving_process

if TYPE_CHECKING:
    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof


def test_a_database_that_changes_a_value_is_found(source: Path, postgres: Postgres, schema: str) -> None:
    action = "IF NEW.bytes = 'last' THEN NEW.bytes = '\\x00'; END IF"
    prepare(postgres, schema, "TRIGGER acts BEFORE INSERT ON events", action)
    done = migrate(url_of(source), postgres.url(schema))
    assert (done.returncode, done.stdout) == (1, "")
    assert "returned a row of events (key 4, sequence 5) that is not as it was written" in done.stderr
    assert is_empty(postgres, schema)


def test_a_row_too_many_is_found(source: Path, postgres: Postgres, schema: str) -> None:
    action = f"IF NEW.key = 2 THEN INSERT INTO {schema}.purged VALUES (99); END IF"
    prepare(postgres, schema, "TRIGGER acts BEFORE INSERT ON purged", action)
    done = migrate(url_of(source), postgres.url(schema))
    assert (done.returncode, done.stdout) == (1, "")
    assert "returned a row of purged (key 99) that is not as it was written" in done.stderr
    assert is_empty(postgres, schema)


def test_a_missing_row_is_found(source: Path, postgres: Postgres, schema: str) -> None:
    prepare(postgres, schema, "TRIGGER acts BEFORE INSERT ON alerts", "IF NEW.id = 2 THEN RETURN NULL; END IF")
    done = migrate(url_of(source), postgres.url(schema))
    assert (done.returncode, done.stdout) == (1, "")
    assert "returned a row of alerts (id 2) that is not as it was written" in done.stderr
    assert is_empty(postgres, schema)


@pytest.mark.parametrize(
    ("trigger", "says"),
    [
        ("TRIGGER acts BEFORE INSERT ON suspects", "check that PostgreSQL runs"),
        (
            "CONSTRAINT TRIGGER acts AFTER INSERT ON suspects DEFERRABLE INITIALLY DEFERRED",
            "commit outcome unknown: .*; run the command again: it moves the store, or says that the schema",
        ),
    ],
    ids=["during the copy", "at the commit"],
)
def test_a_lost_connection_is_an_error_and_the_move_can_be_repeated(
    source: Path, postgres: Postgres, schema: str, trigger: str, says: str
) -> None:
    prepare(postgres, schema, trigger, "PERFORM pg_terminate_backend(pg_backend_pid())")
    done = migrate(url_of(source), postgres.url(schema))
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(says, done.stderr), done.stderr
    assert is_empty(postgres, schema)
    asyncio.run(postgres.execute(f"DROP TRIGGER acts ON {schema}.suspects"))
    assert migrate(url_of(source), postgres.url(schema)).returncode == 0


@pytest.mark.parametrize(
    ("change", "table"),
    [
        ("UPDATE heartbeats SET attempt = 1099511627776", "heartbeats"),
        ("UPDATE workflows SET trace_id = 'a' || char(0) WHERE key = 4", "workflows"),
        (
            # Two that are one where NUL is replaced.
            "INSERT INTO suspects VALUES (9, 'a' || char(0), 1, 1, 1), (9, 'a' || char(9216), 1, 1, 1)",
            "suspects",
        ),
    ],
    ids=["a number", "a text", "a key"],
)
def test_a_value_that_postgresql_does_not_take_is_an_error(
    source: Path, postgres: Postgres, schema: str, change: str, table: str
) -> None:
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.executescript(change)
    done = migrate(url_of(source), postgres.url(schema))
    assert (done.returncode, done.stdout) == (1, ""), done
    assert f"does not take a row of {table}: " in done.stderr
    assert "Traceback" not in done.stderr
    assert is_untouched(postgres, schema)


def test_a_damaged_file_is_not_moved(source: Path, postgres: Postgres, schema: str) -> None:
    whole = source.read_bytes()
    for statement, says in (
        ("DELETE FROM events WHERE key = 4 AND sequence = 2", "the history of workflow 'open-ü' has 4 of its 5 events"),
        ("UPDATE workflows SET workflow_id = CAST(x'c3' AS TEXT) WHERE key = 4", "Could not decode to UTF-8"),
    ):
        source.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(source)) as connection:
            connection.execute(statement)
            connection.commit()
        done = migrate(url_of(source), postgres.url(schema))
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        assert says in done.stderr
        assert is_untouched(postgres, schema)
    source.write_bytes(whole)
    fill_up(source, workflows=200, events=5, size=500)
    with source.open("r+b") as file:
        file.seek(source.stat().st_size // 2)
        file.write(b"\xff" * 8_192)
    done = migrate(url_of(source), postgres.url(schema))
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "damage" in done.stderr
    assert "Traceback" not in done.stderr
    assert is_untouched(postgres, schema)


def test_a_store_that_cannot_be_moved_is_refused(source: Path, tmp_path: Path, postgres: Postgres, schema: str) -> None:
    here, there = url_of(source), postgres.url(schema)
    (tmp_path / "text.db").write_bytes(b"no database" * 500)
    (tmp_path / "empty.db").touch()
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE orders (id)")
    os.link(source, tmp_path / "linked.db")
    refused = {
        (there, here): "in no other direction",
        (here, here): "to copy a store to its own kind, use `mendflow backup`",
        (there, there): "to copy a store to its own kind, use pg_dump and psql",
        (here, "mysql://host/db"): "unknown kind of store; use",
        ("mendflow.db", there): "unknown kind of store; use",
        (url_of(tmp_path / "missing.db"), there): "missing.db does not exist",
        (url_of(tmp_path), there): "is a directory",
        (url_of(tmp_path / "text.db"), there): "not a database",
        (url_of(tmp_path / "empty.db"), there): "is empty, because no server has used it yet",
        (url_of(tmp_path / "other.db"), there): "is another program's database",
        (url_of(tmp_path / "linked.db"), there): "has 2 names (hard links)",
    }
    for (source_url, target_url), says in refused.items():
        done = migrate(source_url, target_url)
        assert (done.returncode, done.stdout) == (2, ""), (source_url, target_url, done)
        assert says in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "missing.db").exists()
    (tmp_path / "linked.db").unlink()
    done = migrate(here, postgres.url("no_such_schema"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "no schema of the search_path exists; create it" in done.stderr
    done = migrate(here, "postgresql://postgres:geheim@127.0.0.1:1/postgres")
    assert (done.returncode, done.stdout) == (1, "")
    assert "postgresql://postgres:***@127.0.0.1:1/postgres: no database answers there" in done.stderr
    assert is_untouched(postgres, schema)


def test_an_older_file_is_refused_until_a_server_has_migrated_it(
    tmp_path: Path, postgres: Postgres, schema: str
) -> None:
    from tests.store.test_purging import older_store  # noqa: PLC0415

    older_store(tmp_path / "mendflow.db")
    done = migrate(url_of(tmp_path / "mendflow.db"), postgres.url(schema))
    assert (done.returncode, done.stdout) == (2, "")
    assert "start this version's server on it once, stop it, and move the file then" in done.stderr


def test_a_store_in_use_is_refused_on_both_sides(source: Path, tmp_path: Path, postgres: Postgres, schema: str) -> None:
    served = tmp_path / "served"
    served.mkdir()
    with serving_process(served, url=url_of(served / "mendflow.db")) as server:
        done = migrate(url_of(server.store), postgres.url(schema))
        assert (done.returncode, done.stdout) == (2, "")
        assert server.process is not None
        assert f"is in use by another server (process {server.process.pid}); stop that server" in done.stderr
        assert is_untouched(postgres, schema)
    with serving_process(served, url=postgres.url(schema)) as server:
        done = migrate(url_of(source), postgres.url(schema))
        assert (done.returncode, done.stdout) == (2, "")
        assert "is in use by mendflow " in done.stderr
    # The server that was there has left its life, but no workflow.
    assert fetch(postgres, f"SELECT count(*) FROM {schema}.replicas") == [(1,)]
    done = migrate(url_of(source), postgres.url(schema))
    assert done.returncode == 0, done.stderr
    assert fetch(postgres, f"SELECT replica_id FROM {schema}.replicas ORDER BY id") == [("host-1",), ("host-2",)]


def test_no_server_can_use_either_side_during_a_move(source: Path, postgres: Postgres, schema: str) -> None:
    fill_up(source, workflows=4_000, events=10, size=200)
    with begin(source, postgres.url(schema)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("copying"):
                break
        process.send_signal(signal.SIGSTOP)
        try:
            for url in (url_of(source), postgres.url(schema)):
                done = as_text(run_command(["serve", "workflows", "--store", url], {}))
                assert done.returncode == 1, done
                assert "is in use by " in done.stderr
        finally:
            process.send_signal(signal.SIGCONT)
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0


def test_other_tables_of_a_shared_schema_are_left_alone(source: Path, postgres: Postgres, schema: str) -> None:
    asyncio.run(postgres.execute(f"CREATE TABLE {schema}.orders AS SELECT 1 AS id"))
    assert migrate(url_of(source), postgres.url(schema)).returncode == 0
    assert fetch(postgres, f"SELECT id FROM {schema}.orders") == [(1,)]


def test_a_full_disk_below_the_report_is_one_line_of_error_after_the_move(
    source: Path, postgres: Postgres, schema: str
) -> None:
    command = [*COMMAND, "migrate", url_of(source), postgres.url(schema)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=environment(), timeout=SECONDS
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert fetch(postgres, f"SELECT count(*) FROM {schema}.workflows") == [(3,)]
