"""Types and values that the tests of the codec share."""

from __future__ import annotations

import dataclasses
from decimal import Decimal  # noqa: TC003 - pydantic reads the annotation at run time
from typing import Any

from hypothesis import strategies as st

from mendflow.codec import ValueType
from mendflow.v1 import failure_pb2, payload_pb2


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


def round_trip(annotation: Any, value: Any) -> Any:
    """Return what comes back of a value from its bytes."""
    value_type = ValueType.of(annotation)
    return value_type.decode(payload_pb2.Payload.FromString(value_type.encode(value).SerializeToString()))


FAILURE = failure_pb2.Failure(message="m")
