"""The table that maps a call's status to an error of `mendflow.errors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mendflow import errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

__all__ = ["error_of_rpc", "error_of_status"]

_BY_CODE: Final[dict[grpc.StatusCode, type[errors.RequestError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: errors.WorkflowNotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.AlreadyStarted,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.OUT_OF_RANGE: errors.SequenceOutOfRange,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceeded,
    grpc.StatusCode.UNAVAILABLE: errors.ServerUnavailable,
    # gRPC cancels waiting calls when a server stops, and some calls when there are too many.
    grpc.StatusCode.CANCELLED: errors.ServerUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
}

_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}
_DETAILS: Final = "grpc-status-details-bin"


def error_of_rpc(error: grpc.aio.AioRpcError, target: str) -> errors.RequestError:
    """Return the error to raise for a failed call; ``target`` is the server's address for the message."""
    return _make(error.code(), error.details() or error.code().name, _details(error), target)


def error_of_status(status: status_pb2.Status, target: str) -> errors.RequestError:
    """Return the error for a status inside a reply, such as the status of one start in a batch."""
    code = _BY_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    return _make(code, status.message or code.name, status, target)


def _make(code: grpc.StatusCode, message: str, status: status_pb2.Status, target: str) -> errors.RequestError:
    reason, metadata, violations, retry_after = "", {}, [], None
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        if _unpack(detail, info):
            reason, metadata = info.reason, dict(info.metadata)
        elif _unpack(detail, bad):
            violations = [(each.field, each.description) for each in bad.field_violations]
        elif _unpack(detail, retry):
            retry_after = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    make: Callable[..., errors.RequestError] = _BY_CODE.get(code, errors.ServerFault)
    if code is grpc.StatusCode.UNAVAILABLE and not reason:
        message = f"the server at {target} cannot be reached: {message}"
    return make(
        message, code=code.name, reason=reason, metadata=metadata, violations=violations, retry_after=retry_after
    )


def _unpack(detail: Any, message: Message) -> bool:
    """Unpack a detail into the message. Return False if it has another type or cannot be decoded."""
    try:
        return bool(detail.Unpack(message))
    except DecodeError:
        return False


def _details(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    for name, value in error.trailing_metadata() or ():
        if name == _DETAILS and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()
