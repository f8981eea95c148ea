"""`mendflow migrate`: everything of a store moves from SQLite to PostgreSQL, or nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from mendflow.v1 import failure_pb2, workflow_pb2
from mendflow_server.cli.migrate_progress import PhaseMeter
from mendflow_server.store.moving.tables import COMPUTED, NOT_MOVED, NUMBERED, TABLES
from mendflow_server.store.records import Alert, Filter, Life
from tests.store.builders import commit as commit_changes
from tests.store.builders import follow, send, start
from tests.store.builders import signal as message
from tests.support.command_process import COMMAND, SECONDS, environment
from tests.support.moving import (
    begin,
    fetch,
    fill_up,
    is_untouched,
    migrate,
    prepare,
    rows_of,
    url_of,
    with_store,
)
from tests.support.servers import serving_process, until
from tests.support.terminal import run_on_terminal
from tests.support.workflow_states import in_state

if TYPE_CHECKING:
    from mendflow.v1 import event_pb2
    from mendflow_server.store.interface import Store
    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof


def files_beside(source: Path) -> dict[str, bytes]:
    """Return the files of a store, without its lock file."""
    found = [path for path in source.parent.iterdir() if path.name.startswith(source.name) and path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in found}


async def read_all(store: Store) -> dict[str, Any]:
    """Return everything that the store returns."""
    found: dict[str, Any] = {}
    page = await store.list_workflows(Filter(), limit=100, after=None)
    for row in page.rows:
        found[row.workflow_id] = (
            dataclasses.asdict(row),
            await store.load([row.key]),
            await store.read_inbox(row.key),
            await store.read_events(row.key, 0, limit=100, max_bytes=10**6),
        )
    found["labelled"] = await store.list_workflows(Filter(labels=(("Ä", "文"),)), limit=9, after=None)
    found["ended"] = await store.first_ended()
    found["beat"] = await store.last_beat()
    return found


def test_every_table_moves_as_it_is(source: Path, postgres: Postgres, schema: str) -> None:
    before = rows_of(source)
    assert all(before.values()), "each table has a row"
    files = files_beside(source)
    done = migrate(url_of(source), postgres.url(schema), "--json")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said == {
        "source": str(source),
        "target": postgres.url(schema),
        "workflows": 3,
        "openWorkflows": 2,
        "rows": sum(map(len, before.values())),
    }
    assert files_beside(source) == files
    expected = with_store(url_of(source), read_all)
    moved = with_store(postgres.url(schema), read_all)
    odd = expected["open-ü"][0]["explanation"]
    assert "\0" in odd
    # PostgreSQL's texts have no NUL.
    without = odd.replace("\0", "\N{SYMBOL FOR NULL}")
    expected["open-ü"][0]["explanation"] = without
    for each in (*expected["open-ü"][1], *expected["labelled"].rows):
        row = getattr(each, "row", each)
        row.explanation = without
    assert moved == expected
    for name, rows in before.items():
        assert fetch(postgres, f"SELECT count(*) FROM {schema}.{name}") == [(len(rows),)], name
    suspects = fetch(postgres, f"SELECT key, step_key, crashes, alone, held::int, replica_id FROM {schema}.suspects")
    assert sorted(suspects) == sorted((*row, "host-2") for row in before["suspects"])
    sizes = fetch(postgres, f"SELECT workflow_id, inbox_size FROM {schema}.workflows ORDER BY key")
    assert sizes == [("order-1", 0), ("open-ü", 3), ("paused", 0)]


def test_numbers_are_not_used_again(source: Path, postgres: Postgres, schema: str) -> None:
    # The greatest numbers are those of rows that are gone.
    with contextlib.closing(sqlite3.connect(source)) as connection:
        connection.execute("UPDATE sqlite_sequence SET seq = 5000 WHERE name = 'purged'")
        connection.execute("UPDATE sqlite_sequence SET seq = 70 WHERE name = 'inbox'")
        connection.commit()
    assert migrate(url_of(source), postgres.url(schema)).returncode == 0

    async def work(store: Store) -> tuple[int, int, int]:
        row = await start(store, "new")
        await send(store, message("open-ü", "r4"), message("new", "r1"))
        (sent,) = await store.read_inbox(row.key)
        await store.begin_life(Life("host-3", 6_000, 6_000, drained=False))
        await commit_changes(store, follow(row, b"x", alerts=(Alert(6, "late", 1, "x"),)))
        old = await store.find(["open-ü"])
        return row.key, sent.id, len(await store.read_inbox(old["open-ü"].key))

    assert with_store(postgres.url(schema), work) == (5001, 72, 4)
    assert fetch(postgres, f"SELECT max(id), count(*) FROM {schema}.alerts") == [(5, 5)]
    assert fetch(postgres, f"SELECT replica_id FROM {schema}.replicas ORDER BY id") == [
        ("host-1",), ("host-2",), ("host-3",),
    ]  # fmt: skip


def test_no_table_or_column_is_left_out(tmp_path: Path, postgres: Postgres, schema: str) -> None:
    async def nothing(_: Store) -> None:
        pass

    with_store(url_of(tmp_path / "mendflow.db"), nothing)
    with_store(postgres.url(schema), nothing)
    with contextlib.closing(sqlite3.connect(tmp_path / "mendflow.db")) as connection:
        query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        names = [name for (name,) in connection.execute(query)]
        assert sorted(names) == sorted(TABLES)
        columns = {
            (table, column)
            for table in names
            for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))
        }
    there = fetch(
        postgres,
        "SELECT table_name, column_name, column_default IS NOT NULL OR is_nullable = 'YES' "
        f"FROM information_schema.columns WHERE table_schema = '{schema}'"
        # The one has the migrations, the other what builds of replicas have noted. A file has neither.
        " AND table_name NOT IN ('store_schema', 'unfit')",
    )
    moved = (columns - NOT_MOVED) | {(table, name) for table, names in COMPUTED.items() for name in names}
    assert moved <= {(table, column) for table, column, _ in there}
    assert {(table, column) for table, column, optional in there if not optional} <= moved
    numbered = fetch(
        postgres,
        f"SELECT table_name FROM information_schema.columns WHERE table_schema = '{schema}' AND is_identity = 'YES'",
    )
    assert {name for (name,) in numbered} | {"workflows"} == set(NUMBERED)


async def history(client: Client, workflow_id: str) -> list[event_pb2.Event]:
    return [event async for event in client.handle(workflow_id).events()]


async def test_open_workflows_of_a_killed_server_continue(tmp_path: Path, postgres: Postgres, schema: str) -> None:
    flag = tmp_path / "flag"
    before: dict[str, list[event_pb2.Event]] = {}
    with serving_process(tmp_path, url=url_of(tmp_path / "mendflow.db")) as server:
        async with Client(server.grpc_address) as client:
            for number in range(20):
                await client.run("three", f"x{number}", id=f"done-{number}")
            await client.start("wait_for", "someone", id="waits")
            await client.start("sleeper", 2.0, id="sleeps")
            await client.start("paused", str(flag), id="paused")
            await client.start("holds", 1.0, id="runs")
            await client.start("retried_late", "later", id="backs-off")
            await in_state(client, "paused", workflow_pb2.WORKFLOW_STATE_PAUSED)
            await in_state(client, "waits", workflow_pb2.WORKFLOW_STATE_WAITING)
            await in_state(client, "backs-off", workflow_pb2.WORKFLOW_STATE_WAITING)
            await client.signal("waits", "unasked", 1, allow_undeclared=True)
            assert await until(lambda: any(line.startswith("hold ") for line in server.journal))
            names = [each.workflow_id async for each in client.list()]
            before = {name: await history(client, name) for name in names}
            server.kill()
    files = files_beside(server.store)
    done = await asyncio.to_thread(migrate, url_of(server.store), postgres.url(schema))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith(f"{postgres.url(schema)}: 25 workflows, 5 of them open; ")
    assert second.startswith(f"Serve this store from now on. Do not serve {server.store} again")
    assert files_beside(server.store) == files
    flag.touch()
    with serving_process(tmp_path, url=postgres.url(schema)) as server:
        async with Client(server.grpc_address) as client:
            for name, events in before.items():
                assert (await history(client, name))[: len(events)] == events, name
            assert await client.handle("sleeps").result() == "awake"
            assert await client.handle("runs").result() == "held"
            kinds = [each.attempt_failed.failure.kind for each in await history(client, "runs")]
            assert kinds.count(failure_pb2.FAILURE_KIND_LOST) == 1, "the attempt in flight was lost, and retried"
            await client.resume("paused")
            assert await client.handle("paused").result() == "helped"
            await client.signal("waits", "go", "now")
            assert await client.handle("waits").result() == "someone: now"
            assert [each.WhichOneof("detail") for each in await history(client, "waits")].count("signal_received") == 2
            assert (await client.get("backs-off")).state == workflow_pb2.WORKFLOW_STATE_WAITING
            assert await client.run("three", "x", id="new") == "x-1-2-3"


async def ended(postgres: Postgres, process: int) -> None:
    """Wait until the database has noticed the end of a process."""
    query = f"SELECT 1 FROM pg_stat_activity WHERE application_name LIKE 'mendflow % {process}'"
    async with asyncio.timeout(SECONDS):
        while await postgres.fetch(query):
            await asyncio.sleep(0.02)


def test_a_move_that_is_killed_leaves_everything_or_nothing_and_can_be_repeated(
    source: Path, postgres: Postgres
) -> None:
    fill_up(source, workflows=4_000, events=10, size=200)
    dice = random.Random(15)
    # Two kills in each phase, and two that may come too late.
    phases = ["checking", "copying", "comparing"] * 2 + ["comparing"] * 2
    schema = postgres.schema()
    left_nothing = 0
    for number, phase in enumerate(phases):
        with begin(source, postgres.url(schema)) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(phase):
                    break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0, 0.1 if number < 6 else 0.5))
            process.kill()
        asyncio.run(ended(postgres, process.pid))
        if is_untouched(postgres, schema):
            left_nothing += 1
        else:
            assert fetch(postgres, f"SELECT count(*) FROM {schema}.workflows") == [(4_003,)]
            schema = postgres.schema()
    assert left_nothing >= 3
    done = migrate(url_of(source), postgres.url(schema))
    assert done.returncode == 0, done.stderr
    assert "4003 workflows" in done.stdout
    again = migrate(url_of(source), postgres.url(schema))
    assert (again.returncode, again.stdout) == (2, "")
    assert "is not empty: there are rows in workflows, events, labels" in again.stderr
    assert fetch(postgres, f"SELECT count(*) FROM {schema}.workflows") == [(4_003,)]


def test_ctrl_c_leaves_nothing(source: Path, postgres: Postgres, schema: str) -> None:
    fill_up(source, workflows=4_000, events=10, size=200)
    for phase in ("checking", "copying", "comparing"):
        with begin(source, postgres.url(schema)) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith(phase):
                    break
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=SECONDS)
        assert (process.returncode, output) == (130, ""), errors
        assert errors.endswith("error: interrupted; nothing was moved\n")
        assert "Traceback" not in errors
        assert is_untouched(postgres, schema)


def test_ctrl_c_during_the_commit_waits_for_its_outcome(source: Path, postgres: Postgres, schema: str) -> None:
    trigger = "CONSTRAINT TRIGGER acts AFTER INSERT ON purged DEFERRABLE INITIALLY DEFERRED"
    prepare(postgres, schema, trigger, "PERFORM pg_sleep(1)")
    with begin(source, postgres.url(schema)) as process:
        commits = "SELECT 1 FROM pg_stat_activity WHERE query = 'COMMIT' AND state = 'active'"
        while process.poll() is None and not fetch(postgres, commits):
            pass
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert "3 workflows, 2 of them open" in output
    assert fetch(postgres, f"SELECT count(*) FROM {schema}.workflows") == [(3,)]


def test_a_large_value_moves(source: Path, postgres: Postgres, schema: str) -> None:
    fill_up(source, workflows=1, events=2, size=20_000_000)
    done = migrate(url_of(source), postgres.url(schema))
    assert done.returncode == 0, done.stderr
    assert fetch(postgres, f"SELECT max(octet_length(bytes)) FROM {schema}.events") == [(20_000_000,)]


def test_memory_is_bounded(full: Path, tmp_path: Path, postgres: Postgres) -> None:
    program = (
        "import resource, sys; from mendflow.cli import main\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )

    def peak(workflows: int) -> int:
        path = Path(shutil.copy(full, tmp_path / "mendflow.db"))
        fill_up(path, workflows=workflows, events=50, size=40_000)
        arguments = ["migrate", url_of(path), postgres.url(postgres.schema())]
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], env=environment(), capture_output=True, text=True, check=True
        )
        return int(done.stderr.splitlines()[-1])

    # In KiB: 100 MB more in the file.
    assert peak(60) - peak(10) < 25_000


def test_the_crash_marker_moves_with_the_life_that_crashed(source: Path, postgres: Postgres, schema: str) -> None:
    from mendflow_server.store.postgres.marker import CrashMarkers  # noqa: PLC0415

    marker = struct.pack("=5q", 4, 0, 0, 4, 1)
    source.with_name("mendflow.db.note").write_bytes(marker)
    life = Life(f"{os.uname().nodename[:40]}-1", 9_000, 9_000, drained=False)

    async def begin_life(store: Store) -> None:
        await store.begin_life(life)

    with_store(url_of(source), begin_life)
    source.with_name("mendflow.db.note").write_bytes(marker)
    assert migrate(url_of(source), postgres.url(schema)).returncode == 0
    ((number, ended),) = fetch(postgres, f"SELECT id, ended FROM {schema}.replicas ORDER BY id DESC LIMIT 1")
    assert not ended
    markers = CrashMarkers(postgres.url(schema))
    markers.open({number})
    path = markers.left_by(number, life.replica_id)
    assert path is not None
    assert path.read_bytes() == marker
    path.unlink()


def test_progress_is_plain_in_a_pipe(source: Path, postgres: Postgres, schema: str) -> None:
    done = migrate(url_of(source), postgres.url(schema))
    rows = sum(map(len, rows_of(source).values()))
    shown = re.fullmatch(r"checking\ncopying about (\d+) rows\ncomparing about (\d+) rows\n", done.stderr)
    assert shown is not None, done.stderr
    # The events that purged workflows left are not counted ahead.
    assert 0 <= rows - int(shown[1]) < 10


def test_progress_has_a_line_every_ten_seconds_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    times = iter([0.0, 0.0, 5.0, 10.0, 10.0, 12.0])
    with PhaseMeter(clock=lambda: next(times)) as meter:
        meter.begin("copying", 90)
        for _ in range(3):
            meter.advance(20)
    assert capsys.readouterr().err == "copying about 90 rows\ncopying: 40 of about 90 rows\n"


def test_a_terminal_gets_a_bar(source: Path, postgres: Postgres, schema: str) -> None:
    fill_up(source, workflows=2_000, events=10, size=200)
    code, text = run_on_terminal([*COMMAND, "migrate", url_of(source), postgres.url(schema)], environment(), 120)
    assert code == 0, text
    assert re.search(r"copying.*\d+/\d+", text)
    assert "about" not in text
    assert "2003 workflows, 2 of them open" in text
