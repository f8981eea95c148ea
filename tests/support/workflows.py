"""The workflows that tests run. They leave their traces in a journal file named by MENDFLOW_TEST_JOURNAL."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from mendflow import (
    PermanentError,
    RetryPolicy,
    SignalTimeout,
    StepFailed,
    ThrottledError,
    TransientError,
    attempt,
    gather,
    now,
    progress,
    random,
    sleep,
    step,
    uuid4,
    wait_signal,
    workflow,
)

QUICK = RetryPolicy(max_attempts=4, initial_interval=0.02, maximum_interval=0.1)


def write(line: str) -> None:
    """Append a line to the journal of side effects, one for each real execution."""
    path = os.environ.get("MENDFLOW_TEST_JOURNAL")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass
class Order:
    """An input with fields."""

    id: str
    amount: int
    items: list[str] = field(default_factory=list)


@dataclass
class Receipt:
    """An output with fields."""

    order_id: str
    total: int


@step
async def note_down(text: str) -> str:
    """Write a line and return the text."""
    write(f"note_down {attempt().step_key} {attempt().number} {attempt().idempotency_key} {text}")
    return text


@step
async def hold(seconds: float, name: str) -> str:
    """Run for this many seconds."""
    write(f"hold {attempt().step_key} {attempt().number} {attempt().idempotency_key} {name}")
    await asyncio.sleep(seconds)
    return name


@step
def hold_thread(seconds: float, name: str) -> str:
    """Run for this many seconds, on a thread."""
    write(f"hold_thread {attempt().step_key} {attempt().number} {attempt().idempotency_key} {name}")
    time.sleep(seconds)
    return f"{name} on {threading.current_thread().name}"


@step(retry=QUICK)
async def flaky(failures: int) -> int:
    """Fail ``failures`` times, then return the attempt's number."""
    number = attempt().number
    write(f"flaky {number}")
    if number <= failures:
        msg = f"attempt {number} of {failures} failures"
        raise TransientError(msg)
    return number


@step(retry=RetryPolicy(max_attempts=5))
async def slow_to_retry(name: str) -> str:
    """Fail at once on the first attempt, and retry late: not by the policy, whose jitter may give a short delay."""
    write(f"slow_to_retry {attempt().number} {name}")
    if attempt().number == 1:
        msg = "the first attempt fails"
        raise ThrottledError(msg, retry_after=30.0)
    return name


@step
async def refuse(message: str) -> None:
    """Fail without a retry."""
    raise PermanentError(message)


@step(retry=RetryPolicy(max_attempts=2, initial_interval=0.01, on_exhaustion="pause"))
async def needs_help(flag: str) -> str:
    """Fail until the flag file exists, and pause when retries are used up."""
    if not Path(flag).exists():  # noqa: ASYNC240 - a test's flag
        msg = "not yet"
        raise TransientError(msg)
    return "helped"


@step
async def add(a: int, b: int = 1) -> int:
    """Return the sum."""
    return a + b


@step
async def kill_server() -> None:
    """Kill the whole process."""
    write("kill_server")
    os._exit(9)


