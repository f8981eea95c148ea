"""OperatorService: the rpcs for a person on call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.v1 import operator_service_pb2, operator_service_pb2_grpc
from mendflow_server.api.conversion import describe
from mendflow_server.api.shield import Shield
from mendflow_server.api.validation import check_operator

if TYPE_CHECKING:
    import grpc

    from mendflow_server.api.interfaces import WorkflowEngine
    from mendflow_server.settings import Settings

    Context = grpc.aio.ServicerContext[Any, Any]

__all__ = ["OperatorService"]


class OperatorService(operator_service_pb2_grpc.OperatorServiceServicer):
    """The rpc handlers. Each checks its request, calls the engine and describes the result."""

    def __init__(self, engine: WorkflowEngine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._shield = Shield()

    async def ResumeWorkflow(
        self, request: operator_service_pb2.ResumeWorkflowRequest, context: Context
    ) -> operator_service_pb2.ResumeWorkflowResponse:
        """Resume a PAUSED or QUARANTINED workflow."""
        checked = check_operator(request, self._settings)
        row = await self._shield.run(
            self._engine.resume(checked.workflow_id, reason=checked.reason, actor=context.peer())
        )
        return operator_service_pb2.ResumeWorkflowResponse(workflow=describe(row))

    async def TerminateWorkflow(
        self, request: operator_service_pb2.TerminateWorkflowRequest, context: Context
    ) -> operator_service_pb2.TerminateWorkflowResponse:
        """End a workflow at once, without clean-up."""
        checked = check_operator(request, self._settings)
        row = await self._shield.run(
            self._engine.terminate(checked.workflow_id, reason=checked.reason, actor=context.peer())
        )
        return operator_service_pb2.TerminateWorkflowResponse(workflow=describe(row))
