"""Whether the server takes new work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow_server import errors

if TYPE_CHECKING:
    from mendflow_server.execution.services import Services


def ensure_available(services: Services) -> None:
    """Raise `Draining` while the server shuts down, and `StoreNotCommitting` while the store takes no commits."""
    if services.admission.draining:
        raise errors.Draining
    if services.committer.failure:
        raise errors.StoreNotCommitting(services.committer.failure)
