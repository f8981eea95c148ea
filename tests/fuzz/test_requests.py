"""Input: whatever message an rpc is sent, it is answered by its contract, and the server and its store stay sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow.v1 import event_pb2
from tests import promises
from tests.fuzz.calling import call, fuzzed, is_alive
from tests.fuzz.contract import BY_NAME, METHODS, Answer, Method, faults, faults_of_status
from tests.fuzz.forms import fuzz
from tests.fuzz.messages import REQUEST_LIMIT, messages
from tests.fuzz.world import World
from tests.scale import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message
    from hypothesis.strategies import SearchStrategy

    from tests.conftest import Server

LONGEST_SHOWN = 1_000
#: Workflows in a state that only a death or a change of code leads to.
SEEDED = scaled(400, 5_000)
EXAMPLES = (140, 20_000)


@dataclass(frozen=True, repr=False)
class Call:
    """A request to an rpc."""

    method: Method
    request: Message

    def __repr__(self) -> str:
        text = str(self.request)
        return f"{self.method.name}({text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + '…'})"


def calls_of(method: Method) -> SearchStrategy[Call]:
    return st.builds(Call, st.just(method), messages(method.request.DESCRIPTOR))


# Starts, signals and streams more often: behind them lies most.
calls = st.lists(
    st.one_of(
        *map(calls_of, METHODS),
        *(calls_of(BY_NAME[name]) for name in ("StartWorkflow", "SignalWorkflow", "WatchWorkflow")),
    ),
    min_size=1,
    max_size=5,
)


@pytest.fixture
async def fuzzed_server(tmp_path: Path) -> AsyncIterator[tuple[Server, World, list[Any]]]:
    async with fuzzed(tmp_path, seeded=SEEDED) as (server, complaints):
        yield server, World(server, SEEDED), complaints
        await server.app.drain()
    assert not promises.broken(promises.Evidence(promises.read_store(tmp_path / "mendflow.db"), over=False))


async def test_every_service_is_fuzzed(server: Server) -> None:
    """The server has no rpc that the strategies do not know."""
    reflection = BY_NAME["ServerReflectionInfo"]
    asked = reflection.request(list_services="")
    answer = await call(server.channel, reflection, [asked.SerializeToString()])
    served = {service.name for service in answer.responses[0].list_services_response.service}
    assert served == {method.path.split("/")[1] for method in METHODS}
    assert all(method.documented for method in METHODS if method.ours)


@fuzz(*EXAMPLES)
@given(calls=calls)
async def test_any_message_is_answered_by_the_contract(
    calls: list[Call], fuzzed_server: tuple[Server, World, list[Any]]
) -> None:
    server, world, complaints = fuzzed_server
    complaints.clear()
    await world.refresh()
    for drawn in calls:
        method, request = drawn.method, type(drawn.request).FromString(drawn.request.SerializeToString())
        await world.name(request, touching=method.name in TOUCHING)
        data = request.SerializeToString()
        answer = await call(server.channel, method, [data])
        wrong = [] if _is_too_large(data, answer) else faults(method, request, answer)
        wrong += [] if wrong or answer.code != "OK" else _faults_of_ok(method, request, answer)
        assert not wrong, f"{Call(method, request)}\n{answer.code}\n{wrong}\n{complaints}"
    assert not complaints
    await is_alive(server)


TOUCHING = {"SignalWorkflow", "CancelWorkflow", "ResumeWorkflow", "TerminateWorkflow"}


def _is_too_large(data: bytes, answer: Answer) -> bool:
    """Whether gRPC itself refused it, before the server's code saw it."""
    return len(data) > REQUEST_LIMIT and answer.code == "RESOURCE_EXHAUSTED"


def _faults_of_ok(method: Method, request: Any, answer: Answer) -> list[str]:
    if method.name == "BatchStartWorkflows":
        outcomes = answer.responses[0].outcomes
        wrong = [] if len(outcomes) == len(request.requests) else [f"{len(outcomes)} outcomes"]
        for start, outcome in zip(request.requests, outcomes, strict=False):
            if outcome.HasField("error"):
                wrong += faults_of_status(BY_NAME["StartWorkflow"], start, outcome.error)
            elif not outcome.HasField("response"):
                wrong.append("an outcome that is none")
        return wrong
    if method.name == "WatchWorkflow":
        return _faults_of_frames(request, answer)
    response = answer.responses[0] if answer.responses else None
    if response is not None and "workflow" in response.DESCRIPTOR.fields_by_name:
        asked = request.workflow_id
        return [] if not asked or response.workflow.workflow_id == asked else [f"{asked} asked for, got {response}"]
    return []


def _faults_of_frames(request: Any, answer: Answer) -> list[str]:
    """Sequences rise without a gap but for what the filter leaves out."""
    wrong = []
    last = request.after_sequence
    for frame in answer.responses:
        for event in frame.events:
            kind = event_pb2.Event.DESCRIPTOR.fields_by_name[event.WhichOneof("detail")].number
            if event.sequence <= last or (not request.kinds and event.sequence != last + 1):
                wrong.append(f"event {event.sequence} after {last}")
            if request.kinds and kind not in request.kinds:
                wrong.append(f"event {event.sequence} is of kind {kind}, asked for were {request.kinds}")
            last = event.sequence
        if frame.last_sequence < last:
            wrong.append(f"the cursor {frame.last_sequence} is behind event {last}")
        last = frame.last_sequence
    return wrong
