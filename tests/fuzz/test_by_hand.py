"""Workflows called by hand: drawn programs do by hand what they do on the engine."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mendflow import SignalTimeout, StepFailed, WorkflowFailed, wait_signal, workflow
from mendflow.errors import NotInWorkflow
from mendflow.testing import StillOpen, WorkflowTest, by_hand
from tests.fuzz.forms import fuzz
from tests.fuzz.programs import inner_programs, interpret

#: Each program finds so many signals of each name.
MANY = 12

#: What is the same on every machine: no threads, no backoff with jitter, no real time.
_leaves = st.sampled_from(
    [
        ["work"],
        ["refuse"],
        ["sleep"],
        ["signal", "go"],
        ["signal", "stop"],
        ["signal or timeout", "go"],
        ["now"],
        ["random"],
        ["progress"],
    ]
)
steady_programs = st.recursive(_leaves, inner_programs, max_leaves=12)


@workflow
async def logged(program: list[Any]) -> list[Any]:
    """Run a program once all signals have come. Return its result with what it saw, in order."""
    await wait_signal("begin")
    log: list[str] = []
    try:
        return [await interpret(program, log), log]
    except (StepFailed, SignalTimeout, asyncio.CancelledError) as error:
        return [type(error).__name__, log]


@fuzz(short=40, long=400)
@given(steady_programs)
def test_drawn_programs_do_by_hand_what_they_do_on_the_engine(program: list[Any]) -> None:
    signals: dict[str, list[Any]] = {"go": list(range(MANY)), "stop": list(range(100, 100 + MANY)), "begin": [None]}
    with WorkflowTest(logged) as env:
        run = env.start(logged, program)
        for name, data in signals.items():
            for each in data:
                run.signal(name, each)
        try:
            on_engine = str(run.result())
        except StillOpen:
            on_engine = "open"
        except WorkflowFailed as error:
            on_engine = error.failure.type
        attempts = run.history.steps
    with by_hand(signals=signals) as hand:
        try:
            said = str(asyncio.run(logged(program)))
        except NotInWorkflow:
            said = "open"
    assert said == on_engine
    assert hand.attempts == attempts
