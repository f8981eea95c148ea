"""Read trace contexts from a call's metadata, and derive the ids of spans.

Span ids are derived from the workflow's uid, the step's key and the attempt's
number. So a span that is exported twice has the same id both times.
"""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING, Any, Final

from mendflow.v1 import event_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mendflow_server.telemetry.sampling import Sampler

__all__ = ["attempt_span_id", "trace_from_metadata", "workflow_span_id"]

#: W3C Trace Context: version, trace id, parent id, flags. A later version may have more fields.
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
#: The lengths that the specifications require to be forwarded.
_LONGEST_STATE: Final = 512
_LONGEST_BAGGAGE: Final = 8192
SAMPLED: Final = 1


def trace_from_metadata(
    metadata: Iterable[tuple[str, Any]] | None,
    *,
    random_bytes: Callable[[int], bytes] = os.urandom,
    sampler: Sampler | None = None,
) -> event_pb2.TraceContext:
    """Return the caller's trace context, or that of a new trace.

    A new trace is sampled, and the caller's decision is kept, unless a sampler decides.
    """
    context = _trace_from_metadata(metadata, random_bytes)
    if sampler is not None:
        parent = bool(context.trace_flags & SAMPLED) if context.parent_span_id else None
        sampled = sampler(int(context.trace_id, 16), parent)
        context.trace_flags = context.trace_flags & ~SAMPLED | (SAMPLED if sampled else 0)
    return context


def _trace_from_metadata(
    metadata: Iterable[tuple[str, Any]] | None, random_bytes: Callable[[int], bytes]
) -> event_pb2.TraceContext:
    found = {name: value for name, value in metadata or () if name in ("traceparent", "tracestate", "baggage")}
    context = event_pb2.TraceContext()
    if not found:
        context.trace_id = random_bytes(16).hex()
        context.trace_flags = SAMPLED
        return context
    match = _TRACEPARENT.fullmatch(str(found.get("traceparent", "")).strip())
    if match and _is_valid(match):
        context.trace_id = match[2]
        context.parent_span_id = match[3]
        context.trace_flags = int(match[4], 16) & 0xFF
        context.trace_state = _bounded(found.get("tracestate"), _LONGEST_STATE)
    else:
        context.trace_id = random_bytes(16).hex()
        context.trace_flags = SAMPLED
    context.baggage = _bounded(found.get("baggage"), _LONGEST_BAGGAGE)
    return context


def _is_valid(match: re.Match[str]) -> bool:
    version, trace_id, parent, _, more = match.groups()
    return version != "ff" and bool(int(trace_id, 16)) and bool(int(parent, 16)) and not (version == "00" and more)


def _bounded(value: Any, longest: int) -> str:
    return value if isinstance(value, str) and len(value) <= longest else ""


def workflow_span_id(uid: str) -> int:
    """Return the id of a workflow's span."""
    return _span_id(uid)


def attempt_span_id(uid: str, step_key: str, attempt: int) -> int:
    """Return the id of an attempt's span."""
    return _span_id(f"{uid}|{step_key}|{attempt}")


def _span_id(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") or 1
