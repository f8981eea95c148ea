"""How a fuzz test runs: short and always the same by default, long and always new with MENDFLOW_SOAK=1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.scale import SOAK, scaled

if TYPE_CHECKING:
    from collections.abc import Callable


def fuzz(short: int, long: int) -> Callable[[Any], Any]:
    """Decorate a test with a number of examples. A failure is printed with what reproduces it."""

    def decorate(test: Any) -> Any:
        shaped = settings(
            max_examples=scaled(short, long),
            derandomize=not SOAK,
            database=None,
            deadline=None,
            print_blob=True,
            # All examples share one server, and a message may be large.
            suppress_health_check=[
                HealthCheck.function_scoped_fixture,
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.large_base_example,
            ],
        )(test)
        return pytest.mark.timeout(scaled(120, 3600))(shaped)

    return decorate
