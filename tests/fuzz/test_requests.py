"""Input: each message to an rpc is answered by its contract, and the server and its store stay sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.answers import faults_of_answer
from tests.fuzz.calling import Fuzzed, call, fuzzed
from tests.fuzz.contract import BY_NAME, METHODS, Answer, Method
from tests.fuzz.forms import fuzz
from tests.fuzz.messages import REQUEST_LIMIT, messages
from tests.fuzz.world import World
from tests.support.scale import scaled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message
    from hypothesis.strategies import SearchStrategy

    from tests.support.servers import Server

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


# More starts, signals and streams than others, because they reach the most code.
calls = st.lists(
    st.one_of(
        *map(calls_of, METHODS),
        *(calls_of(BY_NAME[name]) for name in ("StartWorkflow", "SignalWorkflow", "WatchWorkflow")),
    ),
    min_size=1,
    max_size=5,
)


def called(rpc: str, /, **fields: Any) -> Call:
    """Return a good call."""
    method = BY_NAME[rpc]
    return Call(method, method.request(**fields))


#: One of each call that leaves something behind. These are among the calls whatever else is drawn.
LEAVING = [
    called("SignalWorkflow", workflow_id="@waiting", name="unheard", allow_undeclared=True, request_id="r9"),
    called("SignalWorkflow", workflow_id="@sleeping", name="unheard", allow_undeclared=True),
    called("SignalWorkflow", workflow_id="@full", name="unheard", allow_undeclared=True, request_id="r9"),
    called("CancelWorkflow", workflow_id="@backoff"),
    called("TerminateWorkflow", workflow_id="@sleeping"),
    called("HoldWorkflow", workflow_id="@failed"),
    called("DeleteWorkflow", workflow_id="@failed"),
    called("DeleteWorkflow", workflow_id="@succeeded"),
]


@pytest.fixture
async def fuzzed_server(tmp_path: Path) -> AsyncIterator[tuple[Fuzzed, World]]:
    async with fuzzed(tmp_path, seeded=SEEDED) as running:
        yield running, World(running.server, SEEDED)
        entries = running.ledger.entries
        print(f"\n{dict(entries)}")  # noqa: T201 - the proof's figures
        # The calls included those that leave something behind.
        kinds = ("started", "signalled", "nameless", "cancelled", "refused", "terminated", "deleted")
        assert all(entries[kind] for kind in kinds)


async def test_every_service_is_fuzzed(server: Server) -> None:
    """The server has no rpc without a strategy."""
    reflection = BY_NAME["ServerReflectionInfo"]
    asked = reflection.request(list_services="")
    answer = await call(server.channel, reflection, [asked.SerializeToString()])
    served = {service.name for service in answer.responses[0].list_services_response.service}
    assert served == {method.path.split("/")[1] for method in METHODS}
    assert all(method.documented for method in METHODS if method.ours)


@fuzz(*EXAMPLES)
@given(calls=calls)
@example(calls=LEAVING)
async def test_any_message_is_answered_by_the_contract(calls: list[Call], fuzzed_server: tuple[Fuzzed, World]) -> None:
    running, world = fuzzed_server
    await world.refresh()
    for drawn in calls:
        method, request = drawn.method, type(drawn.request).FromString(drawn.request.SerializeToString())
        await world.name(request, touching=method.name in TOUCHING)
        data = request.SerializeToString()
        answer = await running.call(method, request, data)
        wrong = [] if _is_too_large(data, answer) else faults_of_answer(method, request, answer)
        assert not wrong, f"{Call(method, request)}\n{answer.code}\n{wrong}\n{running.complaints.taken()}"
    await running.is_sound()


TOUCHING = {
    "SignalWorkflow", "CancelWorkflow", "ResumeWorkflow", "TerminateWorkflow", "HoldWorkflow", "ReleaseWorkflow",
    "DeleteWorkflow",
}  # fmt: skip


def _is_too_large(data: bytes, answer: Answer) -> bool:
    """Return whether gRPC itself refused the call, before the server's code saw it."""
    return len(data) > REQUEST_LIMIT and answer.code == "RESOURCE_EXHAUSTED"
