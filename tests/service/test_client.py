"""The client's verbs against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mendflow import (
    Client,
    MendflowError,
    SyncClient,
    SyncWorkflowHandle,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowHandle,
    WorkflowTerminated,
)
from mendflow.client.blocking import LoopThread
from mendflow.client.rpc import Caller
from mendflow.errors import (
    AlreadyStarted,
    DeadlineExceeded,
    InvalidRequest,
    LimitExceeded,
    RequestError,
    ServerUnavailable,
    WrongState,
)
from mendflow.v1 import workflow_pb2, workflow_service_pb2, workflow_service_pb2_grpc
from tests.support import workflows
from tests.support.servers import Server, ServerProcess, free_port, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


async def test_run_returns_a_typed_result_in_one_call(server: Server) -> None:
    order = workflows.Order(id="o-1", amount=5, items=["abc"])
    assert await server.client.run(workflows.typed, order) == workflows.Receipt(order_id="o-1", total=8)
    assert await server.client.run("typed", order) == {"order_id": "o-1", "total": 8}, "by name: plain JSON"
    assert await server.client.run("nothing") is None


async def test_an_end_without_a_result_is_a_typed_error(server: Server) -> None:
    with pytest.raises(WorkflowFailed, match="no way") as caught:
        await server.client.run("fails", "no way")
    assert caught.value.failure.step_key == "refuse"
    assert caught.value.failure.cause.type == "mendflow.errors.PermanentError"
    handle = await server.client.start("sleeper", 3600.0)
    await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    handle = await server.client.start("sleeper", 3600.0)
    await handle.terminate()
    with pytest.raises(WorkflowTerminated):
        await handle.result()


async def test_a_timeout_leaves_the_workflow_alone(server: Server) -> None:
    with pytest.raises(DeadlineExceeded, match="it continues to run"):
        await server.client.run("sleeper", 3600.0, id="subject", timeout=0.1)
    assert (await server.client.get("subject")).state == workflow_pb2.WORKFLOW_STATE_WAITING


async def test_many_starts_have_an_outcome_each(server: Server) -> None:
    await server.client.run("echo", "other", id="id-7")
    ids = [f"id-{index}" for index in range(1_500)]
    outcomes: list[Any] = await server.client.start_many("echo", [f"v{index}" for index in range(1_500)], ids=ids)
    assert len(outcomes) == 1_500
    refused = {index: outcome for index, outcome in enumerate(outcomes) if isinstance(outcome, RequestError)}
    assert list(refused) == [7]
    assert isinstance(refused[7], AlreadyStarted)
    again: list[Any] = await server.client.start_many("echo", [f"v{index}" for index in range(1_500)], ids=ids)
    assert not any(outcome.started for index, outcome in enumerate(again) if index != 7)
    assert len([workflow async for workflow in server.client.list(page_size=400)]) == 1_500


async def test_a_batch_that_cannot_be_sent_is_an_error_for_each_input() -> None:
    async with Client(f"127.0.0.1:{free_port()}", retry_for=0.1) as client:
        outcomes: list[Any] = await client.start_many("echo", ["a", "b"])
    assert [type(outcome) for outcome in outcomes] == [ServerUnavailable, ServerUnavailable]


async def test_a_large_batch_is_split_by_bytes(server: Server) -> None:
    outcomes: list[Any] = await server.client.start_many("echo", ["x" * 500_000] * 12)
    assert all(outcome.started for outcome in outcomes)


async def test_two_starts_at_once_under_one_id_are_one_workflow(server: Server) -> None:
    handles = await asyncio.gather(*(server.client.start("echo", "same", id="subject") for _ in range(20)))
    assert sum(handle.started for handle in handles) == 1
    with pytest.raises(AlreadyStarted) as caught:
        await server.client.start("echo", "different", id="subject")
    assert caught.value.metadata["differs"] == "input"


async def test_thousands_of_calls_at_once_are_answered_each(server_process: ServerProcess) -> None:
    """Make more calls at once than gRPC queues by default, which dropped some of them."""
    async with grpc.aio.insecure_channel(server_process.grpc_address) as channel:
        stub: Any = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
        calls = [stub.GetServerInfo(workflow_service_pb2.GetServerInfoRequest()) for _ in range(4_000)]
        assert {await call.code() for call in calls} == {grpc.StatusCode.OK}


async def test_an_error_names_the_invalid_field(server: Server) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await server.client.start("typed", {"id": "o", "amount": "many"})
    assert caught.value.reason == "INPUT_MISMATCH"
    assert [field for field, _ in caught.value.violations] == ["input.amount"]


#: Calls with an id or a name, and the field that each names.
EMPTY: dict[str, tuple[Callable[[Client, str], Any], str]] = {
    "start": (lambda client, text: client.start("echo", "x", id=text), "workflow_id"),
    "start of a type": (lambda client, text: client.start(text, "x"), "workflow_type"),
    "run": (lambda client, text: client.run("echo", "x", id=text), "workflow_id"),
    "start_many": (lambda client, text: client.start_many("echo", ["x", "y"], ids=["one", text]), "ids[1]"),
    "handle": (lambda client, text: client.handle(text), "workflow_id"),
    "get": (lambda client, text: client.get(text), "workflow_id"),
    "signal": (lambda client, text: client.signal(text, "go"), "workflow_id"),
    "signal of a name": (lambda client, text: client.signal("w", text), "name"),
    "signal under a request id": (lambda client, text: client.signal("w", "go", request_id=text), "request_id"),
    "cancel": (lambda client, text: client.cancel(text), "workflow_id"),
    "resume": (lambda client, text: client.resume(text), "workflow_id"),
    "terminate": (lambda client, text: client.terminate(text), "workflow_id"),
    "hold": (lambda client, text: client.hold(text), "workflow_id"),
    "release": (lambda client, text: client.release(text), "workflow_id"),
    "delete": (lambda client, text: client.delete(text), "workflow_id"),
}


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
@pytest.mark.parametrize("verb", EMPTY)
async def test_an_empty_id_is_refused_before_a_call_is_made(verb: str, text: str) -> None:
    call, field = EMPTY[verb]
    # Nothing listens there, so a call would raise ServerUnavailable.
    async with Client(f"127.0.0.1:{free_port()}", retry_for=0) as client:
        with pytest.raises(InvalidRequest, match="must not be") as caught:
            await call(client, text)
    assert caught.value.reason == "INVALID_FIELD"
    assert [named for named, _ in caught.value.violations] == [field]


#: Calls with an argument of a wrong type, or with text that cannot be sent: the field and the value that each names.
ODD: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "start with a number": (lambda client: client.start("echo", "x", id=5), "workflow_id", "5"),
    "start of a plain function": (lambda client: client.start(len, "x"), "workflow_type", "len"),
    "start of a surrogate": (lambda client: client.start("e\ud800", "x"), "workflow_type", r"'e\ud800'"),
    "run with a surrogate": (lambda client: client.run("echo", "x", id="\udfff"), "workflow_id", r"'\udfff'"),
    "start_many with a number": (lambda client: client.start_many("echo", ["x"], ids=[5]), "ids[0]", "5"),
    "a label of None": (lambda client: client.start("echo", "x", labels={"a": None}), 'labels["a"]', "None"),
    "a label of surrogates": (lambda client: client.start("echo", "x", labels={"a": "\ud800"}), 'labels["a"]', "d800"),
    "a label without a name": (lambda client: client.start("echo", labels={5: "a"}), "the name of a label", "5"),
    "labels in a list": (lambda client: client.start("echo", "x", labels=[("a", "b")]), "labels", "[('a', 'b')]"),
    "list with labels in a list": (lambda client: anext(client.list(labels=[])), "labels", "[]"),
    "list of a number": (lambda client: anext(client.list(workflow_type=5)), "workflow_type", "5"),
    "signal to a number": (lambda client: client.signal(5, "go"), "workflow_id", "5"),
    "signal of a surrogate": (lambda client: client.signal("w", "\ud800"), "name", r"'\ud800'"),
    "signal under a number": (lambda client: client.signal("w", "go", request_id=7), "request_id", "7"),
    "cancel for a number": (lambda client: client.cancel("w", 5), "reason", "5"),
    "resume for a surrogate": (lambda client: client.resume("w", "\ud800"), "reason", r"'\ud800'"),
    "terminate for None": (lambda client: client.terminate("w", None), "reason", "None"),
    "handle of None": (lambda client: client.handle(None), "workflow_id", "None"),
    "delete of bytes": (lambda client: client.delete(b"w"), "workflow_id", "b'w'"),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_argument_that_cannot_be_sent_is_refused_before_a_call_is_made(name: str) -> None:
    call, field, value = ODD[name]
    async with Client(f"127.0.0.1:{free_port()}", retry_for=0) as client:
        with pytest.raises(InvalidRequest, match="no call was made") as caught:
            await call(client)
    assert [named for named, _ in caught.value.violations] == [field]
    assert value in str(caught.value)


def test_the_synchronous_client_refuses_an_empty_id_too() -> None:
    with SyncClient(f"127.0.0.1:{free_port()}", retry_for=0) as client:
        with pytest.raises(InvalidRequest, match="workflow_id must not be empty"):
            client.start("echo", "x", id="")
        with pytest.raises(InvalidRequest, match="workflow_id must not be empty"):
            client.handle("")


async def test_signals_are_once_and_in_order(server: Server) -> None:
    handle = await server.client.start("wait_for", "x")
    assert await handle.signal("go", "first", request_id="r1")
    assert not await handle.signal("go", "second", request_id="r1")
    assert await handle.result() == "x: first"
    with pytest.raises(WrongState):
        await handle.signal("go", "late")
    with pytest.raises(InvalidRequest):
        await (await server.client.start("wait_for", "y")).signal("go", 17)


async def test_an_undeclared_signal_is_refused_unless_the_caller_allows_it(server: Server) -> None:
    handle = await server.client.start("wait_for", "x")
    with pytest.raises(InvalidRequest, match=r'declares the signals go, but not "og"') as caught:
        await handle.signal("og", "x")
    assert [field for field, _ in caught.value.violations] == ["name"]
    assert await handle.signal("og", "x", allow_undeclared=True)
    await handle.signal("go", "on")
    assert await handle.result() == "x: on"
    names = [event.signal_received.name async for event in handle.events() if event.HasField("signal_received")]
    assert names == ["og", "go"]


async def test_too_many_untaken_signals_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path, untaken_signals_limit=3) as server:
        handle = await server.client.start("wait_for", "x")
        for index in range(3):
            await handle.signal("other", index, allow_undeclared=True)
        with pytest.raises(LimitExceeded) as caught:
            await handle.signal("other", 3, allow_undeclared=True)
        assert caught.value.reason == "TOO_MANY_SIGNALS"


async def test_listing_by_label_type_and_state(server: Server) -> None:
    for index in range(5):
        await server.client.run("echo", str(index), labels={"team": "a" if index % 2 else "b"})
    await server.client.start("sleeper", 3600.0, labels={"team": "a"})
    assert len([row async for row in server.client.list(labels={"team": "a"})]) == 3
    waiting = [workflow_pb2.WORKFLOW_STATE_WAITING]
    assert [row.workflow_type async for row in server.client.list(states=waiting)] == ["sleeper"]
    assert len([row async for row in server.client.list(workflow_type="echo", page_size=2)]) == 5


async def test_types_are_listed_with_their_schemas(server: Server) -> None:
    types = {each.name: each for each in await server.client.types()}
    assert '"amount"' in types["typed"].input.json_schema
    assert not types["nothing"].HasField("input")
    assert types["wait_for"].signals["go"].json_schema.endswith('"type":"string"}')
    assert types["echo"].description == "Run one step."


async def test_the_synchronous_facade_does_the_same(server: Server) -> None:
    def use() -> list[Any]:
        with SyncClient(server.address) as client:
            handle = client.start("three", "x", id="sync")
            events = [event.sequence for event in handle.watch()]
            listed = [row.workflow_id for row in client.list()]
            failed = ""
            try:
                client.run("fails", "sorry")
            except WorkflowFailed as error:
                failed = str(error)
            return [handle.result(), events, listed, failed, client.health()]

    found = await asyncio.to_thread(use)
    assert found[0] == "x-1-2-3"
    assert found[1] == list(range(1, 9))
    assert found[2] == ["sync"]
    assert "sorry" in found[3]
    assert not [thread for thread in threading.enumerate() if thread.name == "mendflow-client"]


async def test_a_paused_workflow_is_resumed(server: Server, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    handle = await server.client.start(workflows.paused, str(flag))
    while (await handle.get()).state != workflow_pb2.WORKFLOW_STATE_PAUSED:
        await asyncio.sleep(0.005)
    flag.touch()
    await handle.resume("the flag is there")
    assert await handle.result() == "helped"
    with pytest.raises(WrongState) as caught:
        await handle.resume()
    assert caught.value.metadata["state"] == "SUCCEEDED"


async def test_leaving_a_synchronous_watch_ends_its_call(server: Server) -> None:
    def use() -> list[int]:
        with SyncClient(server.address) as client:
            seen = []
            for event in client.start("wait_for", "x").watch():
                seen.append(event.sequence)
                if event.HasField("signal_awaited"):
                    break
            return seen

    assert await asyncio.to_thread(use) == [1, 2]
    while server.app.engine.watchers.open:
        await asyncio.sleep(0.005)


def test_a_synchronous_client_that_cannot_be_made_leaves_no_thread() -> None:
    with pytest.raises(TypeError):
        SyncClient(no_such_option=True)  # type: ignore[call-arg]
    assert not [thread for thread in threading.enumerate() if thread.name == "mendflow-client"]


async def test_ctrl_c_in_a_synchronous_call_ends_it_and_the_client_closes(server_process: ServerProcess) -> None:
    script = f"""
