"""State beside the fields of a class: the codec refuses what would be lost, instead of trusting the fields."""

from __future__ import annotations

import abc
import dataclasses
import enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, Self, TypeVar

import pytest
from pydantic import BaseModel, TypeAdapter

from mendflow import step, workflow
from mendflow.codec import ValueType
from mendflow.codec.exact import exact_test
from mendflow.errors import PayloadError, WorkflowFailed
from mendflow.testing import WorkflowTest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Wide(enum.Enum):
    NONE = 0
    ALL = 2**64 - 1


class Merged(enum.Enum):
    A = 1
    B = 2

    @property
    def value(self) -> int:
        return 5


@dataclasses.dataclass
class Listed(list[int]):
    a: int = 0


@dataclasses.dataclass
class Mapped(dict[str, int]):
    a: int = 0


@dataclasses.dataclass
class Numbered(int):
    a: int = 0

    def __new__(cls, a: int = 0) -> Self:
        return int.__new__(cls, a + 5)


@dataclasses.dataclass
class Floating(float):
    a: int = 0

    def __new__(cls, a: int = 0) -> Self:
        return float.__new__(cls, a + 5)


@dataclasses.dataclass
class Fault(Exception):
    code: int


@dataclasses.dataclass
class ManualSlots:
    __slots__ = ("_c", "a")
    a: int


class SlottedParent:
    __slots__ = ("__dict__", "p")


@dataclasses.dataclass
class OfSlotted(SlottedParent):
    a: int


class SlottedModel(BaseModel):
    __slots__ = ("q",)
    a: int


@dataclasses.dataclass
class Reading:
    a: int

    def __getattribute__(self, name: str) -> Any:
        value = object.__getattribute__(self, name)
        return value + 1 if name == "a" else value


@dataclasses.dataclass
class Shadowed:
    a: int


def doubled(self: Shadowed) -> Any:
    return self.__dict__["a"] * 2


def tripled(self: Shadowed, value: int) -> None:
    self.__dict__["a"] = value * 3


Shadowed.a = property(doubled, tripled)  # type: ignore[assignment, method-assign, unused-ignore]


class Point(NamedTuple):
    x: int


class Noted(Point):
    pass


def having(value: Any, **attributes: Any) -> Any:
    for name, each in attributes.items():
        object.__setattr__(value, name, each)
    return value


def filled(value: Any, fill: Callable[[Any], object]) -> Any:
    fill(value)
    return value


LOST: list[tuple[Any, str]] = [
    (Wide.ALL, "Unable to parse"),
    (Merged.A, "would be decoded as"),
    (filled(Listed(5), lambda box: box.extend([1, 2])), "has 2 items"),
    (filled(Mapped(5), lambda box: box.update(x=1)), "the key 'x' would be lost"),
    (Numbered(1), "its int, 6, would be decoded as 5"),
    (Floating(1), "derives from float"),
    (Fault(1), "args: has 1 items"),
    (filled(Fault(code=1), lambda fault: setattr(fault, "__cause__", ValueError())), "__cause__: "),
    (having(ManualSlots(1), _c=3), "_c: 3 would be lost"),
    (having(OfSlotted(1), p=3), "p: 3 would be lost"),
    (having(SlottedModel(a=1), q=3), "q: 3 would be lost"),
    (Reading(1), "a: 2 would be decoded as 3"),
    (Shadowed(1), "a: 6 would be decoded as 12"),
    (having(Noted(1), note="x"), "its attribute 'note', 'x', is no field"),
]


@pytest.mark.parametrize(("value", "problem"), LOST, ids=lambda each: type(each).__name__)
def test_state_that_a_reader_would_not_get_is_refused(value: Any, problem: str) -> None:
    for annotation, wrapped in ((type(value), value), (list[type(value)], [value])):  # type: ignore[misc]
        with pytest.raises(PayloadError, match=problem):
            ValueType.of(annotation).encode(wrapped)
    assert exact_test(TypeAdapter(type(value)).core_schema) is None


class Shown(Protocol):
    def show(self) -> str:
        """Return a text."""


@dataclasses.dataclass(slots=True)
class Slotted(Generic[T]):
    a: int


@dataclasses.dataclass(slots=True)
class DerivedSlots(Slotted[int]):
    b: int = 0


@dataclasses.dataclass
class OfAbstract(abc.ABC, Shown):
    a: int = 1

    def show(self) -> str:
        return str(self.a)

    @property
    def double(self) -> int:
        return self.a * 2


@dataclasses.dataclass(slots=True, weakref_slot=True)
class Referenced:
    a: int


class Parent:
    def show(self) -> str:
        return "parent"


@dataclasses.dataclass
class OfPlain(Parent):
    a: int = 1

    @property
    def double(self) -> int:
        return self.a * 2


class OfGeneric(BaseModel, Generic[T]):
    a: int = 1


class Small(enum.Enum):
    A = 2**63 - 1
    B = "b"


SHOWN: list[Any] = [Slotted(1), DerivedSlots(1, 2), OfPlain(3), OfGeneric[str](a=2), Small.A, Small.B]


@pytest.mark.parametrize("value", SHOWN, ids=lambda each: type(each).__name__)
def test_classes_without_hidden_state_keep_their_proof(value: Any) -> None:
    value_type = ValueType.of(type(value))
    assert value_type.decode(value_type.encode(value)) == value
    exact = exact_test(TypeAdapter(type(value)).core_schema)
    assert exact is not None
    assert exact.passes(value)


@pytest.mark.parametrize("value", [Listed(5), Mapped(5), Fault(code=5), ManualSlots(5), OfAbstract(5), Referenced(1)])
def test_classes_that_could_have_hidden_state_may_be_used_without_it(value: Any) -> None:
    value_type = ValueType.of(type(value))
    assert value_type.decode(value_type.encode(value)) == value


@step
async def flags() -> Wide:
    return Wide.ALL


@workflow
async def reads_flags() -> str:
    return (await flags()).name


def test_a_result_that_its_workflow_cannot_read_fails_the_step() -> None:
    with WorkflowTest(reads_flags) as env:
        handle = env.start(reads_flags)
        with pytest.raises(WorkflowFailed, match="exceeded maximum size"):
            handle.result()
