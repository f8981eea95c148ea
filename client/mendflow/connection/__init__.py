"""Calling a server: the asyncio client, its handles, and a synchronous façade."""

import mendflow.connection.process  # noqa: F401, I001 - before all that imports grpc

from mendflow.connection.client import Client
from mendflow.connection.handle import WorkflowHandle
from mendflow.connection.sync import SyncClient

__all__ = ["Client", "SyncClient", "WorkflowHandle"]
