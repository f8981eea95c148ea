"""What follows a failed attempt, as the author of a step wishes it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["RetryPolicy"]

#: The longest interval and total time, in seconds: ten years of 365 days.
LONGEST = 10 * 365 * 86_400
#: The shortest interval that is not 0, in seconds.
SHORTEST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often, how soon and for how long a step is tried again. Times are in seconds.

    The n-th failed attempt is followed by a wait between 0 and
    ``initial_interval * backoff_coefficient ** (n - 1)``, at most
    ``maximum_interval``, drawn evenly (full jitter). Raises ValueError, naming
    the field, when a value makes no sense.
    """

    #: Attempts in all, the first included. None: no limit.
    max_attempts: int | None = 10
    #: The longest wait after the first failure.
    initial_interval: float = 1.0
    #: The longest wait after any.
    maximum_interval: float = 60.0
    #: By how much the wait grows from one failure to the next.
    backoff_coefficient: float = 2.0
    #: From the first attempt's start to the start of the last one. None: no limit.
    total_time: float | None = None
    #: Exceptions after which there is no further attempt: types, subclasses
    #: included, or names, bare or qualified as ``builtins.ValueError``.
    not_retried: tuple[type[BaseException] | str, ...] = ()
    #: When all is used up: raise StepFailed into the workflow, or pause it for an operator.
    on_exhaustion: Literal["raise", "pause"] = "raise"

    def __post_init__(self) -> None:
        """Refuse what makes no sense, and bring the rest into one form."""
        attempts: object = self.max_attempts
        if attempts is not None and (not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1):
            raise _refusal("max_attempts", attempts, "an integer of 1 or more (the first attempt counts), or None")
        initial = self._number("initial_interval", 0, LONGEST)
        if 0 < initial < SHORTEST:
            raise _refusal("initial_interval", self.initial_interval, f"0, or at least {SHORTEST:g} seconds")
        maximum = self._number("maximum_interval", 0, LONGEST)
        if maximum < initial:
            raise _refusal("maximum_interval", self.maximum_interval, f"at least initial_interval ({initial:g})")
        self._number("backoff_coefficient", 1, math.inf)
        if self.total_time is not None:
            self._number("total_time", 0, LONGEST, " seconds, or None for no limit")
        object.__setattr__(self, "not_retried", _exceptions(self.not_retried))
        if self.on_exhaustion not in ("raise", "pause"):
            raise _refusal("on_exhaustion", self.on_exhaustion, '"raise" or "pause"')

    def _number(self, field: str, least: float, most: float, unit: str = "") -> float:
        """Answer the field as a float, which it then is."""
        value = getattr(self, field)
        allowed = f"a finite number from {least:g}" + (f" to {most:g}" if math.isfinite(most) else " up") + unit
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _refusal(field, value, allowed)
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number) or not least <= number <= most:
            raise _refusal(field, value, allowed)
        object.__setattr__(self, field, number)
        return number


def _refusal(field: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"RetryPolicy.{field} must be {allowed}, not {value!r}")


def _exceptions(given: object) -> tuple[type[BaseException] | str, ...]:
    """Answer what is not retried as a tuple."""
    allowed = "exception types or their names, in a tuple, list or set"
    # A lone name is iterable too, letter by letter: surely not what was meant.
    if isinstance(given, str | type) or not isinstance(given, Iterable):
        raise _refusal("not_retried", given, allowed)
    found: list[type[BaseException] | str] = []
    for item in given:
        is_name = isinstance(item, str) and all(part.isidentifier() or part == "<locals>" for part in item.split("."))
        is_type = isinstance(item, type) and issubclass(item, BaseException)
        if not is_name and not is_type:
            raise _refusal("not_retried", item, allowed)
        found.append(item)
    return tuple(found)
