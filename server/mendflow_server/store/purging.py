"""What the purges of all stores share: which workflow may be purged, and the sizes of portions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from mendflow_server.store.records import FIRST_FINAL_STATE, PurgeOutcome, PurgeResult

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The most workflows in one portion.
WORKFLOWS_AT_ONCE: Final = 100
#: The most rows of one table, and about the most bytes of events, that one portion deletes.
ROWS_AT_ONCE: Final = 1_000
BYTES_AT_ONCE: Final = 1 << 20


def judge(found: Sequence[Any] | None, uid: str) -> PurgeResult:
    """Return whether a workflow may be purged: `PurgeOutcome.PURGED`, or what is in the way.

    ``found`` has the key, the uid, the state and whether it is held. An empty ``uid`` is any.
    """
    if found is None or uid not in ("", found[1]):
        return PurgeResult(PurgeOutcome.NOT_FOUND, 0)
    state: int = found[2]
    if state < FIRST_FINAL_STATE:
        return PurgeResult(PurgeOutcome.OPEN, state)
    return PurgeResult(PurgeOutcome.HELD if found[3] else PurgeOutcome.PURGED, state)
