from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.container.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DEFAULT_PYTHON_IMAGE = "docker.io/library/python:3.13-slim"


@pytest.fixture(scope="session")
def engine() -> Engine:
    found = Engine.find()
    if found is None:
        pytest.skip("needs docker or podman, and the right to use it")
    return found


@pytest.fixture(scope="session")
def image(engine: Engine) -> Iterator[str]:
    """The image, built from this checkout."""
    python_image = os.environ.get("MENDFLOW_TEST_PYTHON_IMAGE", DEFAULT_PYTHON_IMAGE)
    if not engine.has_or_pulls(python_image):
        pytest.skip(f"needs the image {python_image}, or another Python image named in MENDFLOW_TEST_PYTHON_IMAGE")
    tag = f"localhost/mendflow-test:{uuid.uuid4().hex}"
    engine.build(ROOT, tag, python_image)
    yield tag
    engine.succeeds("rmi", "--force", tag)


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = f"mendflow-test-{uuid.uuid4().hex}"
    engine.output("volume", "create", name)
    yield name
    engine.succeeds("volume", "rm", "--force", name)
