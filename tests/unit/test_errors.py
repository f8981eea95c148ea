"""The error tree has one class for each reason, and every status fits into gRPC's trailers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from mendflow.v1 import error_reason_pb2, workflow_pb2
from mendflow_server import errors
from mendflow_server.api.status_codes import STATUS_CODES, to_status
from tests.support.error_samples import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.rpc import status_pb2

# Copied by hand from error_reason.proto, whose comments are the contract.
CODES = {
    "INVALID_FIELD": "INVALID_ARGUMENT",
    "UNKNOWN_WORKFLOW_TYPE": "INVALID_ARGUMENT",
    "INPUT_MISMATCH": "INVALID_ARGUMENT",
    "INVALID_PAGE_TOKEN": "INVALID_ARGUMENT",
    "TOO_LARGE": "INVALID_ARGUMENT",
    "WORKFLOW_NOT_FOUND": "NOT_FOUND",
    "ALREADY_STARTED": "ALREADY_EXISTS",
    "WORKFLOW_ENDED": "FAILED_PRECONDITION",
    "WRONG_STATE": "FAILED_PRECONDITION",
    "WORKFLOW_HELD": "FAILED_PRECONDITION",
    "MESSAGES_NOT_EXPORTED": "FAILED_PRECONDITION",
    "SEQUENCE_BEYOND_END": "OUT_OF_RANGE",
    "HISTORY_PURGED": "OUT_OF_RANGE",
    "TOO_MANY_SIGNALS": "RESOURCE_EXHAUSTED",
    "TOO_MANY_WATCHES": "RESOURCE_EXHAUSTED",
    "TOO_MANY_WORKFLOWS_IN_MEMORY": "RESOURCE_EXHAUSTED",
    "DRAINING": "UNAVAILABLE",
    "STORE_UNAVAILABLE": "UNAVAILABLE",
    "INTERNAL": "INTERNAL",
}

RETRIED = {
    "TOO_MANY_WATCHES",
    "TOO_MANY_WORKFLOWS_IN_MEMORY",
    "DRAINING",
    "STORE_UNAVAILABLE",
}


def classes(root: type[errors.Refusal]) -> Iterator[type[errors.Refusal]]:
    """Return every class below the root that has its own reason."""
    for below in root.__subclasses__():
        if "reason" in vars(below):
            yield below
        yield from classes(below)


def details(status: status_pb2.Status) -> dict[str, object]:
    """Return the details by the short name of their message."""
    unpacked: dict[str, object] = {}
    for detail in status.details:
        name = detail.TypeName().rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        assert detail.Unpack(message)
        assert name not in unpacked
        unpacked[name] = message
    return unpacked


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = details(status)["ErrorInfo"]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    return info


def violations_of(status: status_pb2.Status) -> list[tuple[str, str]]:
    bad_request = details(status)["BadRequest"]
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    return [(violation.field, violation.description) for violation in bad_request.field_violations]


def test_every_reason_has_exactly_one_class_and_its_code() -> None:
    assert sorted(refusal.reason for refusal in classes(errors.Refusal)) == sorted(CODES)
    assert {reason: code.name for reason, code in STATUS_CODES.items()} == CODES
    reasons = {name.removeprefix("ERROR_REASON_") for name in error_reason_pb2.ErrorReason.DESCRIPTOR.values_by_name}
    assert reasons - {"UNSPECIFIED"} == set(CODES)


def test_the_tree_in_the_docstring_is_the_tree_of_the_module() -> None:
    drawn = re.findall(r"── (\w+)\s+([A-Z_]+)\n", errors.__doc__ or "")
    assert sorted(drawn) == sorted((refusal.__name__, refusal.reason) for refusal in classes(errors.Refusal))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_status_carries_reason_and_domain(refusal: errors.Refusal) -> None:
    status = to_status(refusal)
    assert status.code == getattr(grpc.StatusCode, CODES[refusal.reason]).value[0]
    assert status.message
    info = info_of(status)
    assert (info.reason, info.domain) == (refusal.reason, "mendflow")
    found = details(status)
    assert ("BadRequest" in found) == bool(refusal.violations)
    assert ("RetryInfo" in found) == (refusal.reason in RETRIED)
    assert ("ResourceInfo" in found) == ("order-17" in str(refusal))


@pytest.mark.parametrize(
    ("refusal", "metadata"),
    [
        (errors.UnknownWorkflowType("x", ["b", "a"]), {"served": "a, b"}),
        (errors.TooLarge("input", 20, 10), {"limit": "10", "size": "20"}),
        (errors.AlreadyStarted("w", "type"), {"differs": "type"}),
        (errors.WorkflowEnded("w", workflow_pb2.WORKFLOW_STATE_FAILED), {"state": "FAILED"}),
        (errors.WrongState("w", workflow_pb2.WORKFLOW_STATE_RUNNING), {"state": "RUNNING"}),
        (errors.SequenceBeyondEnd("w", 9, 4), {"last_sequence": "4"}),
        (errors.HistoryPurged("w", 12), {"first_sequence": "12"}),
        (errors.InternalFault("abc"), {"error_id": "abc"}),
    ],
)
def test_metadata_is_what_the_contract_names(refusal: errors.Refusal, metadata: dict[str, str]) -> None:
    assert dict(info_of(to_status(refusal)).metadata) == metadata


@pytest.mark.parametrize(
    ("path", "field"), [("", "input"), ("items[3].price", "input.items[3].price"), ("[2].name", "input[2].name")]
)
def test_a_mismatch_names_the_place_inside_the_field(path: str, field: str) -> None:
    assert violations_of(to_status(errors.InputMismatch([(path, "no")]))) == [(field, "no")]


def test_a_mismatch_without_places_still_names_the_field() -> None:
    assert violations_of(to_status(errors.InputMismatch([], "data")))[0][0] == "data"


def test_retry_info_holds_the_delay() -> None:
    retry = details(to_status(errors.Draining(retry_after=1.25)))["RetryInfo"]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 250_000_000)


def test_all_violations_are_sent_while_they_fit() -> None:
    fields = [(f"labels[{index}]", "is bad") for index in range(20)]
    assert violations_of(to_status(errors.InvalidFields(fields))) == fields


def test_left_out_violations_are_counted() -> None:
    fields = [(f"labels[{index}]", "is bad") for index in range(5_000)]
    sent = violations_of(to_status(errors.InvalidFields(fields)))
    assert sent[:-1] == fields[: len(sent) - 1]
    assert sent[-1] == ("", f"and {5_000 - (len(sent) - 1)} more")


TEXT = st.text(max_size=40).map(lambda text: text * 200)


@given(
    refusal=st.one_of(
        st.builds(errors.InvalidFields, st.lists(st.tuples(TEXT, TEXT), max_size=50)),
        st.builds(errors.UnknownWorkflowType, TEXT, st.lists(TEXT, max_size=50)),
        st.builds(errors.InputMismatch, st.lists(st.tuples(TEXT, TEXT), max_size=50)),
        st.builds(errors.WorkflowNotFound, TEXT),
        st.builds(errors.AlreadyStarted, TEXT, TEXT),
        st.builds(errors.WrongState, TEXT, st.integers(-5, 50), TEXT),
    )
)
def test_whatever_the_caller_sent_the_status_fits_into_the_trailers(refusal: errors.Refusal) -> None:
    status = to_status(refusal)
    # base64 of the details, and the message percent-encoded at its worst: below gRPC's default of 8 KiB.
    assert status.ByteSize() * 4 / 3 + len(status.message.encode()) * 3 < 8_000


def test_names_of_served_types_are_never_cut() -> None:
    served = [f"type-{index:04}" for index in range(1_000)]
    text = info_of(to_status(errors.UnknownWorkflowType("x", served))).metadata["served"]
    names, _, rest = text.rpartition(", ")
    shown = names.split(", ")
    assert shown == served[: len(shown)]
    assert rest == f"… {1_000 - len(shown)} more"
