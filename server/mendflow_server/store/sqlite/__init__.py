"""The store in one SQLite file, for one server.

``store.py`` is the loop's side: it hands work to ``threads.py`` and awaits the answer. ``writer.py`` is all that
writes, on one thread; ``reader.py`` and ``listing.py`` are all that reads. The SQL is in ``queries.sql``, the schema in
``migrations/``. ``inspector.py`` reads a file that another process may own, and changes nothing. ``lock.py``,
``place.py`` and ``schema.py`` decide at the start whether the file may be used.
"""

from __future__ import annotations

from mendflow_server.store.sqlite.inspector import SqliteInspector
from mendflow_server.store.sqlite.store import SqliteStore

__all__ = ["SqliteInspector", "SqliteStore"]
