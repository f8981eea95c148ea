"""The table of verbs and states: what each verb does to a workflow in each state."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.errors import AlreadyStarted, WrongState
from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.servers import DEFINITIONS, Server, serving, sqlite_url

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

STATES = [
    "RUNNING",
    "WAITING",
    "PAUSED",
    "QUARANTINED",
    "CANCELLING",
    "SUCCEEDED",
    "FAILED",
    "CANCELLED",
    "TERMINATED",
]


def name_of(state: workflow_pb2.WorkflowState.ValueType) -> str:
    return workflow_pb2.WorkflowState.Name(state).removeprefix("WORKFLOW_STATE_")


async def until_state(server: Server, workflow_id: str, state: str) -> workflow_pb2.Workflow:
    while True:
        found = await server.client.get(workflow_id)
        if name_of(found.state) == state:
            return found
        await asyncio.sleep(0.005)


async def bring_into(server: Server, state: str, tmp_path: Path) -> str:
    """Start a workflow, bring it into this state, and return its id."""
    client = server.client
    workflow_id = f"in-{state.lower()}"
    if state == "RUNNING":
        await client.start("holds", 30.0, id=workflow_id)
    elif state == "WAITING":
        await client.start("wait_for", "someone", id=workflow_id)
    elif state == "PAUSED":
        await client.start("paused", str(tmp_path / "flag"), id=workflow_id)
    elif state == "QUARANTINED":
        await client.start("wait_for", "someone", id=workflow_id)
        await until_state(server, workflow_id, "WAITING")
        await quarantine(server, workflow_id)
    elif state == "CANCELLING":
        await client.start("slow_to_clean", id=workflow_id)
        await until_state(server, workflow_id, "RUNNING")
        await client.cancel(workflow_id)
    elif state == "SUCCEEDED":
        await client.start("echo", "done", id=workflow_id)
    elif state == "FAILED":
        await client.start("fails", "no", id=workflow_id)
    else:
        await client.start("sleeper", 3600.0, id=workflow_id)
        await (client.cancel(workflow_id) if state == "CANCELLED" else client.terminate(workflow_id))
    await until_state(server, workflow_id, state)
    return workflow_id


async def quarantine(server: Server, workflow_id: str) -> None:
    """Do what recovery does when the crash budget is used up, the only way to this state in one process."""
    execution = server.app.engine.cache.find(workflow_id)
    assert execution is not None
    server.app.services.dispatcher.enqueue(execution, lambda: execution._quarantine("", 3))  # noqa: SLF001


@pytest.fixture(params=["sqlite", "postgres"])
async def table(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    """Return a server on each kind of store in turn."""
    place = request.getfixturevalue("postgres").url_for if request.param == "postgres" else sqlite_url
    async with serving(tmp_path, definitions=DEFINITIONS, store=place(tmp_path)) as running:
        yield running


OK = None
#: verb → state → the error that the verb raises (OK: none) and the workflow's state in the end.
TABLE: dict[str, dict[str, tuple[Any, str]]] = {
    "signal": {
        **{state: (OK, state) for state in STATES[:5]},
        **{state: (WrongState, state) for state in STATES[5:]},
    },
    "cancel": {
        "RUNNING": (OK, "CANCELLED"),
        "WAITING": (OK, "CANCELLED"),
        "PAUSED": (OK, "CANCELLED"),
        "QUARANTINED": (OK, "CANCELLED"),
        "CANCELLING": (OK, "CANCELLING"),
        "CANCELLED": (OK, "CANCELLED"),
        **{state: (WrongState, state) for state in ("SUCCEEDED", "FAILED", "TERMINATED")},
    },
    "resume": {
        "PAUSED": (OK, "SUCCEEDED"),
        "QUARANTINED": (OK, "WAITING"),
        **{state: (WrongState, state) for state in STATES if state not in ("PAUSED", "QUARANTINED")},
    },
    "terminate": {
        **dict.fromkeys(STATES[:5], (OK, "TERMINATED")),
        "TERMINATED": (OK, "TERMINATED"),
        **{state: (WrongState, state) for state in ("SUCCEEDED", "FAILED", "CANCELLED")},
    },
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("verb", TABLE)
async def test_each_verb_in_each_state(table: Server, tmp_path: Path, verb: str, state: str) -> None:
    workflow_id = await bring_into(table, state, tmp_path)
    refusal, last = TABLE[verb][state]
    before = [event async for event in table.client.handle(workflow_id).events()]
    handle = table.client.handle(workflow_id)
    if verb == "resume":
        (tmp_path / "flag").touch()
    act = handle.signal("other", 1, allow_undeclared=True) if verb == "signal" else getattr(handle, verb)("because")
    if refusal is not None:
        with pytest.raises(refusal) as caught:
            await act
        assert caught.value.metadata["state"] == state
        assert [event async for event in handle.events()] == before, "nothing was recorded"
    else:
        await act
    assert name_of((await until_state(table, workflow_id, last)).state) == last


@pytest.mark.parametrize("state", STATES)
async def test_a_workflow_can_be_deleted_only_at_its_end_and_while_it_is_not_held(
    table: Server, tmp_path: Path, state: str
) -> None:
    handle = table.client.handle(await bring_into(table, state, tmp_path))
    ended = state in STATES[5:]
    await handle.hold()
    with pytest.raises(WrongState) as caught:
        await handle.delete()
    assert caught.value.reason == ("WORKFLOW_HELD" if ended else "WRONG_STATE")
    await handle.release()
    if ended:
        assert await handle.delete()
        assert not await handle.delete()
    else:
        with pytest.raises(WrongState) as caught:
            await handle.delete()
        assert caught.value.metadata["state"] == state


@pytest.mark.parametrize("state", STATES)
async def test_a_second_start_returns_the_existing_workflow(table: Server, tmp_path: Path, state: str) -> None:
    workflow_id = await bring_into(table, state, tmp_path)
    found = await table.client.get(workflow_id)
    given: dict[str, Any] = {"input": found.input} if found.HasField("input") else {}
    again = await table.client.start(found.workflow_type, id=workflow_id, **given)
    assert not again.started
    with pytest.raises(AlreadyStarted) as caught:
        await table.client.start("nothing", id=workflow_id)
    assert caught.value.metadata["differs"] == "type"
    other = {"holds": 31.0, "sleeper": 3601.0}.get(found.workflow_type, "another")
    if given:
        with pytest.raises(AlreadyStarted) as caught:
            await table.client.start(found.workflow_type, other, id=workflow_id)
        assert caught.value.metadata["differs"] == "input"
    assert name_of((await table.client.get(workflow_id)).state) == state


async def test_cancel_while_backing_off_takes_effect_at_once(table: Server) -> None:
    await table.client.start("retried_late", "x", id="subject")
    found = await until_state(table, "subject", "WAITING")
    assert found.reason == event_pb2.STATE_REASON_BACKOFF
    await table.client.cancel("subject", "enough")
    found = await until_state(table, "subject", "CANCELLED")
    assert found.end_time.ToMicroseconds() - found.create_time.ToMicroseconds() < 10_000_000


async def test_cancel_reaches_a_workflow_that_is_not_in_memory(tmp_path: Path) -> None:
    async with serving(tmp_path, evict_after=0.01) as server:
        await server.client.start("sleeper", 3600.0, id="subject")
        await until_state(server, "subject", "WAITING")
        while server.app.engine.workflows_in_memory:
            await asyncio.sleep(0.01)
        await server.client.cancel("subject")
        await until_state(server, "subject", "CANCELLED")


async def test_a_workflow_that_catches_the_cancel_and_returns_has_succeeded(table: Server) -> None:
    handle = await table.client.start("survives_cancel", 3600.0, id="subject")
    await until_state(table, "subject", "WAITING")
    await handle.cancel()
    assert await handle.result() == "survived"


async def test_two_cancels_at_once_are_one_in_the_history(table: Server) -> None:
    handle = await table.client.start("survives_cancel", 3600.0, id="subject")
    await until_state(table, "subject", "WAITING")
    # The workflow may have ended before the second one arrives.
    replies = await asyncio.gather(handle.cancel("one"), handle.cancel("other"), return_exceptions=True)
    assert all(not isinstance(reply, Exception) or isinstance(reply, WrongState) for reply in replies)
    assert await handle.result() == "survived"
    assert len([event async for event in handle.events() if event.HasField("cancel_requested")]) == 1


async def test_clean_up_runs_after_a_cancel_and_is_cut_at_its_deadline(tmp_path: Path) -> None:
    async with serving(tmp_path, cleanup_timeout=0.3) as server:
        cleaned = await server.client.start("cleans_up", 3600.0, id="cleans")
        endless = await server.client.start("slow_to_clean", id="endless")
        for each in (cleaned, endless):
            await until_state(server, each.id, "RUNNING")
            await each.cancel("enough")
        found = await until_state(server, "cleans", "CANCELLED")
        assert found.reason == event_pb2.STATE_REASON_UNSPECIFIED
        keys = [
            event.attempt_succeeded.step_key async for event in cleaned.events() if event.HasField("attempt_succeeded")
        ]
        assert keys == ["note_down"]
        found = await until_state(server, "endless", "CANCELLED")
        assert found.reason == event_pb2.STATE_REASON_CLEANUP_DEADLINE
        events = [event async for event in endless.events()]
        assert list(events[-1].workflow_cancelled.cut_keys) == ["hold#2"]
        assert events[-2].attempt_failed.decision.explanation.startswith("The workflow has ended")


async def test_a_stopped_workflow_explains_what_stopped_it(table: Server, tmp_path: Path) -> None:
    for state, words in (
        ("PAUSED", "step needs_help: "),
        ("QUARANTINED", "the server crashed 3 times with its workflow"),
    ):
        found = await until_state(table, await bring_into(table, state, tmp_path), state)
        assert found.explanation.startswith(words)
