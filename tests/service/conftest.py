"""Fixtures of the service tests: the services in front of a stand-in for the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.stub_engine import Door, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """Run the services in front of a stand-in for the engine."""
    async with serving() as running:
        yield running
