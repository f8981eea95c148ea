"""Each kind of code change while workflows are open, on a real server that is killed and restarted.

One story serves all tests. The test kills a server with the old code while each workflow is open. A server with the
new code recovers the workflows and gets the awaited signals, and is killed too. Then the old code resumes what the new
code paused.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.v1 import event_pb2, failure_pb2
from tests.support.deploying import deployment, events_of, module_of, state_name
from tests.support.workflow_states import at_rest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow import Client
    from mendflow.v1.event_pb2 import Event
    from tests.support.deploying import Deployment

OLD = "await a(); await b(); await wait_signal('s'); await c()"


@dataclass
class Change:
    """A workflow's code before and after the change, and the expected outcome."""

    new: str
    old: str = OLD
    #: The state in which the new code comes to rest, and the new steps that have run by then.
    state: str = "WAITING"
    ran: str = ""
    #: The state after the signal.
    signalled: str = "SUCCEEDED"
    ran_signalled: str = ""
    #: What the explanation of the pause names.
    named: tuple[str, ...] = ()
    #: The final state under the old code.
    rolled_back: str = "SUCCEEDED"
    #: What the story records of the workflow.
    seen: dict[str, Any] = field(default_factory=dict)


PAUSED: Any = {"state": "PAUSED", "signalled": "PAUSED"}
CHANGES = {
    "renamed": Change("await a(); await n(); await wait_signal('s'); await c()", **PAUSED,
        named=("step b (event", "step n")),
    "replaced_by_a_step_that_exists": Change("await a(); await c(); await wait_signal('s'); await c()", **PAUSED,
        named=("step b (event", "step c")),
    "first_renamed": Change("await n(); await b(); await wait_signal('s'); await c()", **PAUSED,
        named=("step a (event", "step n")),
    "open_and_replaced": Change("await a(); await n(); await c()", old="await a(); await held(); await c()", **PAUSED,
        named=("step held (event", "step n")),
    "in_back_off_and_replaced": Change("await a(); await n(); await c()", old="await a(); await backs_off(); await c()",
        **PAUSED, named=("step backs_off (event", "step n"), rolled_back="WAITING"),
    "removed": Change("await a(); await wait_signal('s'); await c()", signalled="PAUSED",
        named=("step b (event", "step c")),
    "removed_with_what_follows": Change("await a(); await wait_signal('s')", signalled="PAUSED",
        named=("step b (event", "workflow returned before")),
    "inserted": Change("await a(); await n(); await b(); await wait_signal('s'); await c()", **PAUSED,
        named=("step b (event", "step n")),
    "inserted_and_marked": Change(
        "await a(); await n.with_options(inserted=True)(); await b(); await wait_signal('s'); await c()", ran="n",
        rolled_back="SUCCEEDED"),
    "inserted_again_with_its_own_key": Change(
        "await a(); await a.with_options(inserted=True, key='again')(); await b(); await wait_signal('s'); await c()",
        ran="a"),
    "two_inserted": Change("await a(); await n1(); await n2(); await b(); await wait_signal('s'); await c()", **PAUSED,
        named=("step n1",)),
    "two_inserted_one_marked": Change(
        "await a(); await n1.with_options(inserted=True)(); await n2(); await b(); await wait_signal('s'); await c()",
        **PAUSED, ran="n1", named=("step b (event", "step n2"), rolled_back="PAUSED"),
    "two_inserted_both_marked": Change(
        "await a(); await n1.with_options(inserted=True)(); await n2.with_options(inserted=True)(); await b();"
        "await wait_signal('s'); await c()", ran="n1 n2"),
    "moved_after_the_signal": Change("await a(); await wait_signal('s'); await b(); await c()"),
    "moved_to_the_front": Change("await b(); await a(); await wait_signal('s'); await c()"),
    "branches_renamed": Change("await gather(n1(), n2()); await c()", old="await gather(b(), held()); await c()",
        **PAUSED, named=("step gather[0]/b (event", "step gather[1]/held (event", "step gather[0]/n1")),
    "last_step_of_a_branch_removed": Change(
        "async def left(): await a()\nasync def right(): await wait_signal('s'); await n()\n"
        "await gather(left(), right())",
        old="async def left(): await a(); await b()\nasync def right(): await wait_signal('s'); await c()\n"
        "await gather(left(), right())",
        signalled="PAUSED", named=("step gather[0]/b (event", "step gather[1]/n")),
    "last_step_of_a_branch_removed_at_the_end": Change(
        "async def left(): await a()\nasync def right(): await wait_signal('s')\nawait gather(left(), right())",
        old="async def left(): await a(); await b()\nasync def right(): await wait_signal('s')\n"
        "await gather(left(), right())",
        signalled="PAUSED", named=("step gather[0]/b (event", "workflow returned before")),
    "signal_renamed": Change("await a(); await b(); await wait_signal('t'); await c()", **PAUSED,
        named=("signal wait signal:s (event", "signal wait signal:t")),
    "timer_renamed": Change("await a(); await sleep(3600, key='cooldown'); await c()",
        old="await a(); await sleep(3600); await c()", **PAUSED, named=("timer sleep (event", "timer cooldown"),
        rolled_back="WAITING"),
    "timer_inserted_and_marked": Change(
        "await a(); await sleep(0.01, key='cooldown', inserted=True); await b(); await wait_signal('s'); await c()"),
    "signal_wait_inserted_and_marked": Change(
        "await a(); await wait_signal('t', timeout=0.01, inserted=True) if False else None;"
        "await wait_signal('s', key='early', inserted=True); await b(); await wait_signal('s'); await c()",
        signalled="WAITING"),
    "gather_inserted_and_marked": Change(
        "await a(); await gather(n1.with_options(inserted=True)(), n2.with_options(inserted=True)(), key='more');"
        "await gather(b(), c()); await wait_signal('s')",
        old="await a(); await gather(b(), c()); await wait_signal('s')", ran="n1 n2"),
    "added_at_the_end": Change(OLD + "; await n()", ran_signalled="n"),
    "replaced_before_it_was_made": Change("await a(); await b(); await wait_signal('s'); await n()",
        ran_signalled="n"),
    "version_before_the_rest": Change(
        "await a()\nif version('twice'): await n()\nelse: await b()\nawait wait_signal('s'); await c()"),
    "version_after_the_rest": Change(
        "await a(); await b(); await wait_signal('s')\nif version('later'): await n()\nelse: await c()",
        ran_signalled="n"),
    "unchanged": Change(OLD),
}  # fmt: skip


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Run the whole story once. The tests check what it recorded of each change."""
    deployed = deployment(tmp_path_factory.mktemp("changed"))
    try:
        deployed.deploy(module_of({name: change.old for name, change in CHANGES.items()}))
        deployed.run(_start)
        deployed.deploy(module_of({name: change.new for name, change in CHANGES.items()}))
        # The server replays a waiting workflow only when a message arrives, so send a signal that no code waits for.
        deployed.run(lambda client: _signal(client, "nudge"))
        deployed.run(lambda client: _look(client, deployed, "after the restart"))
        deployed.run(lambda client: _signal(client, "s"))
        deployed.run(lambda client: _look(client, deployed, "after the signal"))
        deployed.deploy(module_of({name: change.old for name, change in CHANGES.items()}))
        deployed.run(_await_resumption)
        deployed.run(lambda client: _look(client, deployed, "after the rollback"))
        yield deployed
    finally:
        deployed.server.kill()


async def _start(client: Client) -> None:
    for name, change in CHANGES.items():
        await client.start(name, id=name)
        if "held" in change.old:
            async for event in client.handle(name).watch():
                if event.attempt_started.step_name == "held":
                    break
        else:
            await at_rest(client, name)


async def _signal(client: Client, signal: str) -> None:
    for name in CHANGES:
        found = await client.get(name)
        if not found.HasField("end_time"):
            await client.handle(name).signal(signal)
            await _taken_in(client, name, signal)


async def _taken_in(client: Client, workflow_id: str, signal: str) -> None:
    async with asyncio.timeout(20):
        async for event in client.handle(workflow_id).watch():
            if event.signal_received.name == signal:
                return


async def _await_resumption(client: Client) -> None:
    """Wait, at most 30 s, until the old code has replayed every paused workflow."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            for name, change in CHANGES.items():
                while change.signalled == "PAUSED" and state_name(await client.get(name)) != change.rolled_back:
                    await asyncio.sleep(0.02)


