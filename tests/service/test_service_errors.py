"""The services behind a real gRPC server: how a caller sees the engine's errors, and refusals of malformed requests."""

from __future__ import annotations

import grpc
import pytest
from structlog.testing import capture_logs

from mendflow.v1 import (
    event_pb2,
)
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow_server import errors
from mendflow_server.api.operator_service import OperatorService
from mendflow_server.api.server import CannotListen, build_grpc_server
from mendflow_server.api.workflow_service import WorkflowService
from mendflow_server.health.monitor import HealthStatus
from mendflow_server.store.errors import CommitUnknown, StoreUnavailable
from tests.support.stub_engine import HEALTH, SETTINGS, Door, every_call, raw, refusal, refused_by, text


@pytest.mark.parametrize("fault", [StoreUnavailable("disk full"), CommitUnknown("fsync"), errors.Draining()])
async def test_a_temporary_error_is_unavailable_with_a_delay(door: Door, fault: Exception) -> None:
    door.engine.fault = fault
    reason = "DRAINING" if isinstance(fault, errors.Draining) else "STORE_UNAVAILABLE"
    for call in every_call(door).values():
        found = await refusal(call())
        assert (found.code, found.reason, found.retry) == ("UNAVAILABLE", reason, True)


async def test_an_unforeseen_error_is_internal_and_logged_with_its_id(door: Door) -> None:
    door.engine.fault = KeyError("secret")
    for name, call in every_call(door).items():
        with capture_logs() as logs:
            found = await refusal(call())
        assert (found.code, found.reason) == ("INTERNAL", "INTERNAL")
        assert "secret" not in str(found)
        assert [(entry["error_id"], entry["exc_info"]) for entry in logs] == [
            (found.metadata["error_id"], door.engine.fault)
        ]
        assert logs[0]["method"].endswith(f"/{name}")


async def test_an_unforeseen_error_in_a_batch_touches_only_its_outcome(door: Door) -> None:
    door.engine.fault = KeyError("secret")
    batch = ws.BatchStartWorkflowsRequest(requests=[ws.StartWorkflowRequest(workflow_type="nothing")])
    with capture_logs():
        answer = await door.stub.BatchStartWorkflows(batch)
    assert refused_by(answer.outcomes[0].error, "").reason == "INTERNAL"


async def test_bytes_that_are_no_message_are_refused_as_bad_input(door: Door) -> None:
    for method in ("WorkflowService/StartWorkflow", "OperatorService/ResumeWorkflow", "WorkflowService/WatchWorkflow"):
        for garbage in (b"\xff\xff", b"\x0a\x02\xff\xff"):
            path = f"/mendflow.v1.{method}"
            if method.endswith("WatchWorkflow"):
                found = await refusal(raw(door.channel.unary_stream)(path, None, None)(garbage))
            else:
                found = await refusal(raw(door.channel.unary_unary)(path, None, None)(garbage))
            assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")


async def test_a_refusal_with_the_nastiest_text_reaches_the_caller(door: Door) -> None:
    nasty = "\U0001f600\n\r%\t\"'" * 5_000
    request = ws.StartWorkflowRequest(workflow_id=nasty, workflow_type=nasty, request_id=nasty, labels={nasty: nasty})
    found = await refusal(door.stub.StartWorkflow(request))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    request = ws.StartWorkflowRequest(workflow_type=nasty)
    assert (await refusal(door.stub.StartWorkflow(request))).reason == "UNKNOWN_WORKFLOW_TYPE"


async def test_a_port_in_use_is_a_clear_error(door: Door) -> None:
    with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{door.port}.*--grpc-address"):
        build_grpc_server(
            SETTINGS,
            f"127.0.0.1:{door.port}",
            workflow_service=WorkflowService(
                door.engine,
                SETTINGS,
                trace=lambda _: event_pb2.TraceContext(),
                health=lambda: HealthStatus(ok=True),
                version="",
            ),
            operator_service=OperatorService(door.engine, SETTINGS),
            health_servicer=HEALTH.aio.HealthServicer(),
        )


async def test_a_message_above_the_request_limit_is_refused_by_grpc(door: Door) -> None:
    request = ws.StartWorkflowRequest(workflow_type="echo", input=text('"' + "x" * (4 << 20) + '"'))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.stub.StartWorkflow(request)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert door.engine.done == []
