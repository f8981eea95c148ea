"""Which process gRPC runs in.

The threads of gRPC's asyncio stack do not survive a fork: in a child, a call
would never end. So a child that was forked after gRPC has begun is refused.
"""

from __future__ import annotations

import os

from mendflow.errors import MendflowError

__all__ = ["claim_grpc"]


class _Owner:
    """The process in which gRPC has begun; 0: in none yet. There is one such state a process, and it is gRPC's."""

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
