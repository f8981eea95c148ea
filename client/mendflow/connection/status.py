"""From a call's status to an error of `mendflow.errors`, by one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mendflow import errors

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAY_COME_BACK", "as_error"]

_BY_CODE: Final[dict[grpc.StatusCode, type[errors.RequestError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.WorkflowNotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyStarted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.OUT_OF_RANGE: errors.SequenceOutOfRange,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}

#: A server that answers so may answer otherwise soon, here or elsewhere.
MAY_COME_BACK: Final = frozenset({grpc.StatusCode.UNAVAILABLE})

_DETAILS: Final = "grpc-status-details-bin"


def as_error(error: grpc.aio.AioRpcError, target: str) -> errors.RequestError:
    """Answer the error to raise for a call that ended so; ``target`` names the server in it."""
    code = error.code()
    status = _details(error)
    reason, metadata, violations, retry_after = "", {}, [], None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest.FromString(detail.value)
            violations = [(each.field, each.description) for each in bad.field_violations]
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
    make: Callable[..., errors.RequestError] = _BY_CODE.get(code, errors.ServerFault)
    message = error.details() or code.name
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        message = f"the server at {target} cannot be reached: {message}"
    return make(
        message, code=code.name, reason=reason, metadata=metadata, violations=violations, retry_after=retry_after
    )


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for name, value in error.trailing_metadata() or ():
        if name == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()
