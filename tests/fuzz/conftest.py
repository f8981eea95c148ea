"""What the fuzz tests count."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def seen() -> Iterator[Counter[str]]:
    """Count what the examples reached. Everything that a test counts must happen in some example."""
    counts: Counter[str] = Counter()
    yield counts
    assert counts
    assert all(counts.values()), counts