async def _look(client: Client, deployed: Deployment, when: str) -> None:
    for name, change in CHANGES.items():
        found = await at_rest(client, name)
        ran = [step for step, _ in deployed.effects(name)]
        change.seen[when] = (state_name(found), found.explanation, ran, await events_of(client, name))


pytestmark = pytest.mark.parametrize("name", CHANGES)


def test_a_change_of_code_pauses_before_anything_new_starts_or_resumes(story: Deployment, name: str) -> None:
    change = CHANGES[name]
    before = CHANGES["unchanged"].seen["after the restart"][2] if change.old == OLD else None
    state, explanation, ran, events = change.seen["after the restart"]
    assert state == change.state, explanation
    if before is not None:
        assert ran == [*before, *change.ran.split()]
    if state == "PAUSED":
        _check_pause(change, explanation, events)


def test_a_signal_after_the_change_is_kept_and_starts_no_changed_step(story: Deployment, name: str) -> None:
    change = CHANGES[name]
    state, explanation, ran, events = change.seen["after the signal"]
    assert state == change.signalled, explanation
    if state == "PAUSED":
        _check_pause(change, explanation, events)
    if change.ran_signalled:
        assert ran[-1] == change.ran_signalled


def test_after_a_rollback_paused_workflows_resume_and_no_effect_has_two_keys(story: Deployment, name: str) -> None:
    change = CHANGES[name]
    state, explanation, ran, events = change.seen["after the rollback"]
    if change.signalled == "PAUSED":
        assert state == change.rolled_back, explanation
    keys: dict[str, set[str]] = {}
    for step, key in story.effects(name):
        keys.setdefault(step, set()).add(key)
    twice = {step for step, found in keys.items() if len(found) > 1}
    assert twice <= ({"a"} if "again" in change.new else set())
    assert all(ran.count(step) == 1 for step in keys if step not in ("held", "a"))
    _check_lost_attempts(events)


def _check_pause(change: Change, explanation: str, events: list[Event]) -> None:
    assert events[-1].HasField("alert_raised") or events[-1].HasField("signal_received")
    assert all(text in explanation for text in change.named), explanation
    for sequence, label in re.findall(r"(?:step|timer|signal wait) (\S+) \(event (\d+)\)", explanation):
        assert label.isdigit()
        opening = events[int(label) - 1]
        assert sequence in (
            opening.attempt_started.step_key,
            opening.timer_started.key,
            opening.signal_awaited.key,
            opening.signal_taken.key,
        )
    paused = [event for event in events if event.HasField("workflow_paused")]
    assert paused[-1].workflow_paused.reason == event_pb2.STATE_REASON_NON_DETERMINISM


def _check_lost_attempts(events: list[Event]) -> None:
    """Check that only the two crashes of the process closed attempts as lost."""
    lost = [event for event in events if event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_LOST]
    recovered = [event for event in events if event.HasField("workflow_recovered")]
    assert len(lost) <= len(recovered)
