"""Recorded calls: the arguments come back as they were passed, or the codec refuses them with the parameter's name."""

from __future__ import annotations

import inspect
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf import any_pb2

from mendflow.codec import Arguments, ValueType, parameter_type, return_type
from mendflow.errors import DefinitionError, PayloadError
from mendflow.v1 import failure_pb2, payload_pb2
from tests.support.codec_values import FAILURE, Cat, Item

Payload = payload_pb2.Payload


def nothing() -> None: ...
def one(x: int) -> None: ...
def several(a: Item, /, b: int = 2, *, c: str = "c") -> None: ...
def takes_message(failure: failure_pb2.Failure) -> None: ...
def mixed(failure: failure_pb2.Failure, n: int = 0, other: failure_pb2.Failure | None = None) -> None: ...
def needs_more(failure: failure_pb2.Failure, n: int) -> None: ...
def untyped(x, y=1): ...  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201 - the case
def two_positional(a: int = 1, b: int = 2, /) -> None: ...
def variable(*args: int) -> None: ...
def keywords(**kwargs: int) -> None: ...
def unresolved(x: int, y: Missing) -> None: ...  # type: ignore[name-defined] # noqa: F821 - the case
def unresolved_result(x: int) -> Missing: ...  # type: ignore[name-defined] # noqa: F821 - the case
def nested_message(x: int, holder: list[failure_pb2.Failure]) -> None: ...


ITEM = Item("a", Decimal("1.5"))
#: A float where the type says Decimal.
WRONG: Any = 1.5


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "text"),
    [
        (nothing, (), {}, ""),
        (one, (3,), {}, '{"x":3}'),
        (one, (), {"x": 3}, '{"x":3}'),
        (several, (ITEM,), {"c": "x"}, '{"a":{"name":"a","price":"1.5","tags":[],"note":null},"c":"x"}'),
        (several, (ITEM, 1), {}, '{"a":{"name":"a","price":"1.5","tags":[],"note":null},"b":1}'),
        (takes_message, (FAILURE,), {}, ""),
        (takes_message, (), {"failure": FAILURE}, ""),
        (mixed, (FAILURE,), {}, '{"failure":{"message":"m"}}'),
        (mixed, (FAILURE, 1, None), {}, '{"failure":{"message":"m"},"n":1,"other":null}'),
        (mixed, (FAILURE,), {"other": FAILURE}, '{"failure":{"message":"m"},"other":{"message":"m"}}'),
        (untyped, ([1, {"a": None}],), {"y": "z"}, '{"x":[1,{"a":null}],"y":"z"}'),
        (two_positional, (), {}, "{}"),
        (two_positional, (5,), {}, '{"a":5}'),
    ],
)
def test_a_call_comes_back_as_it_was_made(function: Any, args: Any, kwargs: Any, text: str) -> None:
    arguments = Arguments.of(function)
    payload = arguments.encode(args, kwargs)
    assert payload.json == text
    back_args, back_kwargs = arguments.decode(Payload.FromString(payload.SerializeToString()))
    bind = inspect.signature(function).bind
    assert bind(*back_args, **back_kwargs) == bind(*args, **kwargs)


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (nothing, (1,), {}),
        (one, (), {}),
        (one, (1, 2), {}),
        (one, (1,), {"x": 1}),
        (one, (), {"y": 1}),
        (several, (), {"a": ITEM}),
        (several, (ITEM, 1, "c"), {}),
        (takes_message, (), {}),
    ],
)
def test_a_wrong_call_raises_what_calling_would(function: Any, args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError):
        function(*args, **kwargs)
    with pytest.raises(TypeError):
        Arguments.of(function).encode(args, kwargs)


@pytest.mark.parametrize(
    ("function", "args", "path"),
    [
        (one, ("a",), "x"),
        (several, (Item("a", WRONG),), "a.price"),
        (untyped, (1, {2: 3}), "y"),
        (mixed, (3,), "failure"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(function: Any, args: Any, path: str) -> None:
    with pytest.raises(PayloadError) as caught:
        Arguments.of(function).encode(args, {})
    assert caught.value.problems[0][0] == path


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (nothing, '{"x":1}'),
        (one, "{}"),
        (one, "3"),
        (one, '{"x":"a"}'),
        (one, '{"x":1,"y":2}'),
        (one, '{"x":NaN}'),
        (one, "[" * 100_000),
        (mixed, '{"failure":{"nope":1}}'),
        (mixed, '{"failure":null}'),
        (mixed, '{"failure":[]}'),
        (mixed, '{"failure":{"message":3}}'),
        (takes_message, '{"failure":{}}'),
        (two_positional, '{"b":3}'),
    ],
)
def test_hostile_arguments_are_refused(function: Any, text: str) -> None:
    with pytest.raises(PayloadError):
        Arguments.of(function).decode(Payload(json=text))


def test_arguments_refuse_a_message_and_absence_where_they_need_json() -> None:
    wrapped = Payload(message=any_pb2.Any(type_url="x/mendflow.v1.Failure"))
    for function in (one, needs_more, nothing):
        with pytest.raises(PayloadError):
            Arguments.of(function).decode(wrapped)
    # This was recorded when the message was the only parameter.
    assert Arguments.of(mixed).decode(wrapped) == ([failure_pb2.Failure()], {})
    with pytest.raises(PayloadError):
        Arguments.of(one).decode(None)
    assert Arguments.of(nothing).decode(None) == ([], {})


def test_unknown_members_of_a_dataclass_are_treated_alike_everywhere() -> None:
    text = '{"name":"x","later":1}'
    assert ValueType.of(Cat).decode(Payload(json=text)) == Cat("x")

    args, _ = Arguments.of(takes_cat).decode(Payload(json=f'{{"cat":{text}}}'))
    assert args == [Cat("x")]


def takes_cat(cat: Cat) -> Cat: ...  # type: ignore[empty-body] # only its types matter


@pytest.mark.parametrize(
    ("function", "named"),
    [(variable, r"\*args"), (keywords, r"\*\*kwargs"), (unresolved, "'y'"), (nested_message, "'holder'")],
)
def test_a_definition_that_cannot_be_recorded_names_the_parameter(function: Any, named: str) -> None:
    with pytest.raises(DefinitionError, match=named):
        Arguments.of(function)


def test_parameter_and_return_types() -> None:
    assert parameter_type(nothing) is None
    assert parameter_type(takes_cat).decode(Payload(json='{"name":"x"}')) == Cat("x")  # type: ignore[union-attr]
    assert return_type(takes_cat).encode(Cat("x")).json == '{"name":"x"}'
    assert return_type(untyped).encode([1]).json == "[1]"
    with pytest.raises(PayloadError):
        return_type(nothing).encode(1)
    with pytest.raises(DefinitionError, match="the result"):
        return_type(unresolved_result)
