"""The clients of a server: the asyncio client, its handles, and the synchronous client."""

import mendflow.client.process  # noqa: F401, I001 - must run before anything imports grpc

from mendflow.client.client import Client
from mendflow.client.handle import WorkflowHandle
from mendflow.client.sync import SyncClient, SyncWorkflowHandle

__all__ = ["Client", "SyncClient", "SyncWorkflowHandle", "WorkflowHandle"]
