"""OperatorService: the rpcs for a person on call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.v1 import operator_service_pb2, operator_service_pb2_grpc
from mendflow_server.api.conversion import describe
from mendflow_server.api.shield import Shield
from mendflow_server.api.validation import check_delete, check_hold, check_operator

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

    async def HoldWorkflow(
        self, request: operator_service_pb2.HoldWorkflowRequest, context: Context
    ) -> operator_service_pb2.HoldWorkflowResponse:
        """Keep a workflow from being deleted."""
        workflow_id = check_hold(request, self._settings)
        row = await self._shield.run(self._engine.set_held(workflow_id, held=True, actor=context.peer()))
        return operator_service_pb2.HoldWorkflowResponse(workflow=describe(row))

    async def ReleaseWorkflow(
        self, request: operator_service_pb2.ReleaseWorkflowRequest, context: Context
    ) -> operator_service_pb2.ReleaseWorkflowResponse:
        """Release a held workflow."""
        workflow_id = check_hold(request, self._settings)
        row = await self._shield.run(self._engine.set_held(workflow_id, held=False, actor=context.peer()))
        return operator_service_pb2.ReleaseWorkflowResponse(workflow=describe(row))

    async def DeleteWorkflow(
        self, request: operator_service_pb2.DeleteWorkflowRequest, context: Context
    ) -> operator_service_pb2.DeleteWorkflowResponse:
        """Delete a workflow that has ended."""
        checked = check_delete(request, self._settings)
        await self._shield.run(self._engine.delete(checked.workflow_id, uid=checked.uid, actor=context.peer()))
        return operator_service_pb2.DeleteWorkflowResponse()
