"""The test workflows for a server under load: each real execution of a step is a line of effects.jsonl.

There is also an errand, a workflow whose shape is its input.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mendflow import (
    SignalTimeout,
    StepFailed,
    ThrottledError,
    TransientError,
    Workflow,
    attempt,
    gather,
    progress,
    random,
    sleep,
    step,
    uuid4,
    wait_signal,
    workflow,
)
from mendflow.authoring.step import Step
from tests.support import workflows
from tests.support.workflows import QUICK, flaky, note_down, refuse, resumable

if TYPE_CHECKING:
    from collections.abc import Callable

#: The file of these lines, in the server's own directory.
EFFECTS = "effects.jsonl"
#: The file in which each life records when its process was up, as wall clock seconds. A server imports this module
#: last.
LIVES = "lives.txt"


@dataclass
class Leg:
    """A part of an errand."""

    kind: str
    count: int = 1
    seconds: float = 0.0
    signal: str = ""


@step
def jot(text: str, seconds: float) -> str:
    """Return the text, on a thread, after a pause."""
    time.sleep(seconds)
    return text


@step(retry=QUICK)
def flaky_on_thread(failures: int) -> int:
    """Fail ``failures`` times, on a thread."""
    if attempt().number <= failures:
        msg = f"attempt {attempt().number} of {failures} failures"
        raise TransientError(msg)
    return attempt().number


@step(retry=QUICK)
async def busy_at_first(seconds: float) -> str:
    """Fail once, and ask for a pause of this length."""
    if attempt().number == 1:
        raise ThrottledError("come again", retry_after=seconds)
    return "came again"


@step(timeout=2.0, retry=QUICK)
async def stuck_at_first() -> str:
    """Exceed the time limit, once."""
    if attempt().number == 1:
        await asyncio.sleep(600)
    return "got through"


async def _branch(name: str, seconds: float) -> str:
    await sleep(seconds)
    first, second = await gather(note_down(f"{name}-1"), jot(f"{name}-2", seconds))
    return first + second


async def _steps(leg: Leg) -> str:
    for index in range(leg.count):
        await note_down(str(index))
        await jot(str(index), leg.seconds)
    return "stepped"


async def _bulk(leg: Leg) -> str:
    for index in range(leg.count):
        await note_down(f"{index:04d}" * 2_500)
    return "stepped"


async def _retries(leg: Leg) -> str:
    await flaky(leg.count)
    await flaky_on_thread(leg.count)
    return "came through"


async def _backs_off(leg: Leg) -> str:
    return await busy_at_first(leg.seconds)


async def _overruns(_leg: Leg) -> str:
    return await stuck_at_first()


async def _gathers(leg: Leg) -> str:
    return "+".join(await gather(*(_branch(str(index), leg.seconds * index) for index in range(leg.count))))


async def _sleeps(leg: Leg) -> str:
    await gather(*(sleep(leg.seconds * index) for index in range(leg.count)))
    return "slept"


async def _waits(leg: Leg) -> str:
    try:
        return str(await wait_signal(leg.signal, timeout=leg.seconds or None))
    except SignalTimeout:
        return "timed out"


async def _is_refused(leg: Leg) -> str:
    try:
        await gather(sleep(60), refuse("on purpose"))
    except StepFailed:
        return "refused"
    return "not refused"


async def _records(leg: Leg) -> str:
    before = [str(uuid4()), str(random())]
    return "kept" if await gather(*(note_down(each) for each in before)) == before else "lost"


async def _reports(leg: Leg) -> str:
    progress(1, 2, "before")
    left = await resumable(leg.count)
    progress(2, 2, "after")
    return "reported" if left == list(range(leg.count))[-len(left) :] or not left else f"reported {left}"


LEGS: dict[str, Callable[[Leg], Any]] = {
    "steps": _steps,
    "bulk": _bulk,
    "retries": _retries,
    "back-off": _backs_off,
    "overrun": _overruns,
    "gather": _gathers,
    "sleep": _sleeps,
    "signal": _waits,
    "refused": _is_refused,
    "values": _records,
    "progress": _reports,
}


@workflow
async def errand(legs: list[Leg]) -> list[str]:
    """Run one leg after the other, and clean up when cancelled."""
    done = []
    try:
        for leg in legs:
            done.append(await LEGS[leg.kind](leg))  # noqa: PERF401 - awaited one by one
    except asyncio.CancelledError:
        await note_down("cleaned up")
        raise
    return done


def _put_down() -> None:
    """Append this execution to the effects in one system call, so that the line is there whole or not at all."""
    this = attempt()
    line = {
        "workflow_id": this.workflow_id,
        "step_key": this.step_key,
        "attempt": this.number,
        "idempotency_key": this.idempotency_key,
    }
    _append(EFFECTS, json.dumps(line))


def _append(path: str, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode() + b"\n")
    finally:
        os.close(descriptor)


def _journalled(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def on_loop(*args: Any, **kwargs: Any) -> Any:
        _put_down()
        return await function(*args, **kwargs)

    @functools.wraps(function)
    def on_thread(*args: Any, **kwargs: Any) -> Any:
        _put_down()
        return function(*args, **kwargs)

    return on_loop if asyncio.iscoroutinefunction(function) else on_thread


def served() -> dict[str, Workflow[Any, Any]]:
    """Return all workflows, and make each of their steps write its line."""
    for thing in {id(thing): thing for module in (vars(workflows), globals()) for thing in module.values()}.values():
        if isinstance(thing, Step):
            # object.__setattr__ is needed because the attributes are frozen.
            vars(thing).update(function=_journalled(thing.function))
    return {name: thing for name, thing in vars(workflows).items() if isinstance(thing, Workflow)}


# The server finds workflows among a module's names. Only a server needs them: a test that imports this module does not.
if "MENDFLOW_TEST_JOURNAL" in os.environ:
    globals().update(served())
    _append(LIVES, repr(time.time()))
