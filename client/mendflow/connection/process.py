"""How gRPC lives with forks, and which process it runs in.

A child that was forked after gRPC has begun cannot use it: gRPC's threads are
not there, and a call would never end. gRPC's fork support does not help, for
it leaves the asyncio stack out. It starts gRPC's threads anew in the child,
and these call into asyncio state that is the parent's: 1.85 often crashes
there. Python's gRPC documents it as off by default, but its
core has it on, unless the environment says otherwise before the first import.
So this module comes before every other that imports grpc.
"""

from __future__ import annotations

import os
from typing import Final

from mendflow.errors import MendflowError

__all__ = ["claim_grpc"]

_SUPPORT: Final = "GRPC_ENABLE_FORK_SUPPORT"

if _SUPPORT in os.environ:
    import grpc
else:
    os.environ[_SUPPORT] = "0"
    try:
        import grpc  # noqa: F401
    finally:
        del os.environ[_SUPPORT]


class _Owner:
    """The process in which gRPC has begun; 0: in none yet. gRPC's own state is one a process, and so is this."""

    pid = 0


def claim_grpc() -> None:
    """Use gRPC in this process. Raises `MendflowError` in a child that was forked after gRPC had begun."""
    pid = os.getpid()
    if _Owner.pid in (0, pid):
        _Owner.pid = pid
        return
    message = (
        f"this process was forked from process {_Owner.pid}, which uses gRPC, so gRPC cannot be used here; start it "
        "with the spawn or forkserver method of multiprocessing, or with subprocess"
    )
    raise MendflowError(message)
