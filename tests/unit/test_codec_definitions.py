"""Definitions: the codec refuses a type whose values never come back, with the path and the reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Generator, Iterable
from typing import Annotated, Any

import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field

from mendflow.codec import Arguments, ValueType
from mendflow.errors import DefinitionError
from tests.support.codec_classes import field


class ReadsOther(BaseModel):
    n: int = field(default=0, validation_alias="N")


class WritesOther(BaseModel):
    n: int = field(default=0, serialization_alias="N")


class ReadsChoices(BaseModel):
    n: int = field(default=0, validation_alias=AliasChoices("a", "b"))


class ReadsInside(BaseModel):
    n: int = field(default=0, validation_alias=AliasPath("a", "b"))


class ReadsByName(BaseModel):
    model_config = ConfigDict(validate_by_alias=False, validate_by_name=True)
    n: int = field(default=0, alias="N")


class WritesTwice(BaseModel):
    a: int = field(default=0, alias="x")
    b: int = field(default=0, alias="x")


class Excluded(BaseModel):
    x: int
    y: int = Field(default=0, exclude=True)


@dataclasses.dataclass
class ExcludedPart:
    x: Annotated[int, Field(exclude=True)] = 1


@dataclasses.dataclass
class NeedsInit:
    x: int
    seed: dataclasses.InitVar[int]


class WithGenerator(BaseModel):
    items: Iterable[int] = ()


@dataclasses.dataclass
class Holder:
    part: Excluded | None = None


@pytest.mark.parametrize(
    ("annotation", "path", "words"),
    [
        (ReadsOther, "ReadsOther.n", "written as 'n' but read as 'N'; use one alias"),
        (WritesOther, "WritesOther.n", "written as 'N' but read as 'n'"),
        (ReadsChoices, "ReadsChoices.n", "read as 'a' or 'b'"),
        (ReadsInside, "ReadsInside.n", "read as a name inside another member"),
        (ReadsByName, "ReadsByName.n", "written as 'N' but read as 'n'"),
        (WritesTwice, "WritesTwice.b", "written as 'x', as is a"),
        (Excluded, "Excluded.y", "excluded"),
        (ExcludedPart, "ExcludedPart.x", "excluded"),
        (list[Excluded], "Excluded.y", "excluded"),
        (Holder, "Excluded.y", "excluded"),
        (dict[str, tuple[int, Excluded]] | None, "Excluded.y", "excluded"),
        (NeedsInit, "NeedsInit.seed", "InitVar"),
        (WithGenerator, "WithGenerator", "read only once; use a list"),
        (Generator[int, None, None], "", "read only once; use a list"),
        (Callable[[], int], "", "a function"),
        (type[int], "", "a class"),
        (pydantic.Json, "", "the value's own type"),
        (pydantic.SecretStr, "", "asterisks"),
        (pydantic.Secret[int], "", "asterisks"),
        (dict[None, int], "", "keys are strings"),
        (dict[tuple[int, int], int], "", "keys are strings"),
    ],
    ids=str,
)
def test_a_type_whose_values_never_come_back_is_refused_at_definition(annotation: Any, path: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=f"cannot be recorded: {re.escape(path)}.*{re.escape(words)}"):
        ValueType.of(annotation)


def test_a_definition_that_would_lose_a_field_names_the_parameter() -> None:
    def takes(order: Excluded) -> None: ...

    takes.__annotations__["order"] = Excluded
    with pytest.raises(DefinitionError, match=r"parameter 'order': .*Excluded\.y: it is excluded"):
        Arguments.of(takes)
