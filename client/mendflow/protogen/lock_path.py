"""Where a module's lock file is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import ModuleType

#: The command that exports the messages of a module.
COMMAND: Final = "mendflow export-protos {module} --out protos"


def lock_path(module: ModuleType) -> Path | None:
    """Return the path of a module's lock file, whether it exists or not; None: the module has no file."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).with_suffix(".protos.lock.json")
