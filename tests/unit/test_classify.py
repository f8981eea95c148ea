"""The classification of real exceptions."""

from __future__ import annotations

import asyncio
import email.message
import http.client
import smtplib
import socket
import urllib.error
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any

import grpc
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow import errors
from mendflow.authoring.failures.retry import classify
from mendflow.authoring.retry import RetryPolicy
from mendflow.v1 import failure_pb2

NOW = 1_790_000_000.0


def failed(error: BaseException, now: float = NOW) -> failure_pb2.Failure:
    """Classify the error, and check that the failure survives serialization."""
    failure = classify(error, policy=RetryPolicy(), now=now).failure
    assert failure_pb2.Failure.FromString(failure.SerializeToString()) == failure
    return failure


def kind(error: BaseException) -> str:
    return failure_pb2.FailureKind.Name(failed(error).kind).removeprefix("FAILURE_KIND_")


def raised(error: BaseException) -> BaseException:
    """Raise the error, and return it with its traceback."""
    try:
        raise error  # noqa: TRY301  the point of it
    except BaseException as caught:  # noqa: BLE001  any is asked for
        return caught


# --- gRPC; tests/service/test_grpc_failures.py has the statuses of a real server ---


def test_a_bare_rpc_error_is_transient() -> None:
    assert kind(grpc.RpcError()) == "TRANSIENT"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ServerUnavailable("draining", code="UNAVAILABLE", retry_after=1.5), "TRANSIENT"),
        (errors.LimitExceeded("full", code="RESOURCE_EXHAUSTED", retry_after=1.5), "THROTTLED"),
        (errors.InvalidRequest("no", code="INVALID_ARGUMENT", retry_after=1.5), "PERMANENT"),
    ],
)
def test_an_error_of_the_mendflow_client_is_classified_by_its_status(error: errors.RequestError, expected: str) -> None:
    assert kind(error) == expected
    assert failed(error).status_code == f"grpc:{error.code}"
    assert failed(error).retry_after.ToMilliseconds() == 1500


# --- HTTP ---


def http_error(status: int, headers: dict[str, str] | None = None) -> urllib.error.HTTPError:
    message = email.message.Message()
    for name, value in (headers or {}).items():
        message[name] = value
    return urllib.error.HTTPError("http://x.example", status, "said no", message, None)


HTTP = [
    (400, "PERMANENT"),
    (401, "PERMANENT"),
    (404, "PERMANENT"),
    (408, "TIMEOUT"),
    (409, "PERMANENT"),
    (425, "TRANSIENT"),
    (429, "THROTTLED"),
    (451, "PERMANENT"),
    (500, "TRANSIENT"),
    (501, "PERMANENT"),
    (502, "TRANSIENT"),
    (503, "TRANSIENT"),
    (504, "TRANSIENT"),
    (505, "PERMANENT"),
]


