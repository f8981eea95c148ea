"""The pytest plugin of Mendflow: the fixture ``mendflow_env``, and failed counts that show their history.

pytest imports this module in every run, so it imports nothing of Mendflow before a test asks for the fixture.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from mendflow import Workflow
    from mendflow.testing import Environment

__all__ = ["NewEnvironment", "mendflow_env"]


class NewEnvironment(Protocol):
    """The type of the fixture ``mendflow_env``."""

    def __call__(
        self, *workflows: Workflow[Any, Any], start_time: datetime | None = None, **settings: Any
    ) -> Environment:
        """Start an engine that serves these workflows, and return its environment; see `WorkflowTest`."""


@pytest.fixture
def mendflow_env() -> Iterator[NewEnvironment]:
    """Return a function that makes an environment: the real engine with these workflows, until the test ends."""
    from mendflow.testing import WorkflowTest  # noqa: PLC0415 - see the module's docstring

    with contextlib.ExitStack() as stack:

        def new(*workflows: Workflow[Any, Any], start_time: datetime | None = None, **settings: Any) -> Environment:
            return stack.enter_context(WorkflowTest(*workflows, start_time=start_time, **settings))

        yield new


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Return the history behind a count whose comparison failed."""
    history = sys.modules.get("mendflow.testing.history")
    counted = left if history is not None and isinstance(left, history.Count) else None
    if counted is None:
        return None
    return [f"{counted.what}: {int(counted)} {op} {right!r}", *counted.story.splitlines()]
