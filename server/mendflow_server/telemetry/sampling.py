"""Decide which traces are sampled, by OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG.

The decisions are those of OpenTelemetry's SDK, which a server that exports no spans does not import.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

from mendflow.foreign_variables import note_ignored

__all__ = ["Sampler", "build_sampler"]

#: Decides by the trace's id and by the caller's decision, which is None without a caller's span.
Sampler = Callable[[int, bool | None], bool]

_NAME: Final = "OTEL_TRACES_SAMPLER"
_RATIO: Final = "OTEL_TRACES_SAMPLER_ARG"
_PARENT: Final = "parentbased_"
_DEFAULT: Final = "parentbased_always_on"
_KNOWN: Final = ("always_on", "always_off", "traceidratio")
#: A ratio compares the lower half of a trace's id, of so many values.
_VALUES: Final = 1 << 64


def build_sampler() -> Sampler | None:
    """Return the sampler that the variables name; None for the default, parentbased_always_on."""
    name = os.environ.get(_NAME, "").strip().lower() or _DEFAULT
    own = name.removeprefix(_PARENT)
    if own not in _KNOWN:
        known = ", ".join([*_KNOWN, *(_PARENT + each for each in _KNOWN)])
        note_ignored(_NAME, f"it must be one of {known}", f"{_DEFAULT} is used")
        return None
    if name == _DEFAULT:
        return None
    bound = {"always_on": _VALUES, "always_off": 0}.get(own)
    if bound is None:
        bound = round(_ratio() * _VALUES)
    follows = name.startswith(_PARENT)

    def is_sampled(trace_id: int, parent: bool | None) -> bool:  # noqa: FBT001 - a decision, or none
        return parent if follows and parent is not None else trace_id % _VALUES < bound

    return is_sampled


def _ratio() -> float:
    text = os.environ.get(_RATIO, "").strip()
    if not text:
        return 1.0
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if 0 <= ratio <= 1:
        return ratio
    note_ignored(_RATIO, "it must be a number from 0 to 1", "1 is used")
    return 1.0