import threading
from mendflow import SyncClient

with SyncClient("{server_process.grpc_address}") as client:
    handle = client.start("wait_for", "x")
    try:
        for event in handle.watch():
            if event.HasField("signal_awaited"):
                print("waits", flush=True)
    except KeyboardInterrupt:
        print(client.get(handle.id).workflow_id == handle.id, flush=True)
print([each.name for each in threading.enumerate() if each.name == "mendflow-client"])
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"waits\n"
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 20)
    assert out.decode().splitlines() == ["True", "[]"], err.decode()
    assert err == b""


@pytest.mark.parametrize(("blocking", "asynchronous"), [(SyncClient, Client), (SyncWorkflowHandle, WorkflowHandle)])
def test_the_synchronous_classes_have_the_same_methods_and_parameters(blocking: type, asynchronous: type) -> None:
    def methods(cls: type) -> dict[str, list[str]]:
        return {
            name: [str(each.replace(annotation=inspect.Parameter.empty)) for each in parameters_of(member)]
            for name, member in vars(cls).items()
            if not name.startswith("_") and inspect.isfunction(member)
        }

    def parameters_of(member: Any) -> list[inspect.Parameter]:
        return list(inspect.signature(member).parameters.values())

    expected = methods(asynchronous)
    expected.pop("decode", None)  # What a handle uses.
    assert methods(blocking) == expected


