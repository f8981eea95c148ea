"""Protection of forked processes from gRPC.

A child that was forked while its parent used gRPC cannot use gRPC. The threads
of gRPC's asyncio stack do not exist in the child, so a call would never end.
This module refuses such a call.

gRPC's fork support does not help, because it does not cover the asyncio stack.
It restarts gRPC's threads in the child, where they use asyncio state of the
parent; version 1.85 often crashes there. gRPC for Python documents the support
as off by default, but the core turns it on unless the environment turns it off
before the first import. Import this module before any module that imports grpc.
"""

from __future__ import annotations

import os
import weakref
from typing import Final

from mendflow.errors import MendflowError
from mendflow.foreign_variables import note_ignored, replaced

__all__ = ["refuse_forked_child", "uses_grpc"]

_SUPPORT: Final = "GRPC_ENABLE_FORK_SUPPORT"
_POLLING: Final = "GRPC_POLL_STRATEGY"
#: What gRPC reads as a boolean, in any case.
_BOOLEANS: Final = frozenset({"true", "t", "yes", "y", "1", "false", "f", "no", "n", "0"})
#: The ways of polling. With none of them that it knows, gRPC aborts the process.
_STRATEGIES: Final = frozenset({"all", "epoll1", "poll", "none"})


def _corrected() -> dict[str, str | None]:
    """Return the variables that gRPC reads as it is imported, with the values that it gets instead."""
    corrected: dict[str, str | None] = {}
    support = os.environ.get(_SUPPORT)
    if support is None or support.lower() not in _BOOLEANS:
        corrected[_SUPPORT] = "0"
        if support:
            note_ignored(_SUPPORT, "gRPC takes 0 or 1", "fork support is off")
    polling = os.environ.get(_POLLING)
    if polling is not None and not _STRATEGIES.intersection(polling.split(",")):
        corrected[_POLLING] = None
        if polling:
            note_ignored(_POLLING, "gRPC takes epoll1, poll or none", "gRPC chooses")
    return corrected


with replaced(_corrected()):
    import grpc  # noqa: F401


class _GrpcUse:
    """The gRPC objects of this process. gRPC's own state is global, so this is too."""

    def __init__(self) -> None:
        #: gRPC's threads run while one of its channels or servers is in memory.
        self.users: weakref.WeakSet[object] = weakref.WeakSet()
        self.forked = False

    def after_in_child(self) -> None:
        self.forked = self.forked or len(self.users) > 0


_USE: Final = _GrpcUse()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_USE.after_in_child)


def uses_grpc(user: object) -> None:
    """Register a channel or server that uses gRPC, until it is garbage-collected."""
    _USE.users.add(user)


def refuse_forked_child() -> None:
    """Raise `MendflowError` if this process was forked while its parent used gRPC."""
    if _USE.forked:
        message = (
            "gRPC cannot be used in a process that was forked from one that uses gRPC; start the process with the "
            "spawn or forkserver method of multiprocessing, or with subprocess"
        )
        raise MendflowError(message)