@step(timeout=0.2, retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
async def too_slow() -> None:
    """Never end in time."""
    write(f"too_slow {attempt().number}")
    await asyncio.sleep(60)


@step
async def block(seconds: float) -> list[float]:
    """Block the loop for this many seconds, and return the begin and the end."""
    begin = time.time()
    while time.time() < begin + seconds:
        time.sleep(0.01)  # noqa: ASYNC251 - what must not be done
    return [begin, time.time()]


@step(timeout=0.05, retry=RetryPolicy(max_attempts=2, initial_interval=0.01))
async def cut_short() -> None:
    """Never end in time, and be interrupted soon."""
    await asyncio.sleep(60)


@step(retry=RetryPolicy(max_attempts=3, initial_interval=0.01))
async def resumable(upto: int) -> list[int]:
    """Resume after the last attempt's heartbeat."""
    begin = int(attempt().last_heartbeat or 0)
    done = []
    for index in range(begin, upto):
        done.append(index)
        attempt().heartbeat(index + 1)
        progress(index + 1, upto, f"item {index}")
        if index == upto // 2 and attempt().number == 1:
            msg = "half-way"
            raise TransientError(msg)
    return done


@workflow
async def echo(value: str) -> str:
    """Run one step."""
    return await note_down(value)


@workflow
async def three(value: str) -> str:
    """Run three steps."""
    first = await note_down(f"{value}-1")
    second = await note_down(f"{first}-2")
    return await note_down(f"{second}-3")


@workflow
async def nothing() -> None:
    """Return without a step, an input or an output."""


@workflow(signals={"go": str})
async def wait_for(name: str) -> str:
    """Wait for the signal go."""
    return f"{name}: {await wait_signal('go', str)}"


@workflow
async def typed(order: Order) -> Receipt:
    """Use an input and an output with fields."""
    total = 0
    for item in order.items:
        total = await add(total, len(item))
    return Receipt(order_id=order.id, total=total + order.amount)


@workflow
async def sleeper(seconds: float) -> str:
    """Sleep, then take a step."""
    await sleep(seconds)
    return await note_down("awake")


@workflow
async def retried(failures: int) -> int:
    """Run a step that fails some times."""
    return await flaky(failures)


@workflow
async def retried_late(name: str) -> str:
    """Run a step that backs off for long."""
    return await slow_to_retry(name)


@workflow
async def fails(message: str) -> None:
    """Run a step that fails without a retry."""
    await refuse(message)


@workflow
async def paused(flag: str) -> str:
    """Run a step that needs an operator."""
    return await needs_help(flag)


@workflow
async def holds(seconds: float) -> str:
    """Run a step that takes time."""
    return await hold(seconds, "held")


@workflow
async def holds_thread(seconds: float) -> str:
    """Run a step that takes time, on a thread."""
    return await hold_thread(seconds, "held")


@workflow
async def branches(seconds: list[float]) -> list[str]:
    """Run steps in parallel."""
    return await gather(*(hold(each, f"branch-{index}") for index, each in enumerate(seconds)))


@workflow
async def one_branch_fails(message: str) -> str:
    """Run a branch whose failure cancels the other."""
    try:
        await gather(hold(30, "other"), refuse(message))
    except StepFailed as error:
        return f"caught {error.step_key}: {error.failure.message}"
    return "not reached"


@workflow
async def cleans_up(seconds: float) -> str:
    """Clean up when cancelled."""
    try:
        await hold(seconds, "work")
    except asyncio.CancelledError:
        await note_down("cleaned")
        raise
    return "done"


@workflow
async def survives_cancel(seconds: float) -> str:
    """Catch the cancel and return."""
    try:
        await sleep(seconds)
    except asyncio.CancelledError:
        return "survived"
    return "done"


@workflow
async def poison(_: str) -> None:
    """Kill the server."""
    await kill_server()


@workflow
async def times_out() -> str:
    """Run a step that never ends in time."""
    try:
        await too_slow()
    except StepFailed as error:
        return f"kind {error.failure.kind}"
    return "not reached"


@workflow
async def heartbeats(upto: int) -> list[int]:
    """Run a step that resumes after an interruption."""
    return await resumable(upto)


@workflow
async def signal_or_timeout(seconds: float) -> str:
    """Wait for a signal with a timeout."""
    try:
        return str(await wait_signal("go", timeout=seconds))
    except SignalTimeout:
        return "timed out"


@workflow
async def forbidden(how: str) -> str:
    """Await something that cannot be replayed."""
    if how == "asyncio.sleep":
        await asyncio.sleep(0.01)
    elif how == "bare":
        await asyncio.sleep(0)
    elif how == "task":
        await asyncio.create_task(_in_a_task())
    elif how == "future":
        await asyncio.get_running_loop().create_future()
    elif how == "timeout":
        async with asyncio.timeout(1):
            await note_down("inside")
    return "not refused"


async def _in_a_task() -> str:
    return await note_down("from a task")


@workflow
async def everything(name: str) -> list[str]:
    """Use every primitive."""
    seen = [str(now()), str(uuid4()), str(random())]
    progress(0, 4, "begun")
    seen += await gather(note_down(f"{name}-a"), _nested(name), note_down(f"{name}-b"))
    progress(1, 4, "gathered")
    seen.append(str(await flaky(1)))
    await sleep(0.05)
    progress(2, 4, "slept")
    seen.append(str(await wait_signal("go", str)))
    try:
        await refuse("on purpose")
    except StepFailed:
        seen.append("refused")
    try:
        await wait_signal("never", timeout=0.05)
    except SignalTimeout:
        seen.append("timed out")
    try:
        await gather(sleep(60), hold(60, "withdrawn"), refuse("a branch fails"))
    except StepFailed:
        seen.append("withdrawn")
    seen.append(str(await hold_thread(0.01, name)).partition(" ")[0])
    seen.append(str(await resumable(4)))
    progress(4, 4, "done")
    return seen


@workflow
async def blocks(seconds: float) -> list[float]:
    """Run a step that blocks the loop, which no step may do."""
    return await block(seconds)


@workflow
async def everything_else(flag: str) -> list[str]:
    """Use the primitives that `everything` does not use. It needs an operator."""
    seen = [await note_down.with_options(key="named")("a")]
    kept: tuple[object, ...] = await gather(note_down("b"), refuse("on purpose"), sleep(0.02), return_exceptions=True)
    seen += [each if isinstance(each, str) else type(each).__name__ for each in kept]
    try:
        await cut_short()
    except StepFailed as error:
        seen.append(f"kind {error.failure.kind}")
    seen.append(await needs_help(flag))
    return seen


async def _nested(name: str) -> str:
    await sleep(0.02)
    first, second = await gather(note_down(f"{name}-c"), note_down(f"{name}-d"))
    return first + second


@workflow
async def slow_to_clean() -> None:
    """Clean up for long when cancelled."""
    try:
        await hold(30, "work")
    except asyncio.CancelledError:
        await hold(30, "clean-up")
        raise


@workflow
async def chatty(steps: int) -> int:
    """Run many steps with long results, after the signal go."""
    await wait_signal("go")
    size = 0
    for index in range(steps):
        size += len(await note_down(f"{index:06d}" * 170))
    return size


@workflow
async def reports_progress(seconds: float) -> None:
    """Report progress, then take time."""
    progress(1, 3, "begun")
    await hold(seconds, "between")
    progress(3, 3, "done")
