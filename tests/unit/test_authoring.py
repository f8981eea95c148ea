"""Steps and workflows without a server behave like the functions they decorate."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import attempt, first_of, gather, now, progress, random, sleep, step, uuid4, wait_signal, workflow
from mendflow.errors import DefinitionError, NotInWorkflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


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


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), "5", True, 10**400, [5]])
def test_a_bad_timeout_is_refused(timeout: Any) -> None:
    with pytest.raises(DefinitionError, match="timeout must be a number of seconds"):
        step(timeout=timeout)(double.function)
    with pytest.raises(DefinitionError, match="retention must be a number of seconds"):
        workflow(retention=timeout)(both.function)


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


class Shop:
    """Members of a class."""

    async def charge(self, order: str) -> str:
        return order

    async def only_self(self) -> None: ...

    async def only_cls(cls) -> None: ...  # noqa: N805 - what a class method's function looks like

    @staticmethod
    async def static(order: str) -> str:
        return order

    @classmethod
    async def of_class(cls, order: str) -> str:
        return order

    @property
    def total(self) -> int:
        return 1

    @functools.cached_property
    def cached(self) -> int:
        return 1

    async def __call__(self, order: str) -> str:
        return order


async def nested_with_self(self: Any) -> None: ...


async def add(a: int, b: int) -> int:
    return a + b


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


async def async_numbers(count: int) -> AsyncIterator[int]:
    yield count


#: What neither decorator accepts, and a part of the way out that the error names.
REFUSED: dict[str, tuple[Any, str]] = {
    "a method": (
        Shop.charge,
        "is a method: a server has no 'self' to call it with; define a function outside the class",
    ),
    "a method of self alone": (Shop.only_self, "is a method"),
    "a class method's function": (Shop.only_cls, "no 'cls'"),
    "a nested function of self": (nested_with_self, "is a method"),
    "a static method": (vars(Shop)["static"], "write @staticmethod above the decorator"),
    "a class method": (vars(Shop)["of_class"], "is a class method; define a function outside the class"),
    "a property": (vars(Shop)["total"], "is a property"),
    "a cached property": (vars(Shop)["cached"], "is a property"),
    "a class": (Shop, "is a class; define a function that makes the object"),
    "a callable object": (Shop(), "is an object of the class Shop; define a function that calls it"),
    "a generator": (numbers, "return a list"),
    "an async generator": (async_numbers, "return a list"),
    "a cached generator": (functools.cache(numbers), "return a list"),
    "a cached coroutine": (functools.lru_cache(add), "remove the cache"),
    "a lambda": (lambda order: order, "write a def function with the types"),
    "a partial": (functools.partial(add, 1), "is an object of the class partial; define a function that calls it"),
    "a partial method": (functools.partialmethod(add, 1), "is an object of the class partialmethod"),
    "a dispatching method": (functools.singledispatchmethod(add), "is an object of the class singledispatchmethod"),
    "a descriptor of a builtin": (str.upper, "is a method"),
    "a string": ("charge", "give a name as name='charge'"),
    "nothing callable": (5, "is an object of the class int"),
}


@pytest.mark.parametrize("options", [{}, {"name": "named"}], ids=["plain", "named"])
@pytest.mark.parametrize("decorator", [step, workflow])
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_function_is_refused_with_the_way_out(decorator: Any, case: str, options: dict[str, str]) -> None:
    target, words = REFUSED[case]
    with pytest.raises(DefinitionError) as refusal:
        decorator(**options)(target)
    assert words in str(refusal.value)
    assert f"@{decorator.__name__} must decorate" in str(refusal.value)


def test_a_decorated_function_is_not_decorated_again() -> None:
    with pytest.raises(DefinitionError, match="double is already a step"):
        step(double)
    with pytest.raises(DefinitionError, match="both is already a workflow"):
        workflow(both)
    with pytest.raises(DefinitionError, match="is an object of the class Workflow"):
        step(both)
    with pytest.raises(DefinitionError, match="is an object of the class Step"):
        workflow(double)  # type: ignore[arg-type]


async def test_a_static_method_and_a_bound_method_can_be_steps() -> None:
    class Namespace:
        @staticmethod
        @step
        async def charge(order: str) -> str:
            return f"receipt for {order}"

    assert await Namespace.charge("x") == "receipt for x"
    assert await step(Shop().charge)("x") == "x"
    assert await workflow(Shop.of_class)("x") == "x"


@pytest.mark.parametrize("name", ["", 5])
def test_a_name_that_is_empty_or_no_string_is_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match=f"name {name!r} must be a letter"):
        step(name=name)(double.function)
    with pytest.raises(DefinitionError, match=f"name {name!r} must be a letter"):
        workflow(name=name)(both.function)


@pytest.mark.parametrize("name", ["", "é", " go", "a" * 101, "-go", 5])
def test_a_signal_name_that_no_caller_can_send_is_refused(name: Any) -> None:
    with pytest.raises(DefinitionError, match="signal name"):
        wait_signal(name)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: sleep("1"), TypeError),  # type: ignore[arg-type]
        (lambda: sleep(True), TypeError),  # noqa: FBT003 - refused
        (lambda: wait_signal("go", timeout="1"), TypeError),  # type: ignore[call-overload]
        (lambda: gather(limit=1.5), ValueError),  # type: ignore[call-overload]
        (lambda: gather(limit=True), ValueError),
        (lambda: sleep(10**400), ValueError),
        (lambda: sleep(days=10**400), ValueError),
        (lambda: sleep(minutes="1"), TypeError),  # type: ignore[arg-type]
        (lambda: sleep(None), TypeError),  # type: ignore[arg-type]
        (lambda: wait_signal("go", timeout=10**400), ValueError),
        (lambda: sleep(1, key=5), DefinitionError),  # type: ignore[arg-type]
    ],
)
def test_a_number_of_the_wrong_type_is_refused_where_it_is_given(
    call: Callable[[], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        call()


@pytest.mark.parametrize("function", [gather, first_of])
@pytest.mark.parametrize("branch", [5, None, "a", [], double])
def test_a_branch_that_cannot_be_awaited_is_refused_where_it_is_given(function: Any, branch: object) -> None:
    async def own() -> None:
        return None

    coroutine = own()
    with pytest.raises(TypeError, match=f"{function.__name__}.*takes calls and coroutines, but argument 2 is "):
        function(coroutine, branch)
    assert inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED, "it is closed, because nothing will await it"
