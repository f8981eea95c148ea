"""A store in one SQLite file, for one server.

``store.py`` runs on the event loop: it submits work to ``threads.py`` and awaits the result. ``writer.py`` has all
writes, on one thread; ``encoder.py`` and ``inbox.py`` prepare what it writes. ``reader.py`` and ``listing.py`` have all
reads. The SQL is in ``queries.sql``, the schema in ``migrations/``. ``inspector.py`` reads a file that another process
may own, and changes nothing. ``file_lock.py``, ``filesystem.py`` and ``migrate.py`` check at the start whether the
server may use the file.
"""

from __future__ import annotations

from mendflow_server.store.sqlite.inspector import SqliteInspector
from mendflow_server.store.sqlite.store import SqliteStore

__all__ = ["SqliteInspector", "SqliteStore"]
