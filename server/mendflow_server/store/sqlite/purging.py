"""Purge finished workflows, and give their space back.

A purge has two halves, so that no transaction is long and no reader sees a history with a hole. The first half deletes
the rows of some workflows and notes their keys in ``purged``. From then on no query finds them. The second half deletes
what they left in the other tables, a bounded portion at a time, and then the note. A crash between two portions leaves
the notes, so the next process continues.

Each statement handles many workflows, for the reason that ``queries.sql`` gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import structlog

from mendflow_server.store.purging import BYTES_AT_ONCE, ROWS_AT_ONCE, WORKFLOWS_AT_ONCE, judge
from mendflow_server.store.records import PurgeOutcome
from mendflow_server.store.sqlite.bulk import read_rows, to_json
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from mendflow_server.store.records import PurgeResult

log = structlog.get_logger("mendflow.store")

#: The most pages that one portion gives back to the file system: 1 MiB.
PAGES_AT_ONCE: Final = 256
#: The file keeps this part of its pages free, because new workflows will soon need them.
SPARE_PART: Final = 20


def purge_ended(connection: sqlite3.Connection, workflow_type: str, until: int, limit: int) -> int:
    """Do the first half for expired workflows of a type; return how many."""
    values = {"workflow_type": workflow_type, "until": until, "limit": limit}
    keys = read_rows(connection, QUERIES["expired"], values)
    _detach(connection, keys)
    return len(keys)


def purge(connection: sqlite3.Connection, workflow_id: str, uid: str) -> PurgeResult:
    """Do the first half for one workflow, if it has ended and is not held."""
    found = connection.execute(QUERIES["purge_candidate"], {"workflow_id": workflow_id}).fetchone()
    result = judge(found, uid)
    if result.outcome is PurgeOutcome.PURGED:
        _detach(connection, [found[0]])
    return result


def _detach(connection: sqlite3.Connection, keys: Sequence[int]) -> None:
    if not keys:
        return
    values = {"keys": to_json(keys)}
    # The labels are deleted first, since the rows name them. A finished workflow has little in the others.
    for name in ("purge_labels", "purge_rows", "purge_inbox", "purge_heartbeats", "purge_suspects", "insert_purged"):
        connection.execute(QUERIES[name], values)


def reclaim_rows(connection: sqlite3.Connection) -> bool:
    """Do a portion of the second half; return whether there was one."""
    keys = read_rows(connection, QUERIES["purged"], {"limit": WORKFLOWS_AT_ONCE})
    if not keys:
        return False
    values = {"keys": to_json(keys), "limit": ROWS_AT_ONCE, "max_bytes": BYTES_AT_ONCE}
    connection.execute(QUERIES["reclaim_events"], values)
    _reclaim_requests(connection, values)
    connection.execute(QUERIES["reclaim_alerts"], values)
    connection.execute(QUERIES["drop_purged"], values)
    return True


def _reclaim_requests(connection: sqlite3.Connection, values: Mapping[str, object]) -> None:
    left = read_rows(connection, QUERIES["requests_left"], values)
    whole = [key for key, _ in left]
    if sum(number for _, number in left) >= ROWS_AT_ONCE:
        last = whole.pop()  # It may have more than were counted.
        if not whole:
            connection.execute(QUERIES["reclaim_some_requests"], {"key": last, "limit": ROWS_AT_ONCE})
    if whole:
        connection.execute(QUERIES["reclaim_requests"], {"keys": to_json(whole)})


def any_purged(connection: sqlite3.Connection) -> bool:
    """Return whether a purged workflow has left something."""
    return connection.execute(QUERIES["any_purged"]).fetchone() is not None


class PageReturner:
    """Gives free pages back to the file system, outside of a transaction."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._warned = False
        self._returned = False

    def give_back(self, connection: sqlite3.Connection) -> bool:
        """Give a portion of pages back; return whether more are left."""
        if not _spare(connection):
            self._finish(connection)
            return False
        if connection.execute("PRAGMA auto_vacuum").fetchone() == (0,):
            self._warn()
            return False
        # Unlike `execute`, `executescript` moves all pages in one step, with the interpreter's lock released once.
        connection.executescript(f"PRAGMA incremental_vacuum({PAGES_AT_ONCE})")
        self._returned = True
        if _spare(connection):
            return True
        self._finish(connection)
        return False

    def _finish(self, connection: sqlite3.Connection) -> None:
        """Cut the file: pages that the log gave back leave the file when the log is copied into it."""
        if self._returned:
            self._returned = False
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").close()

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "store_cannot_shrink",
                store=str(self._path),
                advice="an older version made the file, so free space stays in it for new workflows; to shrink it, "
                "stop the server and replace the file by the output of mendflow backup",
            )


def _spare(connection: sqlite3.Connection) -> bool:
    """Return whether the file has more free pages than it should keep."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    return bool(free > max(PAGES_AT_ONCE, pages // SPARE_PART))
