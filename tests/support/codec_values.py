"""Types and values that the tests of the codec share."""

from __future__ import annotations

import dataclasses
from decimal import Decimal  # noqa: TC003 - pydantic reads the annotation at run time

from hypothesis import strategies as st

from mendflow.v1 import failure_pb2


@dataclasses.dataclass(frozen=True)
class Item:
    name: str
    price: Decimal
    tags: frozenset[str] = frozenset()
    note: str | None = None


@dataclasses.dataclass
class Cat:
    name: str


texts = st.text(st.characters(codec="utf-8"), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)

FAILURE = failure_pb2.Failure(message="m")
