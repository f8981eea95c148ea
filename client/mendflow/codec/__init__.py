"""Conversion between Python values and payloads, by annotation.

A recorded value must be the same on every replay. For that reason `encode`
decodes its own text before it returns it, so that a value that cannot be decoded
raises an error where it is made, and never enters a history. The text depends
only on the value: sets are sorted, and JSON is strict (no NaN, no Infinity).
"""

from __future__ import annotations

from mendflow.codec.arguments import Arguments, parameter_type, return_type
from mendflow.codec.compare import lost_member, oversize, payload_size, same_payload, shown
from mendflow.codec.values import ValueType

__all__ = [
    "Arguments",
    "ValueType",
    "lost_member",
    "oversize",
    "parameter_type",
    "payload_size",
    "return_type",
    "same_payload",
    "shown",
]
