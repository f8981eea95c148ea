"""Calling a server: the asyncio client, its handles, and a synchronous façade."""

import mendflow.client.process  # noqa: F401, I001 - before all that imports grpc

from mendflow.client.client import Client
from mendflow.client.handle import WorkflowHandle
from mendflow.client.sync import SyncClient

__all__ = ["Client", "SyncClient", "WorkflowHandle"]
