"""Steps and workflows without a server behave like the functions they decorate."""

from __future__ import annotations

import pytest

from mendflow import attempt, gather, now, progress, random, sleep, step, uuid4, wait_signal, workflow
from mendflow.errors import DefinitionError, NotInWorkflow


@step
def double(number: int) -> int:
    return number * 2


@step(timeout=3)
async def shout(text: str) -> str:
    """Return the text in capitals."""
    progress(1, 1, "shouting")
    attempt().heartbeat({"at": 1})
    return f"{text.upper()} {double(1)}"


@workflow
async def both(number: int) -> list[str]:
    await sleep(0)
    doubled, loud = await gather(double(number), shout("x"))
    return [str(doubled), loud, str(await double(5))]


async def test_a_step_called_outside_a_workflow_is_the_function() -> None:
    assert double(2) == 4  # type: ignore[comparison-overlap]
    assert await shout("hi") == "HI 2"
    assert getattr(shout, "__name__", "") == "shout"
    assert shout.__doc__ == "Return the text in capitals."


async def test_a_workflow_called_by_hand_runs_its_steps() -> None:
    assert await both(3) == ["6", "X 2", "10"]
    assert double(2) == 4, "and afterwards a step is the function again"  # type: ignore[comparison-overlap]


async def test_values_outside_a_workflow_are_fresh() -> None:
    assert uuid4() != uuid4()
    assert 0 <= random() < 1
    assert now().tzinfo is not None
    assert attempt().number == 1


async def test_a_signal_cannot_be_awaited_outside_a_workflow() -> None:
    with pytest.raises(NotInWorkflow, match="wait_signal"):
        await wait_signal("go")


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 1e12])
def test_a_senseless_sleep_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="0 seconds to 100 years"):
        sleep(seconds)


def test_an_input_has_no_default() -> None:
    with pytest.raises(DefinitionError, match="parameter 'number' must not have a default"):

        @workflow
        async def forgetful(number: int = 7) -> int:
            return number


def test_a_workflow_takes_one_input_at_most() -> None:
    with pytest.raises(DefinitionError, match="at most one parameter"):

        @workflow  # type: ignore[arg-type]
        async def two(a: int, b: int) -> None: ...

    with pytest.raises(DefinitionError, match="async def"):

        @workflow  # type: ignore[arg-type]
        def plain() -> None: ...


@pytest.mark.parametrize("name", ["", "1st", "with space", "x" * 101, "naïve"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="must be a letter followed by"):
        step(name=name or " ")(double.function)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_bad_timeout_is_refused(timeout: float) -> None:
    with pytest.raises(DefinitionError, match="timeout"):
        step(timeout=timeout)(double.function)


def test_with_options_returns_another_step() -> None:
    other = double.with_options(timeout=5, key="twice")
    assert (other.timeout, other.key, other.name) == (5.0, "twice", "double")
    assert double.key == ""
    with pytest.raises(DefinitionError, match="key"):
        double.with_options(key="a/b")


def test_workflow_with_a_signal_name_that_is_no_string_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be a string, not 5"):
        workflow(signals={5: int})(both.function)  # type: ignore[dict-item]


def test_step_with_a_retry_that_is_no_policy_is_refused() -> None:
    with pytest.raises(DefinitionError, match="must be a RetryPolicy, not 3"):
        step(retry=3)(double.function)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match="must be a RetryPolicy, not 3"):
        double.with_options(retry=3)  # type: ignore[arg-type]
