"""The retry policy of a step."""

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
    """When and how often the server retries a step. Times are in seconds.

    After the n-th failed attempt the server waits for a random time between 0
    and ``initial_interval * backoff_coefficient ** (n - 1)``, at most
    ``maximum_interval`` (full jitter). Raise ValueError if a field has an
    invalid value.
    """

    #: The maximum number of attempts, including the first. None: no limit.
    max_attempts: int | None = 10
    #: The longest wait after the first failure.
    initial_interval: float = 1.0
    #: The longest wait after any failure.
    maximum_interval: float = 60.0
    #: The factor by which the longest wait grows after each failure.
    backoff_coefficient: float = 2.0
    #: The time in which all attempts must start, counted from the first start. None: no limit.
    total_time: float | None = None
    #: Exceptions that end the retries: types, including their subclasses, or
    #: names, which may be qualified as in ``builtins.ValueError``.
    not_retried: tuple[type[BaseException] | str, ...] = ()
    #: What to do without retries left: raise StepFailed into the workflow, or pause it for an operator.
    on_exhaustion: Literal["raise", "pause"] = "raise"

    def __post_init__(self) -> None:
        """Validate the fields and normalize their types. Raise ValueError if one is invalid."""
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
        """Convert the field to a float in place and return it. Raise ValueError if it is out of range."""
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
    """Return ``not_retried`` as a tuple. Raise ValueError if an item is neither an exception type nor a name."""
    allowed = "exception types or their names, in a tuple, list or set"
    # A single name is iterable too, but its letters are not names.
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
