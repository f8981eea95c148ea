"""All reads except lists.

Each call is a short transaction. A long one would prevent checkpoints of the write-ahead log.
"""

from __future__ import annotations

import contextlib
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from mendflow_server.store.columns import message_of, row_of, suspect_of
from mendflow_server.store.errors import StoreDamaged, StoreUnavailable, malformed_value
from mendflow_server.store.loading import (
    BYTES_AT_ONCE,
    EVENTS_AT_ONCE,
    add_heartbeats,
    add_messages,
    loaded_by_key,
    portions,
)
from mendflow_server.store.records import FIRST_FINAL_STATE, Guard, StoredSnapshot
from mendflow_server.store.sqlite.bulk import read_rows, to_json
from mendflow_server.store.sqlite.connection import connect_reader, in_read_transaction, is_harmless, unavailable
from mendflow_server.store.sqlite.queries import QUERIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from mendflow_server.store.damage import Damage
    from mendflow_server.store.records import Loaded, Message, Row, Suspect

_T = TypeVar("_T")


class Reader:
    """A connection that reads. Only its own thread uses it."""

    def __init__(self, path: Path, damage: Damage) -> None:
        self._path = path
        self._damage = damage
        self._connection: sqlite3.Connection | None = None
        # Connect now: it takes many small steps, which would be slow under load. The first read reports a failure.
        with contextlib.suppress(StoreUnavailable):
            self.read(lambda connection: connection.execute(QUERIES["next_key"]).fetchone())

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run ``work`` in a transaction of its own, so that it sees one state of the store."""
        try:
            if self._connection is None:
                self._connection = connect_reader(self._path)
            return in_read_transaction(self._connection, work)
        except sqlite3.Error as error:
            if not is_harmless(error):
                with contextlib.suppress(sqlite3.Error):
                    self.close()
                self._connection = None
            raise self._damage.look_at(unavailable(error, self._path)) from error
        except StoreDamaged as error:  # SQLite read it, but it is malformed.
            self._damage.look_at(error)
            raise
        except (UnicodeError, OverflowError) as error:
            raise malformed_value(self._path, error) from error

    def heads(self, keys: Sequence[int]) -> dict[int, Guard]:
        """Return generation and last sequence by key."""
        found = self.read(lambda connection: _many(connection, "heads", keys=keys))
        return {key: Guard(generation, sequence) for key, generation, sequence in found}

    def find(self, workflow_ids: Sequence[str]) -> dict[str, Row]:
        """Return rows by workflow id."""
        return self.read(partial(_find, workflow_ids=workflow_ids))

    def snapshot(self, workflow_id: str) -> StoredSnapshot | None:
        """Return a workflow with its first and final event, or None if there is no such workflow."""
        return self.read(lambda connection: _snapshot(connection, workflow_id))

    def load(self, keys: Sequence[int]) -> list[Loaded]:
        """Return everything needed to drive these workflows."""
        loaded: list[Loaded] = []
        for some in portions(keys):
            found = self.read(partial(_load, keys=some))
            loaded.extend(found[key] for key in some if key in found)
        return loaded

    def read_inbox(self, key: int) -> list[Message]:
        """Return the messages in a workflow's inbox, in the order of commits."""
        return self.read(partial(_read_inbox, key=key))

    def read_events(self, key: int, after_sequence: int, limit: int, max_bytes: int) -> list[bytes]:
        """Return the events after a sequence, within the limits."""
        return self.read(partial(read_events, key=key, after=after_sequence, limit=limit, max_bytes=max_bytes))

    def due(self, until: int, limit: int) -> list[tuple[int, int]]:
        """Return (wake_time, key), earliest first."""
        return [(wake_time, key) for wake_time, key in self._all("due", until=until, limit=limit)]

    def in_progress(self, after_key: int, limit: int) -> list[int]:
        """Return the keys of the workflows that need a driver."""
        return self._all("in_progress", after_key=after_key, limit=limit)

    def stopped_for(self, reason: int, after_key: int, limit: int) -> list[int]:
        """Return the keys of the open workflows with this reason."""
        return self._all("stopped_for", reason=reason, after_key=after_key, limit=limit)

    def last_beat(self) -> int:
        """Return the time of the newest life's last beat; 0 if there is no life."""
        return max(self._all("last_beat"), default=0)

    def first_ended(self) -> dict[str, int]:
        """Return the earliest end of the workflows of each type that can be purged."""
        return dict(self._all("first_ended"))

    def suspects(self) -> list[Suspect]:
        """Return the ledger."""
        return [suspect_of(columns) for columns in self._all("suspects")]

    def _all(self, name: str, **values: int) -> list[Any]:
        return self.read(lambda connection: read_rows(connection, QUERIES[name], values))


def _find(connection: sqlite3.Connection, workflow_ids: Sequence[str]) -> dict[str, Row]:
    rows = map(row_of, _many(connection, "find", workflow_ids=workflow_ids))
    return {row.workflow_id: row for row in rows}


def _snapshot(connection: sqlite3.Connection, workflow_id: str) -> StoredSnapshot | None:
    found = _many(connection, "find", workflow_ids=[workflow_id])
    if not found:
        return None
    row = row_of(found[0])
    first = read_events(connection, row.key, 0, 1, 1)
    last = read_events(connection, row.key, row.last_sequence - 1, 1, 1) if row.state >= FIRST_FINAL_STATE else []
    return StoredSnapshot(row, first[0] if first else None, last[0] if last else None)


def _load(connection: sqlite3.Connection, keys: Sequence[int]) -> dict[int, Loaded]:
    loaded = loaded_by_key(_many(connection, "load_rows", keys=keys))
    _load_events(connection, loaded)
    values = {"keys": to_json(keys)}
    add_messages(loaded, connection.execute(QUERIES["load_inbox"], values).fetchall())
    add_heartbeats(loaded, connection.execute(QUERIES["load_heartbeats"], values).fetchall())
    return loaded


def _read_inbox(connection: sqlite3.Connection, key: int) -> list[Message]:
    return [message_of(*columns) for columns in connection.execute(QUERIES["read_inbox"], {"key": key}).fetchall()]


def _load_events(connection: sqlite3.Connection, loaded: dict[int, Loaded]) -> None:
    """Read as many events as fit into one step, and the rest one history at a time."""
    values = {"keys": to_json(list(loaded)), "limit": EVENTS_AT_ONCE, "max_bytes": BYTES_AT_ONCE}
    for key, content in read_rows(connection, QUERIES["load_events"], values):
        loaded[key].events.append(bytes.fromhex(content))
    for key, each in loaded.items():
        while len(each.events) < each.row.last_sequence:
            some = read_events(connection, key, len(each.events), EVENTS_AT_ONCE, BYTES_AT_ONCE)
            if not some:
                break
            each.events.extend(some)


def read_events(connection: sqlite3.Connection, key: int, after: int, limit: int, max_bytes: int) -> list[bytes]:
    """Return the events of a workflow after a sequence, within the limits."""
    values = {"key": key, "after_sequence": after, "limit": limit, "max_bytes": max_bytes}
    return list(map(bytes.fromhex, read_rows(connection, QUERIES["read_events"], values)))


def _many(connection: sqlite3.Connection, name: str, **lists: Sequence[object]) -> list[Any]:
    # A list is bound as one JSON value, so that lists of all lengths share one prepared statement.
    values = {parameter: to_json(list(dict.fromkeys(items))) for parameter, items in lists.items()}
    return read_rows(connection, QUERIES[name], values)
