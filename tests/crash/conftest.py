from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.volumes import OnAVolume
from tests.support.mounting import small_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _end(server: OnAVolume) -> None:
    if server.process is not None and server.process.poll() is None:
        server.kill()


@pytest.fixture
def on_a_directory(tmp_path: Path) -> Iterator[OnAVolume]:
    """Yield a server, not started, with its store in a directory of its own."""
    server = OnAVolume(tmp_path)
    server.volume.mkdir()
    yield server
    _end(server)


@pytest.fixture
def on_a_disk(on_a_directory: OnAVolume) -> Iterator[OnAVolume]:
    """Yield the same on a small file system of its own, in memory."""
    with small_disk(on_a_directory.volume):
        yield on_a_directory
        _end(on_a_directory)
