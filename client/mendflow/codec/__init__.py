"""Conversion between Python values and payloads, by annotation.

A recorded value must be the same on every replay. For that reason `encode`
decodes its own text before it returns it, and compares the two, so that a value
that would come back as another raises an error where it is made, and never enters
a history. It skips this only for values that their type proves faithful. The text
depends only on the value: sets are sorted, and JSON is strict (no NaN, no Infinity).
"""

from __future__ import annotations

from mendflow.codec.arguments import Arguments, parameter_type, return_type
from mendflow.codec.compare import lost_member, oversize, payload_size, same_payload, shown
from mendflow.codec.difference import difference
from mendflow.codec.roundtrip import may_overflow, not_finite
from mendflow.codec.values import ValueType

__all__ = [
    "Arguments",
    "ValueType",
    "difference",
    "lost_member",
    "may_overflow",
    "not_finite",
    "oversize",
    "parameter_type",
    "payload_size",
    "return_type",
    "same_payload",
    "shown",
]
