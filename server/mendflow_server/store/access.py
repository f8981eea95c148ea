"""How a server reaches and uses the database of its store. A store in a file needs none of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CONNECT_TIMEOUT", "READING_CONNECTIONS", "STATEMENT_TIMEOUT", "DatabaseAccess"]

#: Some connections that read, so that a long list does not delay a load.
READING_CONNECTIONS: Final = 3
#: The longest that a connection to one host may take to be made, in seconds.
CONNECT_TIMEOUT: Final = 5.0
#: The longest that a statement may take, in seconds. Each is bounded, so only a database that hangs takes so long.
STATEMENT_TIMEOUT: Final = 15.0


@dataclass(frozen=True)
class DatabaseAccess:
    """The settings ``MENDFLOW_STORE_…`` of a database."""

    #: The path of a file with the password, which is read at each connect; empty for none.
    password_file: str = ""
    reading_connections: int = READING_CONNECTIONS
    connect_timeout: float = CONNECT_TIMEOUT
    statement_timeout: float = STATEMENT_TIMEOUT
