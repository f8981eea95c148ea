"""The id of this replica: a server process, from its start or its last rejoin on."""

from __future__ import annotations

import os

__all__ = ["Identity"]


class Identity:
    """The replica id of this process. It begins with the machine's name and the process's number."""

    def __init__(self) -> None:
        self.replica_id = _new()

    def renew(self) -> None:
        """Become another replica, because another one continues its workflows."""
        self.replica_id = _new()


def _new() -> str:
    return f"{os.uname().nodename[:40]}-{os.getpid()}-{os.urandom(3).hex()}"
