"""Send the caller's trace context with calls, if OpenTelemetry is installed."""

from __future__ import annotations

import functools
import os
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

from mendflow.foreign_variables import note_ignored, replaced

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["load_propagation", "prepare_propagation", "trace_metadata"]

_CONTEXT: Final = "OTEL_PYTHON_CONTEXT"
_PROPAGATORS: Final = "OTEL_PROPAGATORS"
#: OpenTelemetry's default, and what a Mendflow server reads.
_DEFAULT: Final = "tracecontext,baggage"


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Return the current OpenTelemetry context as metadata, or () if OpenTelemetry is not installed."""
    inject = load_propagation()
    if inject is None:
        return ()
    carrier: dict[str, str] = {}
    inject(carrier)
    # Some propagators write upper-case names, which gRPC rejects.
    return tuple((name.lower(), value) for name, value in carrier.items())


@functools.cache
def load_propagation() -> Callable[[dict[str, str]], Any] | None:
    """Return OpenTelemetry's function that writes the current context; None if there is none.

    The first call imports OpenTelemetry, which cannot be imported with the name of a propagator that is not installed.
    """
    with replaced(_corrected()):
        try:
            from opentelemetry.propagate import inject  # noqa: PLC0415 - see above
        except ImportError:  # OpenTelemetry is optional.
            return None
        except Exception as error:  # noqa: BLE001 - a propagator may raise anything
            note_ignored(_PROPAGATORS, f"{type(error).__name__}: {error}", "calls carry no trace context")
            return None
    return inject


def prepare_propagation() -> None:
    """Import OpenTelemetry now if a variable could keep other code from importing it."""
    if os.environ.get(_CONTEXT) or _PROPAGATORS in os.environ:
        load_propagation()


def _corrected() -> dict[str, str | None]:
    """Return the variables that OpenTelemetry cannot take with values that it can."""
    corrected: dict[str, str | None] = {}
    context = os.environ.get(_CONTEXT)
    if context and "opentelemetry.context" not in sys.modules and not _installed("opentelemetry_context", context):
        corrected[_CONTEXT] = None
        note_ignored(_CONTEXT, f"{context} is not installed", "contextvars_context is used")
    propagators = [name.strip() for name in os.environ.get(_PROPAGATORS, _DEFAULT).split(",")]
    if _PROPAGATORS in os.environ and "opentelemetry.propagate" not in sys.modules and "none" not in propagators:
        known = [name for name in propagators if name and _installed("opentelemetry_propagator", name)]
        if known != propagators:
            missing = ", ".join(repr(name) for name in propagators if name not in known)
            used = corrected[_PROPAGATORS] = ",".join(known) or _DEFAULT
            if os.environ[_PROPAGATORS].strip():  # To OpenTelemetry's specification an empty variable is none at all.
                note_ignored(_PROPAGATORS, f"no propagator {missing} is installed", f"{used} is used")
    return corrected


def _installed(group: str, name: str) -> bool:
    return bool(entry_points(group=group, name=name))
