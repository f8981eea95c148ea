"""Notices between replicas: which workflows have changed, which have a message, and that a replica has left.

A notice only gives speed. What it says is found out without it as well, within a second or two.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mendflow_server.engine.roster import Roster

__all__ = ["Notices", "parsed"]

#: A notice holds 8,000 bytes at most. With more keys than this it says nothing, and the others ask the store.
MOST_KEYS: Final = 400
CHANGED: Final = "changed"
MESSAGES: Final = "messages"
LEFT: Final = "left"


class Notices:
    """What this replica reports to the others, by ``post``."""

    def __init__(self, post: Callable[[str], None], roster: Roster) -> None:
        self._post = post
        self._roster = roster
        self._changed: list[int] = []
        self._is_due = False

    def changed(self, key: int) -> None:
        """Report that a workflow has new events, together with others of the same batch."""
        if len(self._roster.peers) < 2:  # noqa: PLR2004 - this one and another
            return
        self._changed.append(key)
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._is_due = False
        keys, self._changed = self._changed, []
        self._report(CHANGED, keys)

    def messages(self, keys: Iterable[int]) -> None:
        """Report to the drivers of these workflows that their inboxes have a message."""
        self._report(MESSAGES, list(keys))

    def left(self) -> None:
        """Report that this replica has given up workflows, which any other may claim."""
        self._post(LEFT)

    def _report(self, what: str, keys: list[int]) -> None:
        if 0 < len(keys) <= MOST_KEYS:
            self._post(f"{what} {' '.join(map(str, keys))}")


def parsed(notice: str) -> tuple[str, list[int]]:
    """Return what a notice says, and the keys that it names. Another version's notice says nothing."""
    what, *keys = notice.split(" ")
    if what not in {CHANGED, MESSAGES, LEFT} or not all(key.isdecimal() for key in keys):
        return "", []
    return what, [int(key) for key in keys]
