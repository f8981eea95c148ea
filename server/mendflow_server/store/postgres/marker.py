"""The places of the crash markers of a store that has no file of its own."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog

if TYPE_CHECKING:
    from collections.abc import Collection

log = structlog.get_logger("mendflow.store")

_ENDING: Final = ".note"


class CrashMarkers:
    """The crash markers of a store's replicas on this machine, one file for each.

    A marker only has to outlive a process, not the machine, so it is in a directory of this user among the temporary
    files.
    """

    def __init__(self, place: str) -> None:
        self._name = hashlib.sha256(place.encode()).hexdigest()[:32]
        self._folder: Path | None = None

    def open(self, numbers: Collection[int]) -> None:
        """Find the directory. Remove the markers of replicas that have not these numbers."""
        folder = Path(tempfile.gettempdir()) / f"mendflow-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise PermissionError(13, "another user may write to it")
            self._folder = folder
            kept = {self.path(number) for number in numbers}
            for path in folder.glob(f"{self._name}-*{_ENDING}"):
                if path not in kept:
                    path.unlink(missing_ok=True)
        except OSError as error:
            self._folder = None
            log.warning(
                "crash_marker_off",
                directory=str(folder),
                error=error.strerror,
                advice="make it writable for the server alone, or set TMPDIR; without it a crash cannot be traced to "
                "the code that executed",
            )

    def path(self, number: int) -> Path | None:
        """Return the path of the marker of the replica with this number; None if there is no directory."""
        return None if self._folder is None else self._folder / f"{self._name}-{number}{_ENDING}"

    def left_by(self, number: int, replica_id: str) -> Path | None:
        """Return the marker that a replica on this machine has left. A replica id begins with its machine's name."""
        path = self.path(number)
        if path is None or not replica_id.startswith(f"{os.uname().nodename[:40]}-") or not path.exists():
            return None
        return path

    def remove(self, number: int) -> None:
        """Remove the marker of a replica that has no work left."""
        path = self.path(number)
        if path is not None:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                log.debug("crash_marker_kept", path=str(path), error=error.strerror)
