"""How Python values become payloads, and payloads Python values, by annotation.

What a history keeps must come back the same on every replay. So `encode`
reads its own text back before it answers: what cannot be decoded is refused
where it is made, not found in a history later. The text depends on the value
alone: sets are sorted, and JSON is strict (no NaN, no Infinity).
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
