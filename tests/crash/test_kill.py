"""SIGKILL in the middle of every kind of wait: everything continues, and nothing recorded runs again."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client
from mendflow.errors import WorkflowNotFound
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from tests.support.evidence import Pressure
from tests.support.promises import Death, Evidence, Reply, Watched, broken, copy_store, read_store
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

SUCCEEDED = workflow_pb2.WORKFLOW_STATE_SUCCEEDED


async def history(client: Client, workflow_id: str) -> list[event_pb2.Event]:
    return [event async for event in client.handle(workflow_id).events()]


def kinds(events: list[event_pb2.Event]) -> list[str]:
    return [event.WhichOneof("detail") or "" for event in events]


def die(server: ServerProcess, deaths: list[Death]) -> None:
    """Kill the server, and save what it left."""
    server.kill()
    copy = copy_store(server.store, server.directory / f"at-death-{len(deaths) + 1}")
    deaths.append(Death(read_store(copy), time=time.time()))


def assert_promises_kept(
    server: ServerProcess, deaths: list[Death], replies: Sequence[Reply] = (), watched: Sequence[Watched] = ()
) -> None:
    """Kill the server for the last time, and check what it left."""
    server.kill()
    assert not broken(Evidence(read_store(server.store), replies=list(replies), watched=list(watched), deaths=deaths))


async def until(events_of: Callable[[], Any], kind: str, client: Client, workflow_id: str) -> None:
    """Wait until the history shows an event of this kind."""
    async for event in client.handle(workflow_id).watch():
        if event.WhichOneof("detail") == kind:
            return
    pytest.fail(f"{workflow_id} ended without {kind}")


# Workflow, input, the event after which the server is killed, what to do after the restart, the events to expect.
WAITS = [
    ("holds", 0.6, "attempt_started", None, ["attempt_started", "attempt_failed", "workflow_recovered"]),
    ("holds_thread", 0.6, "attempt_started", None, ["attempt_failed", "workflow_recovered"]),
    ("sleeper", 1.0, "timer_started", None, ["timer_fired"]),
    ("wait_for", "name", "signal_awaited", "signal", ["signal_taken"]),
    ("retried", 2, "attempt_failed", None, ["attempt_succeeded"]),
    ("branches", [0.5, 0.1, 0.8], "attempt_succeeded", None, ["workflow_recovered"]),
    ("signal_or_timeout", 1.0, "signal_awaited", None, ["signal_timed_out"]),
    ("cleans_up", 30.0, "attempt_started", "cancel", ["workflow_cancelled"]),
]


@pytest.mark.parametrize(("name", "argument", "kill_after", "then", "expected"), WAITS, ids=[wait[0] for wait in WAITS])
async def test_a_kill_in_this_wait_loses_nothing(
    tmp_path: Path, name: str, argument: Any, kill_after: str, then: str | None, expected: list[str]
) -> None:
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address) as client:
            handle = await client.start(name, argument, id="subject")
            await until(lambda: None, kill_after, client, "subject")
            deaths: list[Death] = []
            die(server, deaths)
            before = len(server.journal)
            server.start()
            if then == "signal":
                await handle.signal("go", "now")
            elif then == "cancel":
                await handle.cancel("enough")
            ended = await handle.get(wait=20)
            events = await history(client, "subject")
        assert_promises_kept(server, deaths, [Reply("result", "subject", ended)])
    assert set(expected) <= set(kinds(events))
    final = workflow_pb2.WORKFLOW_STATE_CANCELLED if then == "cancel" else SUCCEEDED
    assert ended.state == final
    if name == "sleeper":
        assert before == 0
        assert len(server.journal) == 1


async def test_interrupted_attempt_runs_again_under_the_same_idempotency_key(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address) as client:
            await client.start("holds", 0.7, id="subject")
            await until(lambda: None, "attempt_started", client, "subject")
            while not server.journal:
                await asyncio.sleep(0.01)
            deaths: list[Death] = []
            die(server, deaths)
            server.start()
            assert await client.handle("subject").result() == "held"
            events = await history(client, "subject")
        assert_promises_kept(server, deaths)
    lines = [line.split() for line in server.journal]
    assert [line[2] for line in lines] == ["1", "2"], "executed twice, as attempts 1 and 2"
    assert len({line[3] for line in lines}) == 1, "under one idempotency key"
    lost = next(event for event in events if event.HasField("attempt_failed"))
    assert lost.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
    assert lost.attempt_failed.decision.reason == failure_pb2.RETRY_REASON_LOST
    assert "workflow_recovered" in kinds(events)


async def test_workflow_in_progress_continues_within_a_second_of_the_start(tmp_path: Path) -> None:
    pressure = Pressure()
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address) as client:
            await client.start("holds", 5.0, id="subject")
            await until(lambda: None, "attempt_started", client, "subject")
            server.kill()
            pressure.look()
            server.start()
            # Ready means recovered. The log has the time of the start, the history has the time of the next attempt.
            resumed_at = float("inf")
            async for event in client.handle("subject").watch():
                if event.HasField("attempt_started") and event.attempt_started.attempt == 2:
                    resumed_at = event.time.ToMicroseconds() / 1e6
                    break
    started = [line for line in server.log if line["event"] == "serving"][-1]
    pressure.look()
    # The server is not to blame for the time in which the machine made it wait.
    assert resumed_at - time_of(started) - pressure.between(time_of(started), resumed_at) < 1.0


def time_of(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


async def test_a_watch_across_the_restart_is_dense_and_complete(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address) as client:
            handle = await client.start("everything", "w", id="subject")
            watched = Watched("subject")
            seen = watched.events
            deaths: list[Death] = []

            async def watch() -> None:
                async for event in handle.watch():
                    seen.append(event)
                watched.ended = True

            watching = asyncio.create_task(watch())
            for kind in ("attempt_started", "timer_started", "signal_awaited"):
                while kind not in kinds(seen):
                    await asyncio.sleep(0.005)
                die(server, deaths)
                server.start()
            await handle.signal("go", "on", request_id="go-1")
            await asyncio.wait_for(watching, 20)
        assert_promises_kept(server, deaths, [Reply("signalled", "subject", "go-1")], [watched])
    assert seen[-1].HasField("workflow_succeeded")


async def test_many_workflows_in_progress_survive_a_kill(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address) as client:
            handles: list[Any] = await client.start_many("branches", [[0.2, 0.4]] * 100)
            deaths: list[Death] = []
            die(server, deaths)
            server.start()
            for handle in handles:
                assert await handle.result() == ["branch-0", "branch-1"]
        assert_promises_kept(server, deaths)


async def is_quarantined(client: Client, workflow_id: str) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(WorkflowNotFound):
                if (await client.get(workflow_id)).state == workflow_pb2.WORKFLOW_STATE_QUARANTINED:
                    return
            await asyncio.sleep(0.05)


async def test_after_two_kills_from_outside_only_what_had_a_thread_or_the_loop_waits_for_its_turn(
    tmp_path: Path,
) -> None:
    names = [f"waits-{number}" for number in range(3)]
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address) as client:
            for name in names:
                await client.start("holds", 3_600.0, id=name)
            await client.start("holds_thread", 3_600.0, id="executes")
            for attempt in (1, 2):
                while sum(line.split()[2] == str(attempt) for line in server.journal) < len(names) + 1:
                    await asyncio.sleep(0.01)
                server.kill()
                server.start()
            while len(server.journal) < 3 * len(names) + 2:
                await asyncio.sleep(0.01)
            lost: dict[str, list[int]] = {}
            for name in (*names, "executes"):
                events = await history(client, name)
                lost[name] = [each.attempt_failed.decision.reason for each in events if each.HasField("attempt_failed")]
    once, held = failure_pb2.RETRY_REASON_LOST, failure_pb2.RETRY_REASON_SUSPECTED
    assert lost == {**{name: [once, once] for name in names}, "executes": [once, held]}


async def test_a_poison_workflow_is_quarantined_and_the_rest_lives_on(tmp_path: Path) -> None:
    with serving_process(tmp_path) as server:
        async with Client(server.grpc_address, retry_for=60) as client:
            # Nothing of it runs at a death, so that the poison is alone at each.
            neighbour = await client.start("wait_for", "neighbour", id="neighbour")
            poison = asyncio.create_task(client.start("poison", "x", id="poison"))
            out_of_the_way = asyncio.create_task(is_quarantined(client, "poison"))
            deaths = 0
            while True:
                death = asyncio.create_task(asyncio.to_thread(server.wait_died, 60))
                await asyncio.wait({death, out_of_the_way}, return_when=asyncio.FIRST_COMPLETED)
                if not death.done():
                    break
                assert await death == 9
                deaths += 1
                assert deaths <= 4
                server.start(wait=False)
            await poison
            await out_of_the_way
            server.wait_ready()
            assert deaths == 3, "the crash budget"
            await neighbour.signal("go", "awake")
            assert await neighbour.result() == "neighbour: awake"
            assert await client.run("echo", "alive") == "alive"
            events = await history(client, "poison")
            assert kinds(events)[-2:] == ["workflow_quarantined", "alert_raised"]
            with contextlib.closing(sqlite3.connect(server.store)) as database:
                assert database.execute("select name from alerts").fetchall() == [("workflow_quarantined",)]
            assert [line["alert"] for line in server.log if line["event"] == "alert"] == ["workflow_quarantined"]
            assert [event.attempt_failed.decision.action for event in events if event.HasField("attempt_failed")][
                -1
            ] == failure_pb2.RETRY_ACTION_QUARANTINE_WORKFLOW
            await client.terminate("poison", "enough")
            assert (await client.get("poison")).state == workflow_pb2.WORKFLOW_STATE_TERMINATED


@pytest.mark.proof
async def test_a_drain_lets_short_attempts_finish_and_hands_the_rest_over(tmp_path: Path) -> None:
    with serving_process(tmp_path, environment={"MENDFLOW_DRAIN_TIMEOUT": "4"}) as server:
        async with Client(server.grpc_address) as client:
            await client.start("holds", 0.4, id="short")
            await client.start("holds", 60.0, id="long")
            await client.start("holds_thread", 6.0, id="thread")
            for workflow_id in ("short", "long", "thread"):
                await until(lambda: None, "attempt_started", client, workflow_id)
            began = time.monotonic()
            assert await asyncio.to_thread(server.terminate) == 0
            assert time.monotonic() - began < 10
            server.start()
            assert (await client.get("short")).state == SUCCEEDED
            await client.cancel("long")
            long = await history(client, "long")
            assert await client.handle("thread").result() != ""
            thread = await history(client, "thread")
            short = await history(client, "short")
    assert "attempt_failed" not in kinds(short)
    lost = next(event for event in long if event.HasField("attempt_failed"))
    assert lost.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST
    assert kinds(long).index("attempt_failed") < kinds(long).index("workflow_recovered"), "closed by the drain itself"
    assert kinds(thread).index("workflow_recovered") < kinds(thread).index("attempt_failed"), "closed by the next start"


async def test_code_that_cannot_replay_pauses_and_resumes_when_fixed_code_is_deployed(tmp_path: Path) -> None:
    module = tmp_path / "changing.py"
    body = (
        "from mendflow import step, workflow, wait_signal\n"
        "@step\nasync def work(name: str) -> str:\n    return name\n"
        "@workflow\nasync def changing() -> str:\n"
        "    first = await work({!r})\n    return first + str(await wait_signal('go'))\n"
    )
    module.write_text(body.format("one"))
    server = ServerProcess(tmp_path, modules=("changing",))
    server.start()
    try:
        async with Client(server.grpc_address) as client:
            handle = await client.start("changing", id="subject")
            await until(lambda: None, "signal_awaited", client, "subject")
            server.kill()
            module.write_text(body.format("uno"))
            server.start()
            await handle.signal("go", " went")
            while (paused := await handle.get()).state != workflow_pb2.WORKFLOW_STATE_PAUSED:
                await asyncio.sleep(0.02)
            assert paused.reason == event_pb2.STATE_REASON_NON_DETERMINISM
            events = await history(client, "subject")
            explanation = next(
                event for event in events if event.HasField("workflow_paused")
            ).workflow_paused.explanation
            assert '{"name":"one"}' in explanation
            assert '{"name":"uno"}' in explanation
            server.kill()
            server.start()
            assert len([1 for kind in kinds(await history(client, "subject")) if kind == "workflow_paused"]) == 1
            server.kill()
            module.write_text(body.format("one"))
            server.start()
            assert await handle.result() == "one went"
    finally:
        server.kill()


async def test_a_type_left_out_waits_and_is_not_failed(tmp_path: Path) -> None:
    module = tmp_path / "sometimes.py"
    module.write_text(
        "from mendflow import workflow, wait_signal\n"
        "@workflow\nasync def sometimes() -> str:\n    return str(await wait_signal('go'))\n"
    )
    server = ServerProcess(tmp_path, modules=("workflows", "sometimes"), environment={})
    server.start()
    try:
        async with Client(server.grpc_address) as client:
            handle = await client.start("sometimes", id="subject")
            await until(lambda: None, "signal_awaited", client, "subject")
            server.kill()
            server.modules = ("workflows",)
            server.start()
            await handle.signal("go", "later")
            while (found := await handle.get()).reason != event_pb2.STATE_REASON_NOT_SERVED:
                await asyncio.sleep(0.02)
            assert found.state == workflow_pb2.WORKFLOW_STATE_WAITING
            server.kill()
            server.modules = ("workflows", "sometimes")
            server.start()
            assert await handle.result() == "later"
    finally:
        server.kill()
