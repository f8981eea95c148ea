"""Where the file lies: SQLite's locks and its shared memory do not hold over a network."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from mendflow_server.store.protocol import StoreRefused

if TYPE_CHECKING:
    from pathlib import Path

_NETWORK: Final = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone",
        "fuse.s3fs", "fuse.sshfs", "gfs2", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs",
    }
)  # fmt: skip

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
_MOUNT_POINT: Final = 4


def file_system_of(path: str, mountinfo: str) -> str | None:
    """Answer the type of the file system that holds an absolute path, by the text of ``/proc/self/mountinfo``."""
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


def refuse_unfit_place(path: Path, mountinfo: Path) -> None:
    """Raise `StoreRefused` when the file cannot lie there: no directory, no file, or a network file system."""
    if not path.parent.is_dir():
        message = f"the directory {path.parent} of the store does not exist; create it, or give another file"
        raise StoreRefused(message)
    if path.is_dir():
        message = f"{path} is a directory; give the path of a file in it"
        raise StoreRefused(message)
    try:
        mounts = mountinfo.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return  # Not Linux: nobody tells.
    kind = file_system_of(os.path.realpath(path), mounts)
    if kind in _NETWORK:
        message = f"{path} lies on a network file system ({kind}), where SQLite loses data; give a file on a local disk"
        raise StoreRefused(message)
