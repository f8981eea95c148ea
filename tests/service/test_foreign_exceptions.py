"""Exceptions from users' classes: each fails its call, its attempt or its workflow, and none is an internal error."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import pydantic
import pytest

from mendflow import RetryPolicy, attempt, sleep, step, wait_signal, workflow
from mendflow.v1 import failure_pb2, payload_pb2, workflow_pb2, workflow_service_pb2
from mendflow_server.app import Parts
from mendflow_server.engine.engine import Engine
from tests.support.servers import serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.servers import Server

SUCCEEDED, FAILED = workflow_pb2.WORKFLOW_STATE_SUCCEEDED, workflow_pb2.WORKFLOW_STATE_FAILED
TWICE = RetryPolicy(max_attempts=2, initial_interval=0.001)


class Odd(BaseException):
    """Neither an Exception nor one of Python's own."""


RAISED: dict[str, type[BaseException]] = {
    kind.__name__: kind
    for kind in (
        KeyError,
        RuntimeError,
        MemoryError,
        StopIteration,
        GeneratorExit,
        KeyboardInterrupt,
        SystemExit,
        asyncio.CancelledError,
        Odd,
    )
}


def raise_if_named(text: str) -> str:
    """Raise the exception that the text names."""
    if text in RAISED:
        raise RAISED[text](text)
    return text


@dataclass
class Order:
    """Raise when it is created with an exception's name."""

    name: str

    def __post_init__(self) -> None:
        raise_if_named(self.name)


class Silent:
    """Raise on every access. It passes for a value of any type."""

    def __eq__(self, other: object) -> bool:
        raise SystemExit(3)

    def __hash__(self) -> int:
        raise SystemExit(3)

    def __repr__(self) -> str:
        raise SystemExit(3)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise KeyError


class Unprintable(Exception):
    """Raise on every access."""

    def __str__(self) -> str:
        raise SystemExit(3)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise KeyError


Strict = Annotated[str, pydantic.AfterValidator(raise_if_named)]


def _unsaid(value: str) -> str:
    raise RAISED[value]


Written = Annotated[str, pydantic.PlainSerializer(_unsaid)]


@step(retry=TWICE)
async def takes(order: Order, note: Strict = "") -> str:
    """Take an argument that raises."""
    return order.name + note


@step(retry=TWICE)
async def gives(name: str) -> Written:
    """Return a value that cannot be encoded."""
    return name


@step(retry=TWICE)
def gives_on_thread(name: str) -> Written:
    """Return a value that cannot be encoded, on a thread."""
    return name


@step(retry=TWICE)
async def gives_silent() -> Any:
    """Return a value that raises on every access."""
    return Silent()


@step(retry=TWICE)
async def fails_unprintably() -> None:
    """Raise an exception that raises on every access."""
    raise Unprintable


@step(retry=TWICE)
def fails_unprintably_on_thread() -> None:
    """Raise an exception that raises on every access, on a thread."""
    raise Unprintable


@step(retry=TWICE)
async def reports(done: int) -> int:
    """Report progress that no event can hold, without the function that would refuse it."""
    attempt().report_progress(done, 0, "\ud800")
    return attempt().number


@step(retry=TWICE)
async def takes_any(thing: Any) -> None:
    """Take anything."""


@workflow
async def takes_order(order: Order) -> str:
    """Take an input that raises."""
    return order.name


@workflow
async def calls_with_note(note: str) -> str:
    """Call a step with an argument for which its type raises."""
    return await takes(Order("order"), note)


@workflow
async def calls_with_silent() -> str:
    """Call a step with an argument that raises on every access."""
    await takes_any(Silent())
    return "not reached"


@workflow
async def gets(name: str) -> str:
    """Get a result that cannot be encoded."""
    return await gives(name)


@workflow
async def gets_from_thread(name: str) -> str:
    """Get a result that cannot be encoded, from a thread."""
    return await gives_on_thread(name)


@workflow
async def gets_silent() -> Any:
    """Get a result that raises on every access."""
    return await gives_silent()


@workflow
async def unprintable(thread: bool) -> None:  # noqa: FBT001
    """Have a step raise an exception that raises on every access."""
    await (fails_unprintably_on_thread() if thread else fails_unprintably())


@workflow
async def returns(name: str) -> Written:
    """Return a value that cannot be encoded."""
    return name


@workflow
async def reports_much() -> int:
    """Have a step report too much."""
    return await reports(2**70)


@workflow
async def waits_for_order() -> str:
    """Wait for a signal of a type that is not declared."""
    return (await wait_signal("go", Order)).name


@workflow(signals={"go": Order})
async def waits_for_declared_order() -> str:
    """Wait for a signal of a type that is declared."""
    return (await wait_signal("go", Order)).name


class Never(type):
    """Raise in isinstance."""

    def __instancecheck__(cls, instance: object) -> bool:
        raise SystemExit(3)


class NeverRetried(Exception, metaclass=Never):
    """Listed in a policy."""


@step(retry=RetryPolicy(max_attempts=2, initial_interval=0.001, not_retried=(NeverRetried,)))
async def fails_under_an_odd_policy() -> None:
    """Raise an exception for which the policy's own class raises."""
    raise KeyError("plain")


@workflow
async def under_an_odd_policy() -> None:
    """Have a step fail whose policy raises."""
    await fails_under_an_odd_policy()


@workflow
async def exits_when_dropped() -> None:
    """Raise SystemExit when the coroutine is closed while it waits."""
    try:
        await sleep(600)
    finally:
        sys.exit(3)


@workflow
async def makes_a_step() -> str:
    """Call a step whose type is found wrong only at its call, and then a correct step."""

    @step
    async def wrong(*things: str) -> None: ...

    try:
        await wrong()
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    return "not reached"


