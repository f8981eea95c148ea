"""Random workflow programs: a tree of everything that workflow code may do, and the one function that runs it.

A program is plain JSON, so that it can be a workflow's input: a list of a word and its parts. The input of a step says
what the code has seen so far, and in which order. So code that sees things in another order calls its steps with other
inputs.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from hypothesis import strategies as st

from mendflow import (
    PermanentError,
    RetryPolicy,
    SignalTimeout,
    StepFailed,
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

QUICK = RetryPolicy(max_attempts=3, initial_interval=0.001, maximum_interval=0.002)
#: The signals that programs wait for.
SIGNALS = ("go", "stop")
SOON = 0.003


@step(retry=QUICK)
async def work(seen: str) -> str:
    """Take some time in some cases."""
    if "slow" in seen:
        await asyncio.sleep(SOON)
    return f"worked after {seen[-20:]}"


@step(retry=QUICK)
async def other(seen: str, times: int = 0) -> int:
    """Fail ``times`` times before it works."""
    if attempt().number <= times:
        raise TransientError(seen)
    return attempt().number


@step
async def refuse(seen: str) -> str:
    """Fail without a retry."""
    raise PermanentError(seen)


@step(timeout=0.02, retry=QUICK)
async def late(seen: str) -> str:
    """Exceed the timeout of the first attempt."""
    if attempt().number == 1:
        await asyncio.sleep(60)
    return f"in time after {seen[-20:]}"


@step(retry=QUICK)
def think(seen: str, times: int = 0) -> str:
    """Take some time on a thread, and fail there ``times`` times before it works."""
    time.sleep(SOON)
    if attempt().number <= times:
        raise TransientError(seen)
    return f"thought after {seen[-20:]}"


@step(retry=RetryPolicy(max_attempts=1, on_exhaustion="pause"))
async def help_wanted(seen: str) -> str:
    """Pause the workflow until an operator resumes it."""
    if attempt().number == 1:
        raise TransientError(seen)
    return "helped"


@step
async def nap(seen: str) -> str:
    """Take long enough for a death to interrupt it. The next attempt ends at once."""
    if attempt().number == 1:
        await asyncio.sleep(0.2)
    return f"rested after {seen[-20:]}"


@step
async def kill(seen: str) -> str:
    """Kill the process, the first time."""
    if attempt().number == 1:
        os._exit(9)
    return f"survived after {seen[-20:]}"


_leaves = st.sampled_from(
    [
        ["work"],
        ["slow"],
        ["flaky"],
        ["refuse"],
        ["late"],
        ["think"],
        ["think again"],
        ["help"],
        ["sleep"],
        ["signal", "go"],
        ["signal", "stop"],
        ["signal or timeout", "go"],
        ["now"],
        ["random"],
        ["drawn"],
        ["progress"],
    ]
)


def inner_programs(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return programs with these parts inside."""
    some = st.lists(parts, min_size=1, max_size=4)
    return st.one_of(
        st.builds(lambda word, each: [word, *each], st.sampled_from(["gather", "settled", "sequence"]), some),
        st.builds(
            lambda word, body, after: [word, body, after],
            st.sampled_from(["try", "swallow", "clean up", "finally"]),
            parts,
            parts,
        ),
    )


programs = st.recursive(_leaves, inner_programs, max_leaves=14)
#: Programs in which a death finds something to interrupt.
slow_programs = st.lists(
    st.recursive(st.one_of(_leaves, st.just(["nap"])), inner_programs, max_leaves=6), min_size=2, max_size=5
).map(lambda parts: ["sequence", *parts])


async def interpret(program: Any, log: list[str]) -> Any:
    """Run a program. ``log`` holds what was seen so far."""
    word, *parts = program
    if word == "sequence":
        return [await interpret(part, log) for part in parts]
    if word == "gather":
        return await gather(*(interpret(part, log) for part in parts))
    if word == "settled":
        found = await gather(*(interpret(part, log) for part in parts), return_exceptions=True)
        return [str(each) for each in found]
    if word in ("try", "swallow", "clean up", "finally"):
        return await _guarded(word, parts[0], parts[1], log)
    answer = await _leaf(word, *parts, seen=f"{len(log)} {' '.join(log[-2:])}")
    log.append(answer)
    return answer


async def _guarded(word: str, body: Any, after: Any, log: list[str]) -> Any:
    if word == "finally":
        try:
            return await interpret(body, log)
        finally:
            await interpret(after, log)
    if word == "try":
        try:
            return await interpret(body, log)
        except (StepFailed, SignalTimeout) as error:
            log.append(type(error).__name__)
            return await interpret(after, log)
    try:
        return await interpret(body, log)
    except asyncio.CancelledError:
        log.append("cancelled")
        await interpret(after, log)
        if word == "clean up":
            raise
        return "swallowed"


async def _leaf(word: str, name: str = "", *, seen: str) -> str:
    if word in _CALLS:
        return str(await _CALLS[word](seen))
    if word == "sleep":
        await sleep(SOON)
    elif word == "signal":
        return str(await wait_signal(name))
    elif word == "signal or timeout":
        return str(await wait_signal(name, timeout=SOON))
    elif word == "now":
        now()
        uuid4()
    elif word == "random":
        random()
    elif word == "progress":
        progress(1, 2, seen)
    return word


_CALLS: dict[str, Any] = {
    "work": work,
    "slow": lambda seen: work(f"slow {seen}"),
    "flaky": lambda seen: other(seen, times=1),
    "refuse": refuse,
    "late": late,
    "think": think,
    "think again": lambda seen: think(seen, times=1),
    "help": help_wanted,
    "nap": nap,
    "kill": kill,
    # The step's input is a value that must be the same in every replay.
    "drawn": lambda seen: work(f"{random()} {seen}"),
}


@workflow
async def run_program(program: list[Any]) -> Any:
    """Run a program."""
    return await interpret(program, [])
