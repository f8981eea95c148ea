"""The classification of a step's failed gRPC call, by the status that a real server returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from mendflow.authoring.failures.retry import classify
from mendflow.authoring.retry import RetryPolicy
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_790_000_000.0


def failed(error: BaseException, now: float = NOW) -> failure_pb2.Failure:
    """Classify the error, and check that the failure survives serialization."""
    failure = classify(error, policy=RetryPolicy(), now=now).failure
    assert failure_pb2.Failure.FromString(failure.SerializeToString()) == failure
    return failure


def kind(error: BaseException) -> str:
    return failure_pb2.FailureKind.Name(failed(error).kind).removeprefix("FAILURE_KIND_")


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server whose only method returns the status that the request names, with RetryInfo on request."""

    async def refuse(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        name, _, delay = request.decode().partition(" ")
        code = grpc.StatusCode[name]
        metadata: tuple[tuple[str, str | bytes], ...] = ()
        if delay == "garbage":
            metadata = (("grpc-status-details-bin", b"\xff\xff"),)
        elif delay:
            detail = any_pb2.Any()
            wait = duration_pb2.Duration()
            wait.FromJsonString(f"{delay}s")
            detail.Pack(error_details_pb2.RetryInfo(retry_delay=wait))
            status = status_pb2.Status(code=code.value[0], details=[detail])
            metadata = (("grpc-status-details-bin", status.SerializeToString()),)
        await context.abort(code, "refused", metadata)
        raise AssertionError

    server = grpc.aio.server()
    handler = grpc.method_handlers_generic_handler("test", {"Refuse": grpc.unary_unary_rpc_method_handler(refuse)})
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened
    await server.stop(None)


async def refusal(channel: grpc.aio.Channel, request: str) -> grpc.RpcError:
    refuse: Any = channel.unary_unary("/test/Refuse", request_serializer=None, response_deserializer=None)
    with pytest.raises(grpc.RpcError) as caught:
        await refuse(request.encode())
    return caught.value


GRPC_KINDS = {
    "CANCELLED": "TRANSIENT",
    "UNKNOWN": "TRANSIENT",
    "INTERNAL": "TRANSIENT",
    "ABORTED": "TRANSIENT",
    "UNAVAILABLE": "TRANSIENT",
    "RESOURCE_EXHAUSTED": "THROTTLED",
    "DEADLINE_EXCEEDED": "TIMEOUT",
}


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_every_grpc_status_has_its_kind(channel: grpc.aio.Channel, code: str) -> None:
    error = await refusal(channel, code)
    assert kind(error) == GRPC_KINDS.get(code, "PERMANENT")
    assert failed(error).status_code == f"grpc:{code}"
    assert not failed(error).HasField("retry_after")


async def test_retry_info_sets_the_delay(channel: grpc.aio.Channel) -> None:
    assert failed(await refusal(channel, "UNAVAILABLE 2.5")).retry_after.ToMilliseconds() == 2500


async def test_unreadable_details_are_ignored(channel: grpc.aio.Channel) -> None:
    failure = failed(await refusal(channel, "UNAVAILABLE garbage"))
    assert (failure.status_code, failure.HasField("retry_after")) == ("grpc:UNAVAILABLE", False)


async def test_a_server_that_is_not_there_is_transient() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as unreachable:
        assert kind(await refusal(unreachable, "OK")) == "TRANSIENT"
