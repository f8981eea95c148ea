"""The place of the crash marker of a store that has no file of its own."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from mendflow_server.store.records import Life

log = structlog.get_logger("mendflow.store")


def crash_marker_path(place: str, previous: Life | None) -> Path | None:
    """Return the path of this machine's crash marker for a store; None if there is no directory for it.

    The marker only has to outlive a process, not the machine, so it is in a directory of this user among the temporary
    files. A marker that an earlier process left is removed if the last one ran on another machine: it says nothing of
    the last crash. A replica id begins with the name of its machine.
    """
    folder = Path(tempfile.gettempdir()) / f"mendflow-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise PermissionError(13, "another user may write to it")
        path = folder / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.note"
        if previous is None or not previous.replica_id.startswith(f"{os.uname().nodename[:40]}-"):
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning(
            "crash_marker_off",
            directory=str(folder),
            error=error.strerror,
            advice="make it writable for the server alone, or set TMPDIR; without it a crash cannot be traced to the "
            "code that executed",
        )
        return None
    return path
