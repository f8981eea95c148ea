"""A sample of every exception class of Mendflow, and what must be the same in a copy of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow import errors, histories, testing
from mendflow.authoring import hand_steps
from mendflow.client import blocking, watch
from mendflow.codec import exact
from mendflow.protogen import scalars
from mendflow.v1 import failure_pb2, workflow_pb2
from mendflow_server import errors as refusals
from mendflow_server import settings, verification
from mendflow_server.api import server
from mendflow_server.history import state
from mendflow_server.http import server as http_server
from mendflow_server.replay import workflow_runner
from mendflow_server.runtime import event_loop
from mendflow_server.store import errors as store_errors
from mendflow_server.store.postgres import options, passwords
from mendflow_server.telemetry import otel_variables

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURE = failure_pb2.Failure(type="ValueError", message="no stock")
DETAILS: dict[str, Any] = {
    "code": "NOT_FOUND",
    "reason": "WORKFLOW_NOT_FOUND",
    "metadata": {"limit": "3"},
    "violations": [("workflow_id", "must not be empty")],
    "retry_after": 1.5,
}
REQUEST_ERRORS: list[Callable[..., BaseException]] = [errors.RequestError, *errors.RequestError.__subclasses__()]
PLAIN: list[Callable[[str], BaseException]] = [
    errors.MendflowError,
    errors.NotInWorkflow,
    errors.NotDurable,
    errors.NotAwaited,
    errors.DefinitionError,
    errors.TransientError,
    errors.PermanentError,
    histories.BadHistory,
    testing.ReplayFailed,
    testing.StillOpen,
    server.CannotListen,
    state.UnknownEvent,
    http_server.CannotListenHttp,
    workflow_runner.NonDeterminism,
    event_loop.LoopNotInstalled,
    settings.SettingsError,
    store_errors.StoreError,
    store_errors.StoreUnavailable,
    store_errors.StoreDamaged,
    store_errors.StoreRefused,
    store_errors.ReplicaFenced,
    store_errors.CommitUnknown,
    verification.Unreadable,
    passwords.PasswordUnreadable,
    options.OptionRefused,
    otel_variables.NotExported,
]
#: The server's refusals that have a reason of their own.
REFUSALS: list[refusals.Refusal] = [
    refusals.InvalidField("wait", "must not be negative"),
    refusals.UndeclaredSignal("order", "approv", ["reject", "approve"]),
    refusals.InvalidFields([("wait", "must not be negative"), ("workflow_id", "is required")]),
    refusals.UnknownWorkflowType("chekout", ["checkout", "campaign"]),
    refusals.InputMismatch([("items[3].price", "must be a number")]),
    refusals.InvalidPageToken(),
    refusals.TooLarge("input", 2_000_000, 1_048_576),
    refusals.WorkflowNotFound("order-17"),
    refusals.AlreadyStarted("order-17", "input"),
    refusals.WorkflowEnded("order-17", workflow_pb2.WORKFLOW_STATE_SUCCEEDED),
    refusals.WrongState("order-17", workflow_pb2.WORKFLOW_STATE_RUNNING),
    refusals.WorkflowHeld("order-17"),
    refusals.MessagesNotExported("checkout", "mendflow export-protos shop --out protos", "input"),
    refusals.SequenceBeyondEnd("order-17", 9, 4),
    refusals.HistoryPurged("order-17", 12),
    refusals.TooManySignals("order-17", 1000),
    refusals.TooManyWatches(10_000),
    refusals.TooManyWorkflowsInMemory(50_000),
    refusals.Draining(retry_after=2.5),
    refusals.StoreNotCommitting(),
    refusals.InternalFault("0123456789abcdef"),
]
SAMPLES: list[BaseException] = [
    *(cls("what failed") for cls in PLAIN),
    *(cls("what failed", **DETAILS) for cls in REQUEST_ERRORS),
    errors.PayloadError("input does not match", [("items[3].price", "must be a number")]),
    errors.MessageNotExported("checkout", "mendflow export-protos shop --out protos"),
    errors.StepFailed("charge#2", FAILURE),
    errors.SignalTimeout("decision"),
    exact._Unknown("set"),  # noqa: SLF001 - no door raises it
    hand_steps._AttemptTimeout(2.5),  # noqa: SLF001 - its step raises it as StepFailed
    errors.ThrottledError("slow down", retry_after=2.5),
    errors.WorkflowEndedError("order-17", "it ended"),
    errors.WorkflowFailed("order-17", FAILURE),
    errors.WorkflowCancelled("order-17"),
    errors.WorkflowTerminated("order-17"),
    scalars.NotConvertible("must be a number").inside("price").inside(3),
    blocking._Closed("the client is closed"),  # noqa: SLF001 - no door raises it
    watch._Disconnected(errors.ServerUnavailable("away", **DETAILS)),  # noqa: SLF001 - no door raises it
    refusals.Refusal("refused", **{key: DETAILS[key] for key in ("metadata", "violations", "retry_after")}),
    *REFUSALS,
]


class OutOfStock(errors.PermanentError):
    """A user's error with an ``__init__`` of its own."""

    def __init__(self, sku: str, *, left: int) -> None:
        super().__init__(f"{left} of {sku} left")
        self.sku = sku
        self.left = left


class DiskAway(errors.TransientError, OSError):
    """A user's error that is also an error of Python's with state of its own."""


class PluginAway(errors.TransientError, ImportError):
    """As `DiskAway`."""


USERS: list[BaseException] = [
    OutOfStock("lamp", left=0),
    DiskAway(5, "Input/output error", "/data/orders"),
    PluginAway("no plugin", name="plugin", path="/data/plugin.py"),
]
IN_PYTHON = ("errno", "strerror", "filename", "name", "path")


def raise_sample(number: int) -> None:
    """Raise an error in another process."""
    raise SAMPLES[number]


def put_samples(pipe: Any) -> None:
    """Send all errors to another process."""
    pipe.send(SAMPLES)


def facts(error: Any) -> tuple[Any, ...]:
    """Return all that an error says, in a form that can be compared."""
    if not isinstance(error, BaseException):
        return ("no error", error)
    attributes = {
        name: facts(value) if isinstance(value, BaseException) else value for name, value in vars(error).items()
    }
    own = [getattr(error, name, None) for name in IN_PYTHON]
    return (type(error), str(error), error.args, attributes, own)
