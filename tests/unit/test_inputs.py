"""Inputs of recorded calls under changed types: the replay compares them by type, and steps get them as recorded."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mendflow import step, workflow
from mendflow.codec import Arguments, ValueType
from mendflow.v1.payload_pb2 import Payload
from mendflow_server.replay.inputs import input_problem, is_unstable
from mendflow_server.replay.workflow_runner import NonDeterminism
from tests.support.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclasses.dataclass
class Order:
    id: str
    cents: int


@dataclasses.dataclass
class OrderWithMore:
    id: str
    cents: int
    currency: str = "EUR"
    notes: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class OrderWithLess:
    id: str


@dataclasses.dataclass
class OrderWithToken:
    id: str
    cents: int
    token: str = dataclasses.field(default_factory=lambda: uuid4().hex)


@dataclasses.dataclass
class OrderOfText:
    id: str
    cents: list[int]


def problem(before: Callable[..., Any], after: Callable[..., Any], old: Any, new: Any) -> str:
    """Return the problem of replaying a call of the old function with the new one."""
    recorded = Arguments.of(before).encode((old,) if not isinstance(old, tuple) else old, {})
    given = Arguments.of(after).encode((new,) if not isinstance(new, tuple) else new, {})
    return input_problem(Arguments.of(after), recorded, given)


def plain(order: Order) -> None: ...
def with_more(order: OrderWithMore) -> None: ...
def with_less(order: OrderWithLess) -> None: ...
def with_token(order: OrderWithToken) -> None: ...
def of_text(order: OrderOfText) -> None: ...
def with_parameter(order: Order, currency: str = "EUR") -> None: ...
def odd_default(order: Order, retries: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013 - the oddity
def renamed(purchase: Order) -> None: ...


def test_a_new_optional_field_changes_nothing() -> None:
    assert problem(plain, with_more, Order("o", 5), OrderWithMore("o", 5)) == ""


def test_a_new_optional_field_that_is_given_another_value_is_another_input() -> None:
    found = problem(plain, with_more, Order("o", 5), OrderWithMore("o", 5, currency="USD"))
    assert found.startswith('recorded input {"order":{"id":"o","cents":5}}, called with {"order":{"id":"o"')


@pytest.mark.parametrize("given", [(Order("o", 5),), (Order("o", 5), "EUR")])
def test_a_new_parameter_that_has_its_default_changes_nothing(given: tuple[Any, ...]) -> None:
    assert problem(plain, with_parameter, Order("o", 5), given) == ""


def test_a_default_that_is_no_value_of_its_type_is_left_out_of_the_comparison() -> None:
    assert problem(plain, odd_default, Order("o", 5), Order("o", 5)) == ""
    assert "called with" in problem(plain, odd_default, Order("o", 5), Order("o", 6))


def test_a_field_that_is_gone_is_named() -> None:
    assert problem(plain, with_less, Order("o", 5), OrderWithLess("o")).endswith(
        "the step's parameters no longer have order.cents"
    )


def test_another_value_is_another_input() -> None:
    assert "called with" in problem(plain, plain, Order("o", 5), Order("o", 6))


@pytest.mark.parametrize(("after", "given"), [(of_text, OrderOfText("o", [5])), (renamed, Order("o", 5))])
def test_an_input_that_does_not_fit_any_more_says_where(after: Callable[..., Any], given: Any) -> None:
    assert "no longer matches the step's parameters" in problem(plain, after, Order("o", 5), given)


def test_a_random_default_is_hinted_at() -> None:
    found = problem(plain, with_token, Order("o", 5), OrderWithToken("o", 5))
    assert found.endswith("a default of its type differs on every read; use a constant default")


def of_message(message: Timestamp) -> None: ...
def of_message_and_more(message: Timestamp, currency: str = "EUR") -> None: ...
def of_message_and_needed(message: Timestamp, currency: str) -> None: ...


def test_a_new_optional_parameter_beside_a_message_changes_nothing() -> None:
    message = Timestamp(seconds=5)
    assert problem(of_message, of_message_and_more, message, message) == ""
    assert "called with" in problem(of_message, of_message_and_more, message, (message, "USD"))
    assert "called with" in problem(of_message, of_message_and_more, message, Timestamp(seconds=6))
    assert "no longer matches" in problem(of_message, of_message_and_needed, message, (message, "EUR"))


def test_later_attempts_get_the_recorded_input() -> None:
    @step(name="charge")
    async def before(order: Order) -> str:
        return order.id

    @step(name="charge")
    async def after(order: OrderWithMore) -> str:
        return order.id

    @workflow
    async def old() -> str:
        return await before(Order("o", 5))

    @workflow
    async def new() -> str:
        return await after(OrderWithMore("o", 5))

    again = Simulation(new, events=Simulation(old).begin().all_events).begin()
    _, payload = again.run.wanted["charge"]
    assert json.loads(payload.json) == {"order": {"id": "o", "cents": 5}}
    (order,), _ = after.arguments.decode(payload)
    assert order == OrderWithMore("o", 5, "EUR", [])


def test_an_input_type_with_a_random_default_is_hinted_at_where_it_is_first_seen() -> None:
    @step
    async def charge(token: str) -> str:
        return token

    @workflow
    async def checkout(order: OrderWithToken) -> str:
        return await charge(order.token)

    started = Payload(json='{"id":"o","cents":5}')
    assert checkout.input_type is not None
    live = Simulation(checkout, checkout.input_type.decode(started))
    live.all_events[0].workflow_started.input.CopyFrom(started)
    live.begin()
    again = Simulation(checkout, checkout.input_type.decode(started), live.all_events)
    with pytest.raises(NonDeterminism, match="a default that differs on every read"):
        again.begin()


@dataclasses.dataclass
class OrderWithNewToken:
    id: str
    token: str = dataclasses.field(default="", init=False)

    def __post_init__(self) -> None:
        self.token = uuid4().hex


def test_an_input_that_is_another_at_each_read_is_unstable_although_it_cannot_be_recorded() -> None:
    payload = Payload(json='{"id":"o","cents":5}')
    assert is_unstable(ValueType.of(OrderWithNewToken), payload)
    assert is_unstable(ValueType.of(OrderWithToken), payload)
    assert not is_unstable(ValueType.of(Order), payload)
    assert not is_unstable(ValueType.of(OrderWithNewToken), Payload(json="{}"))