def test_a_closed_synchronous_client_says_so() -> None:
    client = SyncClient(f"127.0.0.1:{free_port()}", retry_for=0)
    client.close()
    client.close()
    with pytest.raises(MendflowError, match="the client is closed"):
        client.types()


def close_during(client: SyncClient, call: Callable[[], object], *, begun: Callable[[], bool]) -> list[BaseException]:
    """Close a client while another thread is in a call; return what the call raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not begun():
        assert thread.is_alive()
        thread.join(0.01)
    client.close()
    thread.join(10)
    assert not thread.is_alive(), "the call hangs"
    return raised


@pytest.mark.filterwarnings("error")
def test_a_call_in_another_thread_raises_when_the_synchronous_client_is_closed() -> None:
    client = SyncClient(f"127.0.0.1:{free_port()}", retry_for=None)
    handle = client.handle("absent", result_type=str)
    loop_threads = client._threads  # noqa: SLF001 - to see when the call is in progress
    (error,) = close_during(client, handle.result, begun=lambda: loop_threads._started is not None)  # noqa: SLF001
    assert type(error) is MendflowError
    assert "the client is closed" in str(error)


@pytest.mark.filterwarnings("error")
async def test_a_watch_and_a_result_raise_when_the_synchronous_client_is_closed(server: Server) -> None:
    await server.client.start("wait_for", "x", id="waits")

    def use() -> None:
        client = SyncClient(server.address)
        handle = client.handle("waits", result_type=str)
        idle, watched = handle.watch(), handle.watch()
        next(idle)
        seen: list[object] = []
        errors = close_during(client, lambda: seen.extend(watched), begun=lambda: len(seen) > 0)
        with pytest.raises(MendflowError, match="the client is closed") as caught:
            next(idle)
        assert list(map(type, [*errors, caught.value])) == [MendflowError, MendflowError]
        with pytest.raises(MendflowError, match="the client is closed"):
            next(handle.watch())
        closed = SyncClient(server.address)
        left = closed.handle("waits").watch()
        next(left)
        closed.close()
        left.close()  # type: ignore[attr-defined] # It is a generator.
        gc.collect()

    await asyncio.to_thread(use)
    await server.client.terminate("waits")


@pytest.mark.parametrize("swallows", [False, True])
def test_close_ends_every_call_of_other_threads(monkeypatch: pytest.MonkeyPatch, *, swallows: bool) -> None:
    monkeypatch.setattr("mendflow.client.blocking.LONGEST_END", 0.1)
    begun = threading.Event()

    async def hang(_: object) -> None:
        begun.set()
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            if not swallows:
                raise asyncio.CancelledError

    async def end(_: object) -> None:
        ended.append(True)

    ended: list[bool] = []
    loop_thread = LoopThread(object)
    closing: Any = SimpleNamespace(close=lambda: loop_thread.close(end))
    (error,) = close_during(closing, lambda: loop_thread.run(hang), begun=begun.is_set)
    assert type(error) is MendflowError
    assert ended == [True]


CALLS: dict[str, Any] = {
    "start": lambda client: client.start("echo", "hi", id="subject"),
    "run": lambda client: client.run("echo", "hi", id="subject"),
    "start_many": lambda client: client.start_many("echo", ["hi"], ids=["subject"]),
    "signal": lambda client: client.signal("waits", "go", "now"),
    "cancel": lambda client: client.cancel("waits"),
    "terminate": lambda client: client.terminate("waits"),
}


@pytest.fixture
async def silent(server: Server, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, list[Any]]:
    """Make the server answer no call that writes until the event is set; return also the requests of such calls."""
    await server.client.start("wait_for", "x", id="waits")
    monkeypatch.setattr("mendflow.client.client.MARGIN", 0.0)
    monkeypatch.setattr("mendflow.client.client.WAIT", 0.2)
    answers = asyncio.Event()
    requests: list[Any] = []
    commit, call = server.app.store.commit, Caller.call

    async def commits_later(batch: Any) -> Any:
        await answers.wait()
        return await commit(batch)

    async def noted(caller: Caller, method: Any, request: Any, **options: Any) -> Any:
        requests.append(type(request).FromString(request.SerializeToString()))
        if len(requests) == 3:
            answers.set()
        return await call(caller, method, request, **options)

    monkeypatch.setattr(server.app.store, "commit", commits_later)
    monkeypatch.setattr(Caller, "call", noted)
    return answers, requests


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_call_that_gets_no_answer_is_repeated_with_the_same_request(
    server: Server, silent: tuple[asyncio.Event, list[Any]], call: Callable[[Client], Awaitable[Any]]
) -> None:
    _, requests = silent
    async with Client(server.address, timeout=0.2) as client:
        await asyncio.wait_for(call(client), 20)
    assert len(requests) >= 3
    assert all(request == requests[0] for request in requests[:3])
    assert len([each async for each in server.client.list(workflow_type="echo")]) <= 1


async def test_server_that_never_answers_is_unavailable_after_the_retries(
    server: Server, silent: tuple[asyncio.Event, list[Any]]
) -> None:
    answers, requests = silent
    async with Client(server.address, timeout=0.2, retry_for=0.0) as client:
        with pytest.raises(ServerUnavailable, match=f"{server.address} has not answered within 0.2 s"):
            await client.start("echo", "hi", id="subject")
    assert len(requests) == 1
    answers.set()
