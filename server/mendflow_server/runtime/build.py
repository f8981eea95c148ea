"""The name of the code that a server serves. Two replicas with the same build run workflows in the same way."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mendflow.authoring.workflow import Workflow

__all__ = ["build_of"]


def build_of(definitions: Iterable[Workflow[Any, Any]]) -> str:
    """Return a hash of the files of the imported modules in the top-level packages of these workflows.

    The order and the place of the files do not matter. A module without a file counts by its name.
    """
    packages = {definition.function.__module__.partition(".")[0] for definition in definitions}
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] in packages:
            digest.update(f"{name}\0".encode())
            digest.update(hashlib.sha256(_source_of(module)).digest())
    return digest.hexdigest()[:16]


def _source_of(module: Any) -> bytes:
    file = getattr(module, "__file__", None)
    if not file:
        return b""
    try:
        return Path(file).read_bytes()
    except OSError:
        return b""