MINE = {
    each.name: each
    for each in (
        takes_order, calls_with_note, calls_with_silent, gets, gets_from_thread, gets_silent, unprintable, returns,
        under_an_odd_policy, exits_when_dropped, reports_much, waits_for_order, waits_for_declared_order, makes_a_step,
    )
}  # fmt: skip


@contextlib.asynccontextmanager
async def faultless(directory: Path) -> AsyncIterator[Server]:
    """Serve, and check that the engine had no internal error and leaked no slot."""
    faults: list[BaseException] = []

    class Noting(Engine):
        def faulted(self, execution: Any, error: BaseException) -> None:
            faults.append(error)
            super().faulted(execution, error)

    async with serving(directory, definitions=MINE, parts=Parts(engine=Noting)) as server:
        yield server
        assert not faults
        slots = server.app.services.attempts
        assert await until(lambda: slots.task_slots.free == server.app.settings.attempt_slots)
        assert await until(lambda: slots.thread_slots.free == server.app.settings.thread_slots)


async def failure_of(server: Server, what: Any, *inputs: Any) -> failure_pb2.Failure:
    """Run a workflow that fails, and return its failure."""
    handle = await server.client.start(what, *inputs)
    ended = await handle.get(wait=10)
    assert ended.state == FAILED, ended
    failure: failure_pb2.Failure = ended.failure
    return failure


@pytest.mark.parametrize("name", RAISED)
async def test_start_with_an_input_whose_type_raises_is_an_invalid_argument(tmp_path: Path, name: str) -> None:
    async with faultless(tmp_path) as server:
        request = workflow_service_pb2.StartWorkflowRequest(
            workflow_type="takes_order", input=payload_pb2.Payload(json=json.dumps({"name": name}))
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.stub.StartWorkflow(request)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert name in (refused.value.details() or "")


@pytest.mark.parametrize("name", RAISED)
async def test_signal_whose_declared_type_raises_is_an_invalid_argument(tmp_path: Path, name: str) -> None:
    async with faultless(tmp_path) as server:
        handle = await server.client.start(waits_for_declared_order)
        request = workflow_service_pb2.SignalWorkflowRequest(
            workflow_id=handle.id, name="go", data=payload_pb2.Payload(json=json.dumps({"name": name}))
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.stub.SignalWorkflow(request)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        await handle.signal("go", {"name": "right"})
        assert await handle.result() == "right"


@pytest.mark.parametrize("name", RAISED)
async def test_signal_whose_awaited_type_raises_fails_the_workflow(tmp_path: Path, name: str) -> None:
    async with faultless(tmp_path) as server:
        handle = await server.client.start(waits_for_order)
        await handle.signal("go", {"name": name})
        ended = await handle.get(wait=10)
        assert ended.state == FAILED
        assert ended.failure.type == "mendflow.errors.PayloadError"
        assert name in ended.failure.message


@pytest.mark.parametrize("name", RAISED)
async def test_call_with_an_argument_whose_type_raises_fails_at_its_line(tmp_path: Path, name: str) -> None:
    async with faultless(tmp_path) as server:
        failure = await failure_of(server, calls_with_note, name)
        assert failure.type == "mendflow.errors.PayloadError"
        assert "note: " in failure.message


async def test_call_with_an_argument_that_raises_when_looked_at_fails_at_its_line(tmp_path: Path) -> None:
    async with faultless(tmp_path) as server:
        failure = await failure_of(server, calls_with_silent)
        assert failure.type == "mendflow.errors.PayloadError"


@pytest.mark.parametrize("what", [gets, gets_from_thread, returns], ids=lambda what: what.name)
@pytest.mark.parametrize("name", RAISED)
async def test_result_whose_serializer_raises_fails_for_good(tmp_path: Path, name: str, what: Any) -> None:
    async with faultless(tmp_path) as server:
        failure = await failure_of(server, what, name)
        assert failure.kind == failure_pb2.FAILURE_KIND_PERMANENT
        assert name in failure.cause.message or name in failure.message


async def test_result_that_raises_when_looked_at_fails_the_step(tmp_path: Path) -> None:
    async with faultless(tmp_path) as server:
        assert (await failure_of(server, gets_silent)).kind == failure_pb2.FAILURE_KIND_PERMANENT


@pytest.mark.parametrize("thread", [False, True])
async def test_step_exception_that_cannot_be_examined_fails_the_attempt(tmp_path: Path, thread: bool) -> None:  # noqa: FBT001
    async with faultless(tmp_path) as server:
        assert "Unprintable" in str(await failure_of(server, unprintable, thread))


async def test_policy_that_cannot_be_asked_leaves_the_failure_as_it_is(tmp_path: Path) -> None:
    async with faultless(tmp_path) as server:
        assert (await failure_of(server, under_an_odd_policy)).cause.message == "'plain'"


async def test_eviction_of_code_that_exits_in_a_finally_harms_no_other(tmp_path: Path) -> None:
    async with faultless(tmp_path) as server:
        handles = [await server.client.start(what) for what in (exits_when_dropped, waits_for_order)]
        engine = server.app.engine
        assert await until(lambda: engine.evict(at_once=True) and not engine.workflows_in_memory)
        await handles[1].signal("go", {"name": "right"})
        assert await handles[1].result() == "right"


async def test_progress_that_no_event_can_hold_fails_the_attempt(tmp_path: Path) -> None:
    async with faultless(tmp_path) as server:
        assert "2**63" in (await failure_of(server, reports_much)).message


async def test_call_of_a_step_that_cannot_be_recorded_raises_at_its_line(tmp_path: Path) -> None:
    async with faultless(tmp_path) as server:
        assert await server.client.run(makes_a_step, timeout=10) == "DefinitionError"
