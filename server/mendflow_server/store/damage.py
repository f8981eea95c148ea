"""The damage that was found in a store."""

from __future__ import annotations

from typing import TypeVar

import structlog

from mendflow_server.store.errors import StoreDamaged, StoreError

log = structlog.get_logger("mendflow.store")

_ErrorT = TypeVar("_ErrorT", bound=StoreError)


class Damage:
    """The damage that the connections of one store found. It is logged once and kept, because it does not pass."""

    def __init__(self) -> None:
        self.found = ""

    def look_at(self, error: _ErrorT) -> _ErrorT:
        """Keep the error if it reports damage and is the first, and return it."""
        if isinstance(error, StoreDamaged) and not self.found:
            self.found = str(error)
            log.critical("store_damaged", error=self.found)
        return error
