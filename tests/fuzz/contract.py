"""What the contract says about each rpc, read from its descriptors and comments, and whether an answer keeps it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mendflow.v1 import error_reason_pb2, operator_service_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

PROTOS = Path(__file__).parents[2] / "protos" / "mendflow" / "v1"
OURS = (
    workflow_service_pb2.DESCRIPTOR.services_by_name["WorkflowService"],
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"],
)
SERVICES = (
    *OURS,
    health_pb2.DESCRIPTOR.services_by_name["Health"],
    reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
)
REASONS = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name} - {
    "UNSPECIFIED"
}
CODES = {code.name for code in grpc.StatusCode}
CODE_OF_NUMBER = {code.value[0]: code.name for code in grpc.StatusCode}
#: The reasons that say when to retry.
COME_BACK = {"TOO_MANY_WATCHES", "TOO_MANY_WORKFLOWS_IN_MEMORY", "DRAINING", "STORE_UNAVAILABLE"}
#: The reasons that name a workflow.
OF_A_WORKFLOW = {
    "WORKFLOW_NOT_FOUND", "ALREADY_STARTED", "WORKFLOW_ENDED", "WRONG_STATE", "WORKFLOW_HELD", "SEQUENCE_BEYOND_END",
}  # fmt: skip
#: The description of an invalid field without a name: the request could not be parsed.
UNREADABLE = "the request bytes cannot be parsed as this method's request type"


@dataclass(frozen=True, repr=False)
class Method:
    """One rpc."""

    name: str
    path: str
    request: type[Message]
    response: type[Message]
    client_streaming: bool
    server_streaming: bool
    ours: bool
    #: The (code, reason) pairs in its comment.
    documented: frozenset[tuple[str, str]] = frozenset()

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    code: str
    message: str
    #: The content of grpc-status-details-bin, or None if there was none.
    status: status_pb2.Status | None
    #: The responses before the end.
    responses: tuple[Any, ...] = ()


def methods() -> list[Method]:
    """Return every rpc of every service that the server has."""
    documented = dict(_documented())
    return [
        _method(method, ours=service in OURS, documented=documented.get(method.name, frozenset()))
        for service in SERVICES
        for method in service.methods
    ]


def _method(method: Any, *, ours: bool, documented: frozenset[tuple[str, str]]) -> Method:
    return Method(
        name=method.name,
        path=f"/{method.containing_service.full_name}/{method.name}",
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        ours=ours,
        documented=documented,
    )


def _documented() -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
    """Read the statuses from the comments: those of the whole service, then those of each rpc."""
    common: frozenset[tuple[str, str]] = frozenset()
    for path in ("workflow_service.proto", "operator_service.proto"):
        comment: list[str] = []
        for line in (PROTOS / path).read_text(encoding="utf-8").splitlines():
            text = line.strip()
            if text.startswith("//"):
                comment.append(text.removeprefix("//"))
                continue
            if path == "workflow_service.proto" and text.startswith("service "):
                common = _pairs(comment)
            rpc = re.match(r"rpc (\w+)\(", text)
            if rpc:
                yield rpc[1], _pairs(comment) | common
            comment = []


def _pairs(comment: list[str]) -> frozenset[tuple[str, str]]:
    pairs = set()
    codes: list[str] = []
    for line in comment:
        words = re.findall(r"[A-Z_]{4,}", line)
        if not line.startswith("   "):
            codes = []
        elif not line.startswith("    "):
            # The codes come first. The rest of the line may name states, which have the same names.
            codes = [word for word in _leading(line) if word in CODES]
        pairs |= {(code, word) for code in codes for word in words if word in REASONS}
    return frozenset(pairs)


def _leading(line: str) -> list[str]:
    found = re.match(r" *([A-Z_]+(?:, [A-Z_]+)*)", line)
    return found[1].split(", ") if found else []


def answer_of(error: grpc.RpcError, responses: tuple[Any, ...] = ()) -> Answer:
    """Return the status of a failed call."""
    call: Any = error
    status = None
    for name, value in call.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
    return Answer(call.code().name, call.details() or "", status, responses)


def faults(method: Method, request: Message | None, answer: Answer) -> list[str]:
    """Return what is wrong with the end of a call. ``request`` is None if its bytes were no message."""
    if answer.code == "OK":
        return [] if request is not None else ["OK, but the request was no message"]
    if answer.code in ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"):
        return [f"{answer.code}: {answer.message}"]
    if not method.ours and request is not None:
        return [] if answer.code in ("NOT_FOUND", "INVALID_ARGUMENT") else [f"{answer.code}: {answer.message}"]
    if answer.status is None:
        return [f"{answer.code} without details: {answer.message}"]
    if CODE_OF_NUMBER.get(answer.status.code) != answer.code or answer.status.message != answer.message:
        return [f"the details have {answer.status.code} {answer.status.message!r}, the status {answer!r}"]
    return faults_of_status(method, request, answer.status)


def faults_of_status(method: Method, request: Message | None, status: status_pb2.Status) -> list[str]:
    """Return what is wrong with the details of a refusal."""
    code = CODE_OF_NUMBER.get(status.code, "?")
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry, resource = error_details_pb2.RetryInfo(), error_details_pb2.ResourceInfo()
    known = {detail.DESCRIPTOR.full_name: detail for detail in (info, bad, retry, resource)}
    for packed in status.details:
        detail = known.get(packed.TypeName())
        if detail is None or not packed.Unpack(detail):
            return [f"a detail that the contract does not have: {packed}"]
    reason = info.reason
    checks = {
        f"ErrorInfo is {info}": info.domain == "mendflow" and reason in REASONS,
        f"{method.name} does not document {code} {reason}": not method.ours or (code, reason) in method.documented,
        f"{reason} with {len(bad.field_violations)} invalid fields": reason == "SEQUENCE_BEYOND_END"
        or (code == "INVALID_ARGUMENT") == bool(bad.field_violations),
        f"{reason} and RetryInfo {retry}": (reason in COME_BACK) == status_has(status, "RetryInfo"),
        f"{reason} and ResourceInfo {resource}": reason == "TOO_MANY_SIGNALS"
        or (reason in OF_A_WORKFLOW) == bool(resource.resource_name),
    }
    return [fault for fault, kept in checks.items() if not kept] + _faults_of_fields(request, bad)


def _faults_of_fields(request: Message | None, bad: error_details_pb2.BadRequest) -> list[str]:
    """Check that each invalid field exists and has a description."""
    wrong = []
    for index, violation in enumerate(bad.field_violations):
        if not violation.description:
            wrong.append(f"{violation.field} is invalid without a description")
        if violation.field:
            if request is None or not is_field(request.DESCRIPTOR, violation.field):
                wrong.append(f"there is no field {violation.field!r}")
        elif violation.description == UNREADABLE:
            if request is not None:
                wrong.append("a message that can be parsed is called unreadable")
        elif not (0 < index == len(bad.field_violations) - 1 and violation.description.startswith("and ")):
            wrong.append(f"no field is named: {violation.description}")
    return wrong


def status_has(status: status_pb2.Status, name: str) -> bool:
    """Return whether the details contain one of this type."""
    return any(packed.TypeName() == f"google.rpc.{name}" for packed in status.details)


def is_field(descriptor: Any, path: str) -> bool:
    """Return whether a violation's path leads to a field of this message, or into a value of the user's type."""
    found = re.match(r"[a-z_0-9]+", path)
    field = descriptor.fields_by_name.get(found[0]) if found else None
    if field is None or found is None:
        return False
    rest = path[found.end() :]
    if field.message_type is not None and field.message_type.full_name == "mendflow.v1.Payload":
        return not rest or rest[0] in ".["
    if not rest:
        return True
    return _is_inside(field, rest)


def _is_inside(field: FieldDescriptor, rest: str) -> bool:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        # A key may hold any text, and be truncated.
        return rest.startswith('["') and rest.endswith(('"]', "…"))
    index = re.match(r"\[\d+\]", rest)
    if field.is_repeated and index:
        rest = rest[index.end() :]
    elif field.is_repeated:
        return False
    if not rest:
        return True
    return rest.startswith(".") and field.message_type is not None and is_field(field.message_type, rest[1:])


METHODS = methods()
BY_NAME = {method.name: method for method in METHODS}
