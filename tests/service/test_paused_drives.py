"""What a pause of changed code keeps: arriving results, recorded inputs, and the ways to end the pause."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.v1 import event_pb2, failure_pb2
from tests.support.deploying import PRELUDE, deployment, events_of, module_of, state_name, wait_event
from tests.support.workflow_states import at_rest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mendflow import Client
    from mendflow.v1 import workflow_pb2
    from mendflow.v1.event_pb2 import Event
    from tests.support.deploying import Deployment

FLAGGED = """
@step
async def flagged():
    effect("flagged")
    while not os.path.exists("flag"):
        await asyncio.sleep(0.005)
    return "kept"
"""


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployment]:
    """A deployment whose server is not started yet."""
    deployed = deployment(tmp_path)
    try:
        yield deployed
    finally:
        deployed.server.kill()


def test_a_result_that_comes_in_while_paused_is_kept_and_its_step_never_runs_again(deployed: Deployment) -> None:
    old = "async def right(): await b(); await wait_signal('s'); await c()\nreturn await gather(flagged(), right())"
    new = "async def right(): await wait_signal('s'); await c()\nreturn await gather(flagged(), right())"
    deployed.deploy(PRELUDE + FLAGGED + module_of({"order": old}).removeprefix(PRELUDE))

    async def start(client: Client) -> None:
        await client.start("order", id="order")
        await wait_event(client, "order", "signal_awaited")

    async def pause(client: Client) -> None:
        # This process's attempt is in flight when the signal shows that a call was removed.
        await client.handle("order").signal("s")
        paused = await wait_event(client, "order", "workflow_paused")
        (deployed.server.directory / "flag").touch()
        await wait_event(client, "order", "attempt_succeeded", after=paused.sequence)
        assert state_name(await client.get("order")) == "PAUSED"

    async def finish(client: Client) -> list[Event]:
        assert await client.handle("order").result() == ["kept", None]
        return await events_of(client, "order")

    deployed.run(start)
    deployed.deploy(PRELUDE + FLAGGED + module_of({"order": new}).removeprefix(PRELUDE))
    deployed.run(pause)
    deployed.deploy(PRELUDE + FLAGGED + module_of({"order": old}).removeprefix(PRELUDE))
    events = deployed.run(finish)
    assert [name for name, _ in deployed.effects("order")] == ["flagged", "b", "flagged", "c"]
    lost = [event for event in events if event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST]
    assert len(lost) == 1, "only the death of the first server closed an attempt"


def test_a_result_that_does_not_fit_any_more_pauses_and_stays(deployed: Deployment) -> None:
    typed = "\n@step\nasync def quote() -> {}:\n    effect('quote')\n    return {}\n"
    body = {"order": "await quote(); await wait_signal('s'); await c()"}
    deployed.deploy(PRELUDE + typed.format("str", "'five'") + module_of(body).removeprefix(PRELUDE))
    deployed.run(lambda client: _start_and_rest(client, "order"))
    deployed.deploy(PRELUDE + typed.format("int", "5") + module_of(body).removeprefix(PRELUDE))

    async def signalled(client: Client) -> workflow_pb2.Workflow:
        await client.handle("order").signal("s")
        await wait_event(client, "order", "workflow_paused")
        return await client.get("order")

    assert "step quote (event 2): the recorded result no longer matches" in deployed.run(signalled).explanation
    deployed.deploy(PRELUDE + typed.format("str", "'five'") + module_of(body).removeprefix(PRELUDE))
    assert deployed.run(lambda client: client.handle("order").result()) is None
    assert [name for name, _ in deployed.effects("order")] == ["quote", "c"]


def test_a_paused_workflow_of_changed_code_can_be_cancelled_without_a_clean_up(deployed: Deployment) -> None:
    _pause_order(deployed)

    async def cancel(client: Client) -> list[Event]:
        await client.handle("order").cancel()
        found = await client.get("order", wait=10)
        assert state_name(found) == "CANCELLED"
        return await events_of(client, "order")

    events = deployed.run(cancel)
    assert events[-1].workflow_cancelled.cut_keys == ["signal:s"]
    assert [name for name, _ in deployed.effects("order")] == ["a", "b"]


def test_a_resume_of_code_that_still_does_not_fit_pauses_again_and_records_nothing_else(deployed: Deployment) -> None:
    _pause_order(deployed)

    async def resume(client: Client) -> list[Event]:
        before = (await client.get("order")).last_sequence
        await client.handle("order").resume()
        await wait_event(client, "order", "workflow_paused", after=before)
        return (await events_of(client, "order"))[before:]

    kinds = [event.WhichOneof("detail") for event in deployed.run(resume)]
    assert kinds[:2] == ["workflow_resumed", "workflow_paused"]
    assert set(kinds[2:]) <= {"alert_raised"}


def test_restarts_with_code_that_still_does_not_fit_add_nothing_to_the_history(deployed: Deployment) -> None:
    _pause_order(deployed)
    before = deployed.run(lambda client: client.get("order")).last_sequence
    for _ in range(2):
        deployed.server.kill()
        deployed.server.start()
        found = deployed.run(lambda client: client.get("order"))
        assert (state_name(found), found.last_sequence) == ("PAUSED", before)
        assert found.reason == event_pb2.STATE_REASON_NON_DETERMINISM


def test_a_later_attempt_under_a_type_with_a_new_field_gets_the_recorded_input(deployed: Deployment) -> None:
    source = """
