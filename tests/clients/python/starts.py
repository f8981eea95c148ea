"""Many concurrent starts. The server commits starts together that arrive together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from connection import PATIENCE
from orders import as_json, start

if TYPE_CHECKING:
    from connection import Connection

IN_FLIGHT = 32


def start_many(connection: Connection, name: str, count: int) -> None:
    """Start ``count`` empty orders."""

    def one(number: int) -> bool:
        workflow_id = f"{name}-{number:04d}"
        order = as_json({"order_id": workflow_id, "items": [], "ledger": f"{name}.db", "packing_time": 0})
        return connection.workflows.StartWorkflow(start(workflow_id, order), timeout=PATIENCE).started

    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        started = sum(threads.map(one, range(1, count + 1)))
    print(f"starts: {count} requested, {started} started", flush=True)
