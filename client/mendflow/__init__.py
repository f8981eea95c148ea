"""Durable, self-healing workflows in plain async Python.

To write workflows, use `workflow`, `step`, `RetryPolicy`, `sleep`, `gather`, `first_of`,
`wait_signal`, `progress`, `now`, `uuid4`, `random`, `version`, `workflow_info`
and `attempt`. To call a server, use `Client` or `SyncClient`. The errors are in
`mendflow.errors`.
"""

import mendflow.foreign_variables  # noqa: F401, I001 - must run before anything imports protobuf

from mendflow.authoring.calls import first_of, gather, now, random, sleep, uuid4, version, wait_signal
from mendflow.authoring.context import Attempt, WorkflowInfo, attempt, progress, workflow_info
from mendflow.authoring.retry import RetryPolicy
from mendflow.authoring.step import Step, step
from mendflow.authoring.workflow import Workflow, workflow
from mendflow.client import Client, SyncClient, SyncWorkflowHandle, WorkflowHandle
from mendflow.errors import (
    MendflowError,
    PermanentError,
    SignalTimeout,
    StepFailed,
    ThrottledError,
    TransientError,
    WorkflowCancelled,
    WorkflowFailed,
    WorkflowTerminated,
)

__all__ = [
    "Attempt",
    "Client",
    "MendflowError",
    "PermanentError",
    "RetryPolicy",
    "SignalTimeout",
    "Step",
    "StepFailed",
    "SyncClient",
    "SyncWorkflowHandle",
    "ThrottledError",
    "TransientError",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowInfo",
    "WorkflowTerminated",
    "attempt",
    "first_of",
    "gather",
    "now",
    "progress",
    "random",
    "sleep",
    "step",
    "uuid4",
    "version",
    "wait_signal",
    "workflow",
    "workflow_info",
]
