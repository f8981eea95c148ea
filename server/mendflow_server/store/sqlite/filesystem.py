"""The location of the database and of the files beside it.

SQLite's locks do not work on network file systems, and its log does not work for a file with two names.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Final

from mendflow_server.store.errors import StoreRefused

_NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone",
        "fuse.s3fs", "fuse.sshfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_MOUNT_POINT: Final = 4


def resolve(path: Path) -> Path:
    """Return the absolute path of the file itself, symlinks resolved, whether or not it exists."""
    return Path(os.path.realpath(path))


def lock_path(database: Path) -> Path:
    """Return the path of a database's lock file."""
    return database.with_name(f"{database.name}.lock")


def crash_marker_path(database: Path) -> Path:
    """Return the path of a database's crash marker; see `mendflow_server.execution.crash_marker`."""
    return database.with_name(f"{database.name}.note")


def files_at(database: Path) -> tuple[Path, ...]:
    """Return every file that a server of this database keeps open."""
    of_sqlite = (database.with_name(f"{database.name}{end}") for end in ("-wal", "-shm", "-journal"))
    return database, *of_sqlite, lock_path(database), crash_marker_path(database)


def check_file(path: Path, found: os.stat_result) -> None:
    """Raise `StoreRefused` if the file is not a regular file or has a second name.

    SQLite names the write-ahead log after the file, so a file with two names would have two logs.
    """
    if not stat.S_ISREG(found.st_mode):
        message = f"{path} is not a regular file; use another file"
        raise StoreRefused(message)
    if found.st_nlink > 1:
        message = (
            f"{path} has {found.st_nlink} names (hard links), and a server that opens it under another name would "
            f"destroy this server's data; remove the other names (`find DIRECTORY -samefile {path}` lists them) "
            "or use a copy"
        )
        raise StoreRefused(message)


def file_system_of(path: str, mountinfo: str) -> str | None:
    """Return the type of the file system of an absolute path. ``mountinfo`` is the text of ``/proc/self/mountinfo``."""
    best = ""
    answer: str | None = None
    for line in mountinfo.splitlines():
        fields, separator, tail = line.partition(" - ")
        parts = fields.split(" ")
        if not separator or len(parts) <= _MOUNT_POINT:
            continue
        point = _ESCAPE.sub(lambda match: chr(int(match.group(1), 8)), parts[_MOUNT_POINT])
        # Of two mounts on one point the later hides the earlier.
        if _holds(point, path) and len(point) >= len(best):
            best = point
            answer = tail.split(" ")[0]
    return answer


def _holds(point: str, path: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def check_location(path: Path, mountinfo: Path) -> None:
    """Raise `StoreRefused` if a database cannot be at this path: no directory, not a file, or a network file system."""
    if not path.parent.is_dir():
        message = f"directory {path.parent} of the store does not exist; create it or use another file"
        raise StoreRefused(message)
    if path.is_dir():
        message = f"{path} is a directory; use the path of a file in it"
        raise StoreRefused(message)
    try:
        mounts = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # Not Linux: there is no table of mounts.
    kind = file_system_of(os.path.realpath(path), mounts)
    if kind in _NETWORK:
        message = f"{path} is on a network file system ({kind}), where SQLite loses data; use a file on a local disk"
        raise StoreRefused(message)
