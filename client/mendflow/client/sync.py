"""The synchronous client: the asyncio client, on an event loop in its own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from mendflow.addresses import check_target
from mendflow.client.blocking import LoopThread
from mendflow.client.client import NOTHING, Client
from mendflow.client.handle import WorkflowHandle
from mendflow.client.process import refuse_forked_child
from mendflow.client.watch import SILENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from datetime import datetime

    from mendflow import errors
    from mendflow.authoring.workflow import Workflow
    from mendflow.client.client import Types
    from mendflow.v1 import event_pb2, workflow_pb2, workflow_service_pb2

__all__ = ["SyncClient", "SyncWorkflowHandle"]

I = TypeVar("I")  # noqa: E741 - the input
R = TypeVar("R")


class SyncWorkflowHandle(Generic[R]):
    """`WorkflowHandle` for code without asyncio. Its methods block, and its iterators are plain ones."""

    def __init__(self, threads: LoopThread[Client], handle: WorkflowHandle[R]) -> None:
        self._threads = threads
        self._handle = handle
        self.id = handle.id
        self.started = handle.started

    def __repr__(self) -> str:
        return repr(self._handle)

    @property
    def retry_for(self) -> float | None:
        """How many seconds a watch retries an unavailable server. None: no limit."""
        return self._handle.retry_for

    @retry_for.setter
    def retry_for(self, seconds: float | None) -> None:
        self._handle.retry_for = seconds

    def watch(
        self,
        after_sequence: int = 0,
        *,
        kinds: Collection[int] = (),
        on_connection: Callable[[bool, str], None] | None = None,
        silence: float = SILENCE,
    ) -> Iterator[event_pb2.Event]:
        """Yield the workflow's events after a sequence, until the workflow ends; see `WorkflowHandle.watch`.

        ``on_connection`` is called on the client's own thread.
        """
        return self._threads.iterate(
            lambda _: self._handle.watch(after_sequence, kinds=kinds, on_connection=on_connection, silence=silence)
        )

    def result(self, timeout: float | None = None) -> R:
        """Wait for the workflow's end and return its result; see `WorkflowHandle.result`."""
        return self._threads.run(lambda _: self._handle.result(timeout))

    def outcome(self, workflow: workflow_pb2.Workflow) -> R:
        """Return the result of an ended workflow; see `WorkflowHandle.outcome`."""
        return self._handle.outcome(workflow)

    def get(self, wait: float | None = None) -> workflow_pb2.Workflow:
        """Return the workflow. With ``wait``, return when it has ended, or after that many seconds."""
        return self._threads.run(lambda _: self._handle.get(wait))

    def events(self) -> Iterator[event_pb2.Event]:
        """Yield the workflow's events up to now, oldest first."""
        return self._threads.iterate(lambda _: self._handle.events())

    def signal(
        self, name: str, data: Any = None, *, request_id: str | None = None, allow_undeclared: bool = False
    ) -> bool:
        """Send a signal. Return False if the workflow already has a signal with this ``request_id``.

        With ``allow_undeclared``, send one that the workflow's type does not declare; see `Client.signal`.
        """
        return self._threads.run(
            lambda _: self._handle.signal(name, data, request_id=request_id, allow_undeclared=allow_undeclared)
        )

    def cancel(self, reason: str = "") -> workflow_pb2.Workflow:
        """Ask the workflow to clean up and end."""
        return self._threads.run(lambda _: self._handle.cancel(reason))

    def resume(self, reason: str = "") -> workflow_pb2.Workflow:
        """Resume a PAUSED or QUARANTINED workflow."""
        return self._threads.run(lambda _: self._handle.resume(reason))

    def terminate(self, reason: str = "") -> workflow_pb2.Workflow:
        """End the workflow at once, without clean-up."""
        return self._threads.run(lambda _: self._handle.terminate(reason))

    def hold(self) -> workflow_pb2.Workflow:
        """Keep the workflow from being deleted until `release`."""
        return self._threads.run(lambda _: self._handle.hold())

    def release(self) -> workflow_pb2.Workflow:
        """Release the held workflow."""
        return self._threads.run(lambda _: self._handle.release())

    def delete(self) -> bool:
        """Delete the workflow, which has ended. Return False if there is none with this id."""
        return self._threads.run(lambda _: self._handle.delete())


