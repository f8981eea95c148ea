"""A gRPC server that returns what a test scripts, and so does what a healthy one never does."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow.v1 import event_pb2, workflow_pb2, workflow_service_pb2_grpc
from mendflow.v1 import workflow_service_pb2 as ws
from tests.support.event_samples import event_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.rpc import status_pb2


@dataclass
class Script(workflow_service_pb2_grpc.WorkflowServiceServicer, health_pb2_grpc.HealthServicer):
    """A server that returns what the test scripts."""

    address: str = ""
    states: list[int] = field(default_factory=lambda: [int(workflow_pb2.WORKFLOW_STATE_SUCCEEDED)])
    events: list[event_pb2.Event] = field(default_factory=list)
    explanation: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    #: The workflows of a list; one of the script's state if there are none.
    listed: list[workflow_pb2.Workflow] = field(default_factory=list)
    no_info: bool = False
    info: ws.GetServerInfoResponse = field(default_factory=ws.GetServerInfoResponse)
    #: The status that ends every call.
    refusal: status_pb2.Status | None = None
    cut: bool = False
    calls: list[Any] = field(default_factory=list)

    def _take(self, request: Any, context: Any) -> None:
        self.calls.append(request)
        if self.refusal is not None:
            context.set_trailing_metadata((("grpc-status-details-bin", self.refusal.SerializeToString()),))
            codes = {code.value[0]: code for code in grpc.StatusCode}
            context.abort(codes[self.refusal.code], self.refusal.message)

    def _workflow(self) -> workflow_pb2.Workflow:
        state: Any = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return workflow_pb2.Workflow(
            workflow_id="w", workflow_type="t", state=state, explanation=self.explanation, create_time=self.time
        )

    @property
    def time(self) -> Any:
        return event_of("timer_fired", {}).time

    def StartWorkflow(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._take(request, context)
        return ws.StartWorkflowResponse(workflow=self._workflow(), started=True)

    def GetWorkflow(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._take(request, context)
        return ws.GetWorkflowResponse(workflow=self._workflow())

    def ListWorkflows(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._take(request, context)
        return ws.ListWorkflowsResponse(workflows=self.listed or [self._workflow()])

    def ListEvents(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._take(request, context)
        return ws.ListEventsResponse(events=self.events)

    def GetServerInfo(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._take(request, context)
        if self.no_info:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "an old server")
        return self.info

    def WatchWorkflow(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self._take(request, context)
        yield ws.WatchWorkflowResponse(events=self.events)
        if self.cut:
            context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._take(request, context)
        status: Any = self.statuses.get(request.service, health_pb2.HealthCheckResponse.SERVING)
        return health_pb2.HealthCheckResponse(status=status)


@contextlib.contextmanager
def scripted_server() -> Iterator[Script]:
    """Run a server that the test scripts."""
    servicer = Script()  # type: ignore[abstract] # methods that it lacks return UNIMPLEMENTED
    server = grpc.server(ThreadPoolExecutor(4))
    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(servicer, server)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait()
