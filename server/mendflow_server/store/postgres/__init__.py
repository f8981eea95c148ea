"""A store in a PostgreSQL database, for any number of replicas.

``store.py`` submits work to the sessions of ``sessions.py``, which ``lanes.py`` runs: one that writes, and a few that
read. ``writer.py`` and ``purging.py`` have all writes; ``encoder.py`` and ``inbox.py`` prepare what is written.
``reader.py`` and ``listing.py`` have all reads. The SQL is in ``queries.sql``, the schema in ``migrations/``.
``membership.py`` has the locks of a replica, ``replicas.py`` what replicas ask of each other's rows, ``bulletin.py``
the notices between them. ``connection.py`` makes connections, and ``failures.py`` explains errors.

Only the factory imports this package, and only for a URL of PostgreSQL: asyncpg is an extra.
"""

from __future__ import annotations

from mendflow_server.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
