"""Durable, self-healing workflows in plain async Python.

Authoring: `workflow`, `step`, `RetryPolicy`, `sleep`, `gather`, `wait_signal`,
`progress`, `now`, `uuid4`, `random`, `version`, `attempt`. Calling: `Client`, `SyncClient`.
Errors are in `mendflow.errors`.
"""

from mendflow.awaitables import gather, now, random, sleep, uuid4, version, wait_signal
from mendflow.connection import Client, SyncClient, WorkflowHandle
from mendflow.context import Attempt, attempt, progress
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
from mendflow.retry import RetryPolicy
from mendflow.step import Step, step
from mendflow.workflow import Workflow, workflow

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
    "ThrottledError",
    "TransientError",
    "Workflow",
    "WorkflowCancelled",
    "WorkflowFailed",
    "WorkflowHandle",
    "WorkflowTerminated",
    "attempt",
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
]
