"""How gRPC lives with forks.

A child that was forked while gRPC was in use cannot use it: the threads of
gRPC's asyncio stack are not there, and a call would never end. Such a child is
refused here.

gRPC's fork support does not help, for it leaves the asyncio stack out. It
starts gRPC's threads anew in the child, and these call into asyncio state that
is the parent's: 1.85 often crashes there. Python's gRPC documents it as off by
default, but its core has it on, unless the environment says otherwise before
the first import. So this module comes before every other that imports grpc.
"""

from __future__ import annotations

import os
import weakref
from typing import Final

from mendflow.errors import MendflowError

__all__ = ["refuse_forked_child", "uses_grpc"]

_SUPPORT: Final = "GRPC_ENABLE_FORK_SUPPORT"

if _SUPPORT in os.environ:
    import grpc
else:
    os.environ[_SUPPORT] = "0"
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[_SUPPORT]


class _Use:
    """Who uses gRPC. Its own state is one a process, and so is this."""

    def __init__(self) -> None:
        #: gRPC runs for as long as one of its channels or servers is in memory.
        self.users: weakref.WeakSet[object] = weakref.WeakSet()
        self.forked = False

    def after_in_child(self) -> None:
        self.forked = self.forked or len(self.users) > 0


_USE: Final = _Use()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_USE.after_in_child)


def uses_grpc(user: object) -> None:
    """Remember that this channel or server uses gRPC, for as long as it is in memory."""
    _USE.users.add(user)


def refuse_forked_child() -> None:
    """Raise `MendflowError` in a child that was forked while its parent used gRPC."""
    if _USE.forked:
        message = (
            "this process was forked from one that uses gRPC, so gRPC cannot be used here; start it with the spawn or "
            "forkserver method of multiprocessing, or with subprocess"
        )
        raise MendflowError(message)
