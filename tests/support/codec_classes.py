"""Classes whose values may come back changed, and what is needed to change one, for the tests of the codec."""

from __future__ import annotations

import dataclasses
import enum
import threading
from datetime import datetime
from typing import Annotated, Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

import pydantic
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr


def field(**settings: Any) -> Any:
    """Return a pydantic field for a class whose type checkers know no aliases."""
    return Field(**settings)


@dataclasses.dataclass
class Base:
    x: int


@dataclasses.dataclass
class Derived(Base):
    y: int = 0


@dataclasses.dataclass
class Computed:
    a: int
    double: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.double = self.a * 2


@dataclasses.dataclass
class Tagged:
    kind: Literal["a"] = dataclasses.field(default="a", init=False)
    counter: int = dataclasses.field(default=0, init=False)


@dataclasses.dataclass
class Raised:
    a: int

    def __post_init__(self) -> None:
        self.a += 1


class Private(BaseModel):
    x: int
    _y: int = PrivateAttr(default=0)
    _lock: threading.Lock = PrivateAttr(default_factory=threading.Lock)


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    x: int


class Incremented(BaseModel):
    x: int

    @pydantic.field_validator("x")
    @classmethod
    def increment(cls, x: int) -> int:
        return x + 1


class Stripping(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)
    x: str


class Rounded(BaseModel):
    x: float

    @pydantic.field_serializer("x")
    def round(self, x: float) -> float:
        return round(x, 1)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(enum.StrEnum):
    A = "a"


class Level(enum.IntEnum):
    LOW = 1


class Text(str):
    __slots__ = ()


class Names(list[str]):
    pass


class Pair(NamedTuple):
    x: int
    y: int


class Opaque:
    """A class that says nothing about sameness."""

    def __init__(self, x: int) -> None:
        self.x = x
        self.seen = 0


OpaqueType = Annotated[Opaque, pydantic.PlainValidator(Opaque), pydantic.PlainSerializer(lambda value: value.x)]
BERLIN = ZoneInfo("Europe/Berlin")
NIGHT = datetime(2020, 10, 25, 2, 30)  # noqa: DTZ001 - the hour that comes twice


def changed(value: Any, **attributes: Any) -> Any:
    """Return the value with attributes that are set after it was made."""
    for name, part in attributes.items():
        setattr(value, name, part)
    return value
