"""Tests of workflows: on the real engine, by hand, and against recorded histories.

`WorkflowTest` runs the real engine in the test's process, with a clock that skips time. It and `replay` require the
signals to a workflow that the test calls like a function.
"""

from mendflow.authoring.handed import ByHand, by_hand
from mendflow.testing.blocking import Environment, Handle
from mendflow.testing.environment import AsyncEnvironment
from mendflow.testing.fakes import Fake, FakeCall
from mendflow.testing.handle import AsyncHandle, StillOpen
from mendflow.testing.history import WorkflowHistory
from mendflow.testing.replaying import PAYLOAD_LIMIT, Replay, ReplayFailed, replay
from mendflow.testing.workflow_test import WorkflowTest

__all__ = [
    "PAYLOAD_LIMIT",
    "AsyncEnvironment",
    "AsyncHandle",
    "ByHand",
    "Environment",
    "Fake",
    "FakeCall",
    "Handle",
    "Replay",
    "ReplayFailed",
    "StillOpen",
    "WorkflowHistory",
    "WorkflowTest",
    "by_hand",
    "replay",
]