class Foreign(Exception):
    """An HTTP library's exception, with the attributes that the library sets."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("foreign")
        self.__dict__.update(attributes)


@pytest.mark.parametrize(("status", "expected"), HTTP)
def test_an_http_status_is_found_wherever_a_library_stores_it(status: int, expected: str) -> None:
    for error in (
        http_error(status),
        Foreign(status=status),
        Foreign(status_code=status),
        Foreign(response=SimpleNamespace(status_code=status)),
        Foreign(response=SimpleNamespace(status=status)),
    ):
        assert (kind(error), failed(error).status_code) == (expected, f"http:{status}")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("120", 120_000),
        ("0", 0),
        ("1.5", 1_500),
        (format_datetime(datetime.fromtimestamp(NOW + 90, UTC), usegmt=True), 90_000),
        (format_datetime(datetime.fromtimestamp(NOW - 90, UTC), usegmt=True), 0),
        ("9" * 5000, 86_400_000),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("Wed, 99 Foo 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_in_seconds_or_as_a_date(value: str, expected: int | None) -> None:
    for error in (
        http_error(503, {"retry-AFTER": value}),
        Foreign(response=SimpleNamespace(status_code=429, headers={"Retry-After": value})),
        Foreign(status=429, headers={"retry-after": value.encode()}),
    ):
        failure = failed(error)
        assert failure.HasField("retry_after") == (expected is not None)
        assert failure.retry_after.ToMilliseconds() == (expected or 0)


@pytest.mark.parametrize("code", [1006, 200, True, "503", None])
def test_a_number_that_is_no_http_error_status_is_ignored(code: object) -> None:
    assert (kind(Foreign(code=code)), failed(Foreign(code=code)).status_code) == ("TRANSIENT", "")


def test_an_exit_code_is_no_http_status() -> None:
    assert failed(SystemExit(404)).status_code == ""


def test_properties_that_raise_do_no_harm() -> None:
    class Hostile(Exception):
        @property
        def status(self) -> int:
            raise RuntimeError

        @property
        def response(self) -> object:
            raise RuntimeError

    assert kind(Hostile()) == "TRANSIENT"


# --- SMTP ---


@pytest.mark.parametrize(
    ("error", "expected", "code"),
    [
        (smtplib.SMTPResponseException(421, "closing"), "TRANSIENT", 421),
        (smtplib.SMTPDataError(450, b"busy"), "TRANSIENT", 450),
        (smtplib.SMTPDataError(451, b"greylisted"), "TRANSIENT", 451),
        (smtplib.SMTPSenderRefused(550, b"no", "a@b.example"), "PERMANENT", 550),
        (smtplib.SMTPAuthenticationError(535, b"no"), "PERMANENT", 535),
        (smtplib.SMTPRecipientsRefused({"a": (550, b"no"), "b": (451, b"later")}), "TRANSIENT", 451),
        (smtplib.SMTPRecipientsRefused({"a": (550, b"no"), "b": (553, b"no")}), "PERMANENT", 550),
    ],
)
def test_smtp_replies(error: smtplib.SMTPException, expected: str, code: int) -> None:
    assert (kind(error), failed(error).status_code) == (expected, f"smtp:{code}")


def test_other_smtp_errors() -> None:
    assert kind(smtplib.SMTPServerDisconnected("gone")) == "TRANSIENT"
    assert kind(smtplib.SMTPNotSupportedError("no AUTH")) == "PERMANENT"


def test_an_smtp_reply_in_an_attribute_code_is_not_an_http_status() -> None:
    class SMTPResponseException(Exception):
        code = 451

    assert failed(SMTPResponseException()).status_code == "smtp:451"
    assert kind(SMTPResponseException()) == "TRANSIENT"


# --- types ---


def invalid() -> pydantic.ValidationError:
    with pytest.raises(pydantic.ValidationError) as caught:
        pydantic.TypeAdapter(int).validate_python("x")
    return caught.value


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (asyncio.CancelledError(), "CANCELLED"),
        (TimeoutError(), "TIMEOUT"),
        (socket.timeout(), "TIMEOUT"),  # noqa: UP041  the old name is what is tested
        (urllib.error.URLError(TimeoutError()), "TIMEOUT"),
        (urllib.error.URLError(ConnectionRefusedError()), "TRANSIENT"),
        (ConnectionResetError(), "TRANSIENT"),
        (OSError(28, "no space"), "TRANSIENT"),
        (http.client.RemoteDisconnected("gone"), "TRANSIENT"),
        (ValueError("?"), "TRANSIENT"),
        (RuntimeError("?"), "TRANSIENT"),
        (TypeError(), "PERMANENT"),
        (AttributeError(), "PERMANENT"),
        (NameError(), "PERMANENT"),
        (NotImplementedError(), "PERMANENT"),
        (ModuleNotFoundError(), "PERMANENT"),
        (SyntaxError(), "PERMANENT"),
        (AssertionError(), "PERMANENT"),
        (invalid(), "PERMANENT"),
        (errors.PermanentError(), "PERMANENT"),
        (errors.PayloadError("no"), "PERMANENT"),
        (errors.NotDurable(), "PERMANENT"),
        (errors.NotInWorkflow(), "PERMANENT"),
        (errors.DefinitionError(), "PERMANENT"),
        (errors.TransientError(), "TRANSIENT"),
        (errors.ThrottledError(), "THROTTLED"),
        (ExceptionGroup("g", [ValueError(), TypeError()]), "PERMANENT"),
        (ExceptionGroup("g", [ValueError(), ExceptionGroup("h", [TimeoutError()])]), "TIMEOUT"),
    ],
)
def test_kinds_by_type(error: BaseException, expected: str) -> None:
    assert kind(error) == expected
    cls = type(error)
    assert failed(error).type == f"{cls.__module__}.{cls.__qualname__}"


@pytest.mark.parametrize(
    ("wish", "expected"), [(2.5, 2500), (0, 0), (-3.0, 0), (float("inf"), 86_400_000), (float("nan"), None)]
)
def test_a_throttled_error_sets_the_delay(wish: float, expected: int | None) -> None:
    failure = failed(errors.ThrottledError("slow down", retry_after=wish))
    assert failure.HasField("retry_after") == (expected is not None)
    assert failure.retry_after.ToMilliseconds() == (expected or 0)


class Refused(ValueError):
    """An unknown exception with a base class."""


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ([ValueError], True),
        (["ValueError"], True),
        (["builtins.ValueError"], True),
        (["Refused"], True),
        ([f"{Refused.__module__}.Refused"], True),
        ([KeyError, "KeyError", "other.Refused"], False),
        ([], False),
    ],
)
def test_not_retried_by_type_or_name(listed: list[Any], expected: bool) -> None:  # noqa: FBT001  a table's column
    policy = RetryPolicy(not_retried=tuple(listed))
    for error in (Refused("x"), ExceptionGroup("g", [OSError(), Refused("x")])):
        classified = classify(error, policy=policy, now=NOW)
        assert classified.not_retried == expected
        assert classified.failure.kind == failure_pb2.FAILURE_KIND_TRANSIENT


# --- texts and causes ---


def depth(failure: failure_pb2.Failure) -> int:
    count = 1
    while failure.HasField("cause"):
        failure, count = failure.cause, count + 1
    return count


@given(st.text(st.characters(), max_size=50), st.integers(0, 3000))
def test_any_text_fits_and_is_not_cut_within_a_character(text: str, times: int) -> None:
    failure = failed(raised(ValueError(text * times)))
    assert len(failure.message.encode()) <= 4096
    assert len(failure.traceback.encode()) <= 16_384
    shown = (text * times).encode("utf-8", "backslashreplace").decode()
    assert shown.startswith(failure.message.removesuffix("…"))


def test_a_message_with_lone_surrogates_is_kept_readable() -> None:
    assert failed(ValueError("bad \udc80 name")).message == "bad \\udc80 name"


def test_a_long_message_does_not_push_the_frames_out() -> None:
    failure = failed(raised(ValueError("x" * 1_000_000)))
    assert "in raised" in failure.traceback
    assert failure.traceback.startswith("Traceback (most recent call last):\n")


def test_the_newest_frames_are_kept() -> None:
    source = "\n".join([*(f"def f{n}(): f{n + 1}()" for n in range(400)), "def f400(): raise ValueError('deep')"])
    names: dict[str, Any] = {}
    exec(source, names)
    with pytest.raises(ValueError, match="deep") as caught:
        names["f0"]()
    text = failed(caught.value).traceback
    assert len(text.encode()) <= 16_384
    assert "in f400" in text
    assert "in f0\n" not in text
    assert text.endswith("builtins.ValueError: deep")


def test_an_error_never_raised_has_no_traceback() -> None:
    assert failed(ValueError()).traceback == ""


def test_an_exception_that_cannot_be_printed_is_still_recorded() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

        __repr__ = __str__

    failure = failed(raised(Mute()))
    assert "RuntimeError" in failure.message
    assert failure.type.endswith("Mute")
    assert kind(raised(ExceptionGroup("g", [Mute()]))) == "TRANSIENT"


def test_causes_follow_cause_then_context_unless_suppressed() -> None:
    def during(*, suppress: bool) -> BaseException:
        try:
            try:
                raise http_error(503)
            except OSError:
                if suppress:
                    raise ValueError from None
                raise ValueError  # noqa: B904  the context is what is tested
        except ValueError as caught:
            return caught

    assert failed(during(suppress=False)).cause.status_code == "http:503"
    assert not failed(during(suppress=True)).HasField("cause")
    outer = ValueError()
    outer.__context__, outer.__cause__ = OSError(), KeyError()
    assert failed(outer).cause.type == "builtins.KeyError"


@pytest.mark.parametrize(("length", "expected"), [(1, 1), (8, 8), (9, 8), (5000, 8)])
def test_a_chain_is_at_most_eight_deep(length: int, expected: int) -> None:
    first = error = ValueError("0")
    for number in range(1, length):
        error.__cause__ = ValueError(str(number))
        error = error.__cause__
    assert depth(failed(first)) == expected


def test_a_circle_of_causes_ends() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    assert depth(failed(one)) == 2


def test_a_failed_step_keeps_its_failure_as_the_cause() -> None:
    inner = failed(raised(http_error(503)))
    outer = failed(raised(errors.StepFailed("charge", inner)))
    assert (outer.kind, outer.step_key, outer.cause) == (failure_pb2.FAILURE_KIND_PERMANENT, "charge", inner)
    wrapped = RuntimeError("checkout failed")
    wrapped.__cause__ = errors.StepFailed("charge", inner)
    assert failed(wrapped).step_key == ""
    assert failed(wrapped).cause.cause == inner


def test_a_failure_that_is_raised_repeatedly_stays_eight_deep() -> None:
    failure = failed(ValueError("first"))
    for _ in range(20):
        failure = failed(errors.StepFailed("again", failure))
    assert depth(failure) == 8