@dataclass
class Order:
    id: str
    {field}
@step(retry=RetryPolicy(initial_interval=0.001, maximum_interval=0.001))
async def charge(order: Order) -> str:
    effect("charge")
    if not os.path.exists("flag"):
        await asyncio.sleep(60)
    return repr(order)
@workflow
async def buy():
    return await charge(Order("o-1"))
"""
    deployed.deploy(PRELUDE + source.format(field=""))

    async def start(client: Client) -> None:
        await client.start("buy", id="buy")
        await wait_event(client, "buy", "attempt_started")

    deployed.run(start)
    (deployed.server.directory / "flag").touch()
    deployed.deploy(PRELUDE + source.format(field='currency: str = "EUR"'))
    assert "currency='EUR'" in deployed.run(lambda client: client.handle("buy").result())
    events = deployed.run(lambda client: events_of(client, "buy"))
    started = [event.attempt_started for event in events if event.HasField("attempt_started")]
    assert json.loads(started[0].input.json) == {"order": {"id": "o-1"}}
    assert len({key for _, key in deployed.effects("buy")}) == 1


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit(0)", "GeneratorExit"])
def test_what_workflow_code_raises_never_ends_the_server(deployed: Deployment, raised: str) -> None:
    deployed.deploy(module_of({"order": f"await a(); await sleep(0.05)\nraise {raised}", "fine": "await b()"}))

    async def both(client: Client) -> workflow_pb2.Workflow:
        await client.start("order", id="order")
        found = await client.get("order", wait=10)
        await client.run("fine")
        return found

    assert state_name(deployed.run(both)) == "FAILED"
    assert deployed.server.process is not None
    assert deployed.server.process.poll() is None


async def _start_and_rest(client: Client, workflow_id: str) -> Any:
    await client.start(workflow_id, id=workflow_id)
    return await at_rest(client, workflow_id)


def _pause_order(deployed: Deployment) -> None:
    """Bring an order into PAUSED by renaming its step b."""
    deployed.deploy(module_of({"order": "await a(); await b(); await wait_signal('s'); await c()"}))
    deployed.run(lambda client: _start_and_rest(client, "order"))
    deployed.deploy(module_of({"order": "await a(); await n(); await wait_signal('s'); await c()"}))

    async def signal(client: Client) -> None:
        await client.handle("order").signal("s")
        await wait_event(client, "order", "workflow_paused")

    deployed.run(signal)
