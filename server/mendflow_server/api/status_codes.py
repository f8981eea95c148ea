"""The one table of gRPC status codes, and the status with details that a refusal becomes.

A status travels in the trailers, which gRPC limits to 8 KiB by default. Above that limit the caller receives
RESOURCE_EXHAUSTED instead of the refusal. The message is sent twice: percent-encoded, and inside the details, which are
base64. `to_status` therefore truncates every text, so that the trailers stay below the limit for any request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from mendflow_server.errors import METADATA_BYTES, RESOURCE_BYTES, truncate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mendflow_server.errors import Refusal

__all__ = ["DOMAIN", "STATUS_CODES", "status_code_of", "to_status"]

#: The status code of each reason of ``mendflow.v1.ErrorReason``, by the reason's name without its prefix.
STATUS_CODES: Final[Mapping[str, StatusCode]] = {
    "INVALID_FIELD": StatusCode.INVALID_ARGUMENT,
    "UNKNOWN_WORKFLOW_TYPE": StatusCode.INVALID_ARGUMENT,
    "INPUT_MISMATCH": StatusCode.INVALID_ARGUMENT,
    "INVALID_PAGE_TOKEN": StatusCode.INVALID_ARGUMENT,
    "TOO_LARGE": StatusCode.INVALID_ARGUMENT,
    "WORKFLOW_NOT_FOUND": StatusCode.NOT_FOUND,
    "ALREADY_STARTED": StatusCode.ALREADY_EXISTS,
    "WORKFLOW_ENDED": StatusCode.FAILED_PRECONDITION,
    "WRONG_STATE": StatusCode.FAILED_PRECONDITION,
    "WORKFLOW_HELD": StatusCode.FAILED_PRECONDITION,
    "MESSAGES_NOT_EXPORTED": StatusCode.FAILED_PRECONDITION,
    "SEQUENCE_BEYOND_END": StatusCode.OUT_OF_RANGE,
    "HISTORY_PURGED": StatusCode.OUT_OF_RANGE,
    "TOO_MANY_SIGNALS": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_WATCHES": StatusCode.RESOURCE_EXHAUSTED,
    "TOO_MANY_WORKFLOWS_IN_MEMORY": StatusCode.RESOURCE_EXHAUSTED,
    "DRAINING": StatusCode.UNAVAILABLE,
    "STORE_UNAVAILABLE": StatusCode.UNAVAILABLE,
    "INTERNAL": StatusCode.INTERNAL,
}

#: ErrorInfo.domain of every refusal.
DOMAIN: Final = "mendflow"

_RESOURCE_TYPE: Final = "mendflow.v1.Workflow"

_MESSAGE_BYTES: Final = 600
_DESCRIPTION_BYTES: Final = 300
_FIELD_BYTES: Final = 150
_VIOLATIONS_BYTES: Final = 1_500


def status_code_of(refusal: Refusal) -> StatusCode:
    """Return the status code of a refusal's reason."""
    return STATUS_CODES[refusal.reason]


def to_status(refusal: Refusal) -> status_pb2.Status:
    """Return the status with its details, small enough for gRPC's trailers whatever the caller sent."""
    number: int = status_code_of(refusal).value[0]
    status = status_pb2.Status(code=number, message=truncate(refusal.message, _MESSAGE_BYTES))
    info = error_details_pb2.ErrorInfo(
        reason=refusal.reason,
        domain=DOMAIN,
        metadata={name: truncate(value, METADATA_BYTES) for name, value in refusal.metadata.items()},
    )
    status.details.add().Pack(info)
    if refusal.violations:
        status.details.add().Pack(_bad_request(refusal.violations))
    if refusal.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(round(refusal.retry_after * 1_000_000_000))
        status.details.add().Pack(retry)
    if refusal.resource is not None:
        resource = error_details_pb2.ResourceInfo(
            resource_type=_RESOURCE_TYPE, resource_name=truncate(refusal.resource, RESOURCE_BYTES)
        )
        status.details.add().Pack(resource)
    return status


def _bad_request(violations: Sequence[tuple[str, str]]) -> error_details_pb2.BadRequest:
    """Return as many violations as fit, and the number of the others."""
    bad_request = error_details_pb2.BadRequest()
    for count, (field, description) in enumerate(violations):
        if bad_request.ByteSize() > _VIOLATIONS_BYTES:
            bad_request.field_violations.add(description=f"and {len(violations) - count} more")
            break
        bad_request.field_violations.add(
            field=truncate(field, _FIELD_BYTES), description=truncate(description, _DESCRIPTION_BYTES)
        )
    return bad_request
