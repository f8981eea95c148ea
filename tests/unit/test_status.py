"""From a status to a typed error: every code, every detail, and anything that a proxy may add."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

from mendflow import errors
from mendflow.client.error_mapping import error_of_rpc, error_of_status

TARGET = "there:1"
CLASSES = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "NOT_FOUND": errors.WorkflowNotFound,
    "ALREADY_EXISTS": errors.AlreadyStarted,
    "FAILED_PRECONDITION": errors.WrongState,
    "OUT_OF_RANGE": errors.SequenceOutOfRange,
    "RESOURCE_EXHAUSTED": errors.LimitExceeded,
    "UNAVAILABLE": errors.ServerUnavailable,
    "CANCELLED": errors.ServerUnavailable,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
}
FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


def ended(code: grpc.StatusCode, message: str = "", details: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(("grpc-server-stats-bin", b"\x00"))
    if details is not None:
        trailing.add("grpc-status-details-bin", details)
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, message)


def full_status(code: grpc.StatusCode) -> status_pb2.Status:
    number: int = code.value[0]
    status = status_pb2.Status(code=number, message="refused")
    # A kind that this client does not use.
    status.details.add().Pack(error_details_pb2.ResourceInfo(resource_name="order-17"))
    info = error_details_pb2.ErrorInfo(reason="SOME_REASON", domain="mendflow", metadata={"limit": "9"})
    status.details.add().Pack(info)
    bad = error_details_pb2.BadRequest()
    bad.field_violations.add(field="input.amount", description="must be a number")
    bad.field_violations.add(field="labels", description="at most 32")
    status.details.add().Pack(bad)
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1_250)
    status.details.add().Pack(retry)
    return status


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_each_code_is_a_class_with_all_details(code: grpc.StatusCode) -> None:
    status = full_status(code)
    for error in (
        error_of_rpc(ended(code, "refused", status.SerializeToString()), TARGET),
        error_of_status(status, TARGET),
    ):
        assert type(error) is CLASSES.get(code.name, errors.ServerFault)
        assert str(error) == "refused"
        assert (error.code, error.reason, error.metadata) == (code.name, "SOME_REASON", {"limit": "9"})
        assert error.violations == (("input.amount", "must be a number"), ("labels", "at most 32"))
        assert error.retry_after == 1.25


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
def test_a_status_without_details_says_at_least_its_code(code: grpc.StatusCode) -> None:
    error = error_of_rpc(ended(code), TARGET)
    assert (error.code, error.reason, error.violations, error.retry_after) == (code.name, "", (), None)
    assert code.name in str(error)


def test_only_a_server_that_did_not_answer_counts_as_unreachable() -> None:
    assert "the server at there:1 cannot be reached: gone" in str(
        error_of_rpc(ended(grpc.StatusCode.UNAVAILABLE, "gone"), TARGET)
    )
    status = full_status(grpc.StatusCode.UNAVAILABLE)
    answered = error_of_rpc(ended(grpc.StatusCode.UNAVAILABLE, "refused", status.SerializeToString()), TARGET)
    assert str(answered) == "refused"


@given(code=st.sampled_from(FAILURES), details=st.binary(max_size=200), message=st.text())
def test_any_bytes_as_details_still_give_the_codes_error(code: grpc.StatusCode, details: bytes, message: str) -> None:
    error = error_of_rpc(ended(code, message, details), TARGET)
    assert type(error) is CLASSES.get(code.name, errors.ServerFault)
    assert message in str(error)


@given(garbage=st.binary(min_size=1, max_size=60))
def test_one_detail_that_cannot_be_read_does_not_hide_the_others(garbage: bytes) -> None:
    status = full_status(grpc.StatusCode.INVALID_ARGUMENT)
    spoilt = status.details.add()
    spoilt.type_url = "type.googleapis.com/google.rpc.RetryInfo"
    # A field of wire type 7, which does not exist.
    spoilt.value = b"\x0f" + garbage
    error = error_of_status(status, TARGET)
    assert error.reason == "SOME_REASON"
    assert len(error.violations) == 2
    assert error.retry_after == 1.25


@pytest.mark.parametrize("number", [-1, 17, 2_000])
def test_an_unknown_code_is_an_internal_error(number: int) -> None:
    assert type(error_of_status(status_pb2.Status(code=number), TARGET)) is errors.ServerFault