class SyncClient:
    """`Client` for code without asyncio. It has the same methods, which block, and plain iterators.

    Use it as a context manager, or close it. It connects at its first call, so a program may make it before it forks
    its workers; each of them then has its own connection. Threads may share it. ``timeout`` and ``retry_for`` are those
    of `Client`. Raise ValueError if ``target`` is malformed.
    """

    def __init__(
        self, target: str = "127.0.0.1:50051", *, timeout: float = 10.0, retry_for: float | None = 60.0
    ) -> None:
        refuse_forked_child()
        self.target = check_target(target)
        self._threads = LoopThread(lambda: Client(target, timeout=timeout, retry_for=retry_for))

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection and end the thread."""
        self.close()

    def close(self) -> None:
        """Close the connection and end the thread.

        Calls that other threads have in progress raise `MendflowError`, as all later calls do. The server may still
        carry them out.
        """
        self._threads.close(lambda client: client.close())

    # Start workflows.

    @overload
    def run(
        self,
        workflow: Workflow[None, R],
        input: None = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
        timeout: float | None = ...,
    ) -> R: ...
    @overload
    def run(
        self,
        workflow: Workflow[I, R],
        input: I,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
        timeout: float | None = ...,
    ) -> R: ...
    @overload
    def run(
        self,
        workflow: str,
        input: Any = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
        timeout: float | None = ...,
    ) -> Any: ...
    def run(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = NOTHING,
        *,
        id: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Start a workflow and return its result; see `Client.run`."""
        return self._threads.run(lambda client: client.run(workflow, input, id=id, labels=labels, timeout=timeout))

    @overload
    def start(
        self,
        workflow: Workflow[None, R],
        input: None = ...,
        *,
        id: str | None = ...,
        labels: Mapping[str, str] | None = ...,
    ) -> SyncWorkflowHandle[R]: ...
    @overload
    def start(
        self, workflow: Workflow[I, R], input: I, *, id: str | None = ..., labels: Mapping[str, str] | None = ...
    ) -> SyncWorkflowHandle[R]: ...
    @overload
    def start(
        self, workflow: str, input: Any = ..., *, id: str | None = ..., labels: Mapping[str, str] | None = ...
    ) -> SyncWorkflowHandle[Any]: ...
    def start(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = NOTHING,
        *,
        id: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SyncWorkflowHandle[Any]:
        """Start a workflow and return its handle once the start is committed; see `Client.start`."""
        handle = self._threads.run(lambda client: client.start(workflow, input, id=id, labels=labels))
        return SyncWorkflowHandle(self._threads, handle)

    def start_many(
        self,
        workflow: Workflow[I, R] | str,
        inputs: Iterable[I],
        *,
        ids: Iterable[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> list[SyncWorkflowHandle[R] | errors.RequestError]:
        """Start many workflows of one type; see `Client.start_many`."""
        outcomes = self._threads.run(lambda client: client.start_many(workflow, inputs, ids=ids, labels=labels))
        return [
            SyncWorkflowHandle(self._threads, each) if isinstance(each, WorkflowHandle) else each for each in outcomes
        ]

    # Read workflows.

    @overload
    def handle(self, id: str, *, result_type: Workflow[Any, R]) -> SyncWorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, *, result_type: type[R]) -> SyncWorkflowHandle[R]: ...
    @overload
    def handle(self, id: str, *, result_type: Any = ...) -> SyncWorkflowHandle[Any]: ...
    def handle(self, id: str, *, result_type: Any = Any) -> SyncWorkflowHandle[Any]:
        """Return a handle to the workflow with this id, without a call to the server; see `Client.handle`."""

        async def make(client: Client) -> WorkflowHandle[Any]:
            return client.handle(id, result_type=result_type)

        return SyncWorkflowHandle(self._threads, self._threads.run(make))

    def get(self, id: str, *, wait: float | None = None) -> workflow_pb2.Workflow:
        """Return a workflow with its input and outcome; see `Client.get`."""
        return self._threads.run(lambda client: client.get(id, wait=wait))

    def list(
        self,
        *,
        workflow_type: str = "",
        states: Collection[int] = (),
        labels: Mapping[str, str] | None = None,
        create_time_from: datetime | None = None,
        create_time_until: datetime | None = None,
        page_size: int = 100,
    ) -> Iterator[workflow_pb2.Workflow]:
        """Yield the workflows that match all conditions, newest first."""
        return self._threads.iterate(
            lambda client: client.list(
                workflow_type=workflow_type,
                states=states,
                labels=labels,
                create_time_from=create_time_from,
                create_time_until=create_time_until,
                page_size=page_size,
            )
        )

    def types(self) -> Types:
        """Return the workflow types that the server serves, in order of their names."""
        return self._threads.run(lambda client: client.types())

    def server_info(self) -> workflow_service_pb2.GetServerInfoResponse:
        """Return the server's version, limits and features."""
        return self._threads.run(lambda client: client.server_info())

    def health(self, service: str = "") -> str:
        """Return "SERVING" or "NOT_SERVING" for a service of grpc.health.v1; see `Client.health`."""
        return self._threads.run(lambda client: client.health(service))

    # Change workflows.

    def signal(
        self, id: str, name: str, data: Any = None, *, request_id: str | None = None, allow_undeclared: bool = False
    ) -> bool:
        """Send a signal; see `Client.signal`."""
        return self._threads.run(
            lambda client: client.signal(id, name, data, request_id=request_id, allow_undeclared=allow_undeclared)
        )

    def cancel(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """Ask a workflow to clean up and end. Raise `WorkflowNotFound` or `WrongState`."""
        return self._threads.run(lambda client: client.cancel(id, reason))

    def resume(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """Resume a PAUSED or QUARANTINED workflow. Raise `WorkflowNotFound` or `WrongState`."""
        return self._threads.run(lambda client: client.resume(id, reason))

    def terminate(self, id: str, reason: str = "") -> workflow_pb2.Workflow:
        """End a workflow at once, without clean-up. Raise `WorkflowNotFound` or `WrongState`."""
        return self._threads.run(lambda client: client.terminate(id, reason))

    def hold(self, id: str) -> workflow_pb2.Workflow:
        """Keep a workflow from being deleted until `release`; see `Client.hold`."""
        return self._threads.run(lambda client: client.hold(id))

    def release(self, id: str) -> workflow_pb2.Workflow:
        """Release a held workflow; see `Client.release`."""
        return self._threads.run(lambda client: client.release(id))

    def delete(self, id: str) -> bool:
        """Delete a workflow that has ended, with its history; see `Client.delete`."""
        return self._threads.run(lambda client: client.delete(id))
