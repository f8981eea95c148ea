"""Workflows that the tests of the test kit run."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime
from typing import Any

from mendflow import (
    RetryPolicy,
    SignalTimeout,
    StepFailed,
    TransientError,
    attempt,
    gather,
    now,
    random,
    sleep,
    step,
    uuid4,
    version,
    wait_signal,
    workflow,
)
from mendflow.errors import PayloadError


@step(retry=RetryPolicy(max_attempts=11, initial_interval=60, backoff_coefficient=1, maximum_interval=60))
async def charge(order: int) -> str:
    """Refuse: tests fake it."""
    raise AssertionError(order)


@step
def ship(order: int, receipt: str) -> str:
    return f"{order} with {receipt}"


@workflow(signals={"decision": str})
async def place_order(order: int) -> str:
    receipt = await charge(order)
    if await wait_signal("decision", str, timeout=3_600) != "approve":
        return "rejected"
    await sleep(hours=1)
    return await ship(order, receipt)


@workflow
async def nap() -> list[str]:
    began = now()
    await sleep(hours=1)
    return [began.isoformat(), now().isoformat()]


@workflow
async def impatient() -> str:
    try:
        return str(await wait_signal("go", str, timeout=3_600))
    except SignalTimeout:
        return "too late"


@step(timeout=10)
async def hang() -> str:
    await asyncio.Event().wait()
    return "never"


@step(timeout=10, retry=RetryPolicy(max_attempts=1))
async def really_sleeps() -> float:
    began = time.monotonic()
    await asyncio.sleep(0.2)
    return time.monotonic() - began


@step(timeout=10, retry=RetryPolicy(max_attempts=1))
def blocks() -> str:
    time.sleep(0.2)
    return threading.current_thread().name


@workflow
async def busy() -> str:
    slept, thread, _ = await gather(really_sleeps(), blocks(), sleep(hours=1))
    return f"{slept >= 0.2} {thread}"


@workflow
async def hanging() -> str:
    return await hang.with_options(retry=RetryPolicy(max_attempts=2))()


@step(timeout=5)
async def on_loop(number: int) -> int:
    await asyncio.sleep(0.001 * (number % 3))
    return number


@step(timeout=5)
def on_thread(number: int) -> int:
    time.sleep(0.001 * (number % 3))
    return number


@workflow
async def rounds(number: int) -> int:
    """Wait two hours and a second, and use no time for anything else."""
    await sleep(hours=1)
    await gather(on_loop(number), on_thread(number))
    await sleep(1)
    await on_loop(number)
    await sleep(hours=1)
    return await on_thread(number)


@step
async def note(text: str) -> str:
    return text.upper()


@workflow
async def mixed(count: int) -> list[str]:
    """Record something of every kind."""
    new = version("new")
    ids = f"{uuid4()}"
    first, second = await gather(note(f"a{count}"), note(f"b{count}"))
    await sleep(60)
    came = await wait_signal("go", str, timeout=60)
    third = await note(f"{came} {new} {len(ids)} {0 <= random() < 1}")
    return [first, second, third]


@step(retry=RetryPolicy(max_attempts=5, initial_interval=60))
async def flaky(fail: int) -> str:
    """Fail so many times. Return what the attempt sees."""
    this = attempt()
    if this.number <= fail:
        this.heartbeat(this.number)
        raise TransientError("later")
    return f"{this.step_key} {this.number} {this.last_heartbeat}"


async def tidy(seconds: float) -> str:
    """Wait, and clean up when cancelled."""
    try:
        await sleep(seconds)
    except asyncio.CancelledError:
        raise ValueError(await note("cleaned")) from None
    return f"slept {seconds}"


@workflow(signals={"go": list[int]})
async def everything(scenario: str) -> list[str]:  # noqa: C901 - one list of scenarios
    """Behave alike on the engine and by hand."""
    said: list[str] = []
    try:
        match scenario:
            case "retries":
                said += await gather(flaky(4), flaky(0), flaky(2))
                said.append(await flaky(1))
            case "exhausted":
                said.append(await flaky(5))
            case "first failure":
                said += await gather(tidy(600), flaky(9), tidy(1))
            case "failures returned":
                found: Any = await gather(flaky(9), tidy(5), flaky(1), return_exceptions=True)
                said += [str(each) for each in found]
            case "nested":
                inner = [gather(flaky(1), tidy(7200)), gather(tidy(3), flaky(3))]
                said += [str(each) for each in await gather(*inner, key="outer")]
            case "signals":
                said.append(str(await wait_signal("go", list[int], timeout=50)))
                said += [str(each) for each in await gather(wait_signal("go", list[int]), sleep(5))]
                said.append(str(await wait_signal("go", list[int], timeout=50)))
            case "wrong value":
                said.append(await note(5))  # type: ignore[arg-type]
            case "error":
                said.append(str(1 // len(said)))
            case "forgotten":
                note("never")
            case _:
                said.append(scenario)
    except (StepFailed, SignalTimeout, PayloadError, ValueError) as error:
        said.append(f"{type(error).__name__} {str(error).partition(chr(10))[0]}")
    return said


SCENARIOS = (
    "retries",
    "exhausted",
    "first failure",
    "failures returned",
    "nested",
    "signals",
    "wrong value",
    "error",
    "forgotten",
)


@workflow
async def changing() -> str:
    """Break the rules: it calls other steps when it is replayed."""
    changing_calls.append(datetime.now().astimezone().isoformat())
    await note.with_options(key=f"k{len(changing_calls)}")("x")
    await sleep(hours=1)
    return "done"


changing_calls: list[str] = []
