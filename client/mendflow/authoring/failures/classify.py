"""Convert any exception to a `Failure`. Pure.

The first rule that recognises the exception determines its kind: Mendflow's own
errors, a gRPC status, an SMTP reply, an HTTP status, its type. An exception that
no rule recognises is transient, because a useless retry costs less than giving
up too early.

Exceptions come from users' code and foreign libraries, so this module does not
trust them. Messages that cannot be printed, properties that raise, circular
causes, endless texts and invalid Unicode all result in a failure.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
import re
import smtplib
import traceback
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import grpc
import pydantic
from google.protobuf import duration_pb2
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from mendflow import errors
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mendflow.authoring.retry import RetryPolicy

__all__ = [
    "LONGEST_HINT",
    "Classified",
    "cancelled_failure",
    "classify",
    "is_not_retried",
    "lost_failure",
    "timeout_failure",
]

MESSAGE_BYTES: Final = 4 * 1024
TRACEBACK_BYTES: Final = 16 * 1024
#: The traceback of a cause is less useful than the first one, and a chain of them must not fill the history.
CAUSE_TRACEBACK_BYTES: Final = 4 * 1024
TYPE_BYTES: Final = 512
#: The most failures in a chain, including the first one.
CHAIN: Final = 8
#: The most frames of a traceback; more never fit.
FRAMES: Final = 256
#: The longest delay that a callee may ask for, in seconds. Longer ones are reduced to it.
LONGEST_HINT: Final = 86_400.0

TRANSIENT: Final = failure_pb2.FAILURE_KIND_TRANSIENT
PERMANENT: Final = failure_pb2.FAILURE_KIND_PERMANENT
THROTTLED: Final = failure_pb2.FAILURE_KIND_THROTTLED
TIMEOUT: Final = failure_pb2.FAILURE_KIND_TIMEOUT
CANCELLED: Final = failure_pb2.FAILURE_KIND_CANCELLED
LOST: Final = failure_pb2.FAILURE_KIND_LOST

#: The kind of a group is the first of these that a member has: a permanent
#: failure of one member makes a retry of the attempt useless.
SEVERITY: Final = (PERMANENT, THROTTLED, TIMEOUT, TRANSIENT, CANCELLED)

GRPC_KINDS: Final[Mapping[str, failure_pb2.FailureKind.ValueType]] = {
    "UNAVAILABLE": TRANSIENT,
    "ABORTED": TRANSIENT,
    "INTERNAL": TRANSIENT,
    "UNKNOWN": TRANSIENT,
    # The workflow's cancel arrives as asyncio.CancelledError; this one is the callee's.
    "CANCELLED": TRANSIENT,
    "RESOURCE_EXHAUSTED": THROTTLED,
    "DEADLINE_EXCEEDED": TIMEOUT,
}

#: HTTP: 4xx are errors of the caller, 5xx of the server. SMTP: 4xx are transient, 5xx permanent.
FOURS: Final = range(400, 500)
FIVES: Final = range(500, 600)

HTTP_KINDS: Final[Mapping[int, failure_pb2.FailureKind.ValueType]] = {
    408: TIMEOUT,
    425: TRANSIENT,
    429: THROTTLED,
    501: PERMANENT,
    505: PERMANENT,
}

#: Errors of the code or of its input, which every attempt would raise.
PERMANENT_TYPES: Final = (
    TypeError,
    AttributeError,
    NameError,
    NotImplementedError,
    ImportError,
    SyntaxError,
    AssertionError,
    pydantic.ValidationError,
    smtplib.SMTPNotSupportedError,
    errors.PermanentError,
    errors.PayloadError,
    errors.NotAwaited,
    errors.NotDurable,
    errors.NotInWorkflow,
    errors.DefinitionError,
    errors.StepFailed,
    errors.WorkflowEndedError,
)


class _Classification(NamedTuple):
    kind: failure_pb2.FailureKind.ValueType
    status_code: str = ""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Classified:
    """A failure, and whether the policy excludes its exception from retries."""

    failure: failure_pb2.Failure
    not_retried: bool


def classify(error: BaseException, *, policy: RetryPolicy, now: float) -> Classified:
    """Return the failure of an exception. ``now``, in UTC seconds, is for a Retry-After header with a date."""
    try:
        failure = _failure(error, now)
    except BaseException as broken:  # noqa: BLE001  the exception's class may raise anything when it is examined
        name = _head(type(error).__name__, TYPE_BYTES)
        message = f"({name} cannot be examined: {type(broken).__name__} was raised)"
        failure = failure_pb2.Failure(kind=TRANSIENT, type=name, message=message)
    try:
        not_retried = is_not_retried(policy, error)
    except BaseException:  # noqa: BLE001  the policy's classes may raise anything too
        not_retried = False
    return Classified(failure, not_retried)


def is_not_retried(policy: RetryPolicy, error: BaseException) -> bool:
    """Return whether the policy lists the exception, one of its bases or, for a group, one of its members."""
    return any(
        isinstance(one, listed) if isinstance(listed, type) else listed in _names(type(one))
        for listed in policy.not_retried
        for one in (error, *_leaves(error))
    )


def lost_failure(message: str) -> failure_pb2.Failure:
    """Return the failure of an attempt whose process crashed or gave it up."""
    return failure_pb2.Failure(kind=LOST, message=_head(message, MESSAGE_BYTES))


def timeout_failure(seconds: float) -> failure_pb2.Failure:
    """Return the failure of an attempt that exceeded its timeout, in seconds."""
    message = f"the attempt exceeded its timeout of {seconds:g} s"
    return failure_pb2.Failure(kind=TIMEOUT, type=_type_name(TimeoutError), message=message)


def cancelled_failure(message: str) -> failure_pb2.Failure:
    """Return the failure of an attempt that its workflow cancelled."""
    name = _type_name(asyncio.CancelledError)
    return failure_pb2.Failure(kind=CANCELLED, type=name, message=_head(message, MESSAGE_BYTES))


# --- kinds -------------------------------------------------------------------


def _classification(error: BaseException, now: float) -> _Classification:
    members = [_classification_of_one(one, now) for one in _leaves(error)]
    if not members:
        return _classification_of_one(error, now)
    worst = min(members, key=lambda each: SEVERITY.index(each.kind))
    hints = [each.retry_after for each in members if each.retry_after is not None]
    return worst._replace(retry_after=max(hints, default=None))


def _classification_of_one(error: BaseException, now: float) -> _Classification:
    for rule in RULES:
        found = rule(error, now)
        if found is not None:
            return found
    return _Classification(TRANSIENT)


def _by_mendflow(error: BaseException, _now: float) -> _Classification | None:
    if isinstance(error, errors.ThrottledError):
        return _Classification(THROTTLED, retry_after=error.retry_after)
    if isinstance(error, errors.TransientError):
        return _Classification(TRANSIENT)
    if isinstance(error, errors.PermanentError):
        return _Classification(PERMANENT)
    if isinstance(error, errors.RequestError) and error.code:
        return _Classification(GRPC_KINDS.get(error.code, PERMANENT), f"grpc:{error.code}", error.retry_after)
    return None


def _by_grpc(error: BaseException, _now: float) -> _Classification | None:
    if not isinstance(error, grpc.RpcError):
        return None
    code = _called(error, "code")
    if not isinstance(code, grpc.StatusCode):
        return _Classification(TRANSIENT)
    hint = None
    for key, value in _called(error, "trailing_metadata") or ():
        if key == "grpc-status-details-bin":
            hint = _retry_info(value)
    return _Classification(GRPC_KINDS.get(code.name, PERMANENT), f"grpc:{code.name}", hint)


def _retry_info(details: Any) -> float | None:
    """Return the delay of the RetryInfo in a status's details, in seconds; None if there is none."""
    info = error_details_pb2.RetryInfo()
    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.Unpack(info):
                return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    except (DecodeError, TypeError):
        # A callee's details that cannot be decoded are ignored.
        return None
    return None


def _by_smtp(error: BaseException, _now: float) -> _Classification | None:
    code = _smtp_code(error)
    if code is None:
        return None
    return _Classification(PERMANENT if code in FIVES else TRANSIENT, f"smtp:{code}")


def _smtp_code(error: BaseException) -> int | None:
    """Return the reply code. Of several refused recipients, return the code of one that a retry may deliver to."""
    bases = {base.__name__ for base in type(error).__mro__}
    recipients = _attribute(error, "recipients") if "SMTPRecipientsRefused" in bases else None
    if isinstance(recipients, Mapping):
        codes = [reply[0] for reply in recipients.values()]
    elif isinstance(recipients, list):
        codes = [_attribute(reply, "code") for reply in recipients]
    elif "SMTPResponseException" in bases:
        # smtplib uses smtp_code. aiosmtplib uses code, which must not be taken for an HTTP status.
        codes = [_attribute(error, "smtp_code") or _attribute(error, "code")]
    else:
        return None
    whole = [code for code in codes if isinstance(code, int) and code > 0]
    return next((code for code in whole if code not in FIVES), whole[0] if whole else None)


def _by_http(error: BaseException, now: float) -> _Classification | None:
    # Only an Exception: SystemExit also has a code.
    if not isinstance(error, Exception):
        return None
    response = _attribute(error, "response")
    places = ((error, ("status", "status_code", "code")), (response, ("status_code", "status")))
    for place, names in places:
        for name in names:
            status = _attribute(place, name)
            if isinstance(status, int) and (status in FOURS or status in FIVES):
                kind = HTTP_KINDS.get(status, PERMANENT if status in FOURS else TRANSIENT)
                hint = _retry_after(_attribute(error, "headers"), now)
                if hint is None:
                    hint = _retry_after(_attribute(response, "headers"), now)
                return _Classification(kind, f"http:{int(status)}", hint)
    return None


def _retry_after(headers: Any, now: float) -> float | None:
    """Return the delay of a Retry-After header, in seconds; None if there is none or it is malformed."""
    try:
        pairs = list(headers.items())
    except Exception:  # noqa: BLE001  the headers are a foreign object, which may raise anything
        return None
    found = [value for name, value in pairs if str(name).lower() == "retry-after"]
    if not found:
        return None
    value = found[0].decode("latin-1") if isinstance(found[0], bytes) else str(found[0])
    value = value.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value, re.ASCII):
        return min(float(value), LONGEST_HINT)
    try:
        date = email.utils.parsedate_to_datetime(value)
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, moment - now)


def _by_type(error: BaseException, _now: float) -> _Classification | None:
    if isinstance(error, asyncio.CancelledError):
        return _Classification(CANCELLED)
    if isinstance(error, PERMANENT_TYPES):
        return _Classification(PERMANENT)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return _Classification(TIMEOUT) if isinstance(reason, TimeoutError) else None


#: The rules in order; the first one that returns a classification wins.
RULES: Final[tuple[Callable[[BaseException, float], _Classification | None], ...]] = (
    _by_mendflow,
    _by_grpc,
    _by_smtp,
    _by_http,
    _by_type,
)


def _attribute(thing: Any, name: str) -> Any:
    """Return an attribute of a foreign object; None if it is missing or raises."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  a property of a foreign class may raise anything
        return None


def _called(thing: Any, name: str) -> Any:
    """Return the result of a foreign object's method; None if it is missing or raises."""
    try:
        return getattr(thing, name)()
    except Exception:  # noqa: BLE001  a foreign method may raise anything
        return None


# --- texts -------------------------------------------------------------------


def _failure(error: BaseException, now: float) -> failure_pb2.Failure:
    """Return the failure with its chain of causes, built from the last cause up."""
    chain, given = _chain(error)
    cause = None if given is None else _shortened(given, CHAIN - len(chain))
    for one in reversed(chain):
        cause = _link(one, cause, now, TRACEBACK_BYTES if one is error else CAUSE_TRACEBACK_BYTES)
    assert cause is not None  # noqa: S101  the chain holds at least the error itself
    return cause


def _link(
    error: BaseException, cause: failure_pb2.Failure | None, now: float, traceback_bytes: int
) -> failure_pb2.Failure:
    found = _classification(error, now)
    failure = failure_pb2.Failure(
        kind=found.kind,
        type=_type_name(type(error)),
        message=_message(error),
        traceback=_traceback(error, traceback_bytes),
        cause=cause,
        status_code=found.status_code,
        step_key=error.step_key if isinstance(error, errors.StepFailed) else "",
    )
    hint = found.retry_after
    if isinstance(hint, int | float) and not math.isnan(hint):
        micros = math.ceil(min(max(0.0, hint), LONGEST_HINT) * 1e6)
        failure.retry_after.CopyFrom(
            duration_pb2.Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1_000)
        )
    return failure


def _chain(error: BaseException) -> tuple[list[BaseException], failure_pb2.Failure | None]:
    """Return the error and its causes, and the failure that the last of them carries."""
    chain: list[BaseException] = []
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen and len(chain) < CHAIN:
        chain.append(one)
        seen.add(id(one))
        if isinstance(one, errors.StepFailed | errors.WorkflowFailed):
            return chain, one.failure
        cause = one.__cause__ if one.__suppress_context__ else one.__cause__ or one.__context__
        if cause is None and isinstance(one, BaseExceptionGroup):
            cause = one.exceptions[0]
        one = cause
    return chain, None


def _shortened(failure: failure_pb2.Failure, depth: int) -> failure_pb2.Failure | None:
    """Return a copy of the failure with at most ``depth`` failures in its chain; None if that is less than 1."""
    if depth < 1:
        return None
    copy = failure_pb2.Failure()
    copy.CopyFrom(failure)
    last = copy
    for _ in range(depth - 1):
        if not last.HasField("cause"):
            return copy
        last = last.cause
    last.ClearField("cause")
    return copy


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the members of an exception group, including those of nested groups; nothing for another exception."""
    pending = list(error.exceptions) if isinstance(error, BaseExceptionGroup) else []
    while pending:
        one = pending.pop(0)
        if isinstance(one, BaseExceptionGroup):
            pending[:0] = one.exceptions
        else:
            yield one


def _type_name(cls: type[BaseException]) -> str:
    return _head(f"{cls.__module__}.{cls.__qualname__}", TYPE_BYTES)


def _names(cls: type[BaseException]) -> set[str]:
    """Return all names by which a policy may list the class."""
    return {
        name
        for base in cls.__mro__
        for name in (base.__name__, base.__qualname__, f"{base.__module__}.{base.__qualname__}")
    }


def _message(error: BaseException, limit: int = MESSAGE_BYTES) -> str:
    try:
        return _head(str(error), limit)
    except BaseException as broken:  # noqa: BLE001  an exception that cannot be printed is still recorded
        return f"(no message: {type(broken).__name__} in __str__)"


def _traceback(error: BaseException, limit: int) -> str:
    """Return the traceback. The oldest frames are omitted first, and never because of a long message."""
    if error.__traceback__ is None:
        return ""
    try:
        if isinstance(error, BaseExceptionGroup):
            return _tail("".join(traceback.format_exception(error, limit=-FRAMES, chain=False)), limit)
        frames = "".join(traceback.format_tb(error.__traceback__, limit=-FRAMES))
    except BaseException as broken:  # noqa: BLE001  source lines and members are foreign, and may raise anything
        return f"(no traceback: {type(broken).__name__} while it was formatted)"
    head = "Traceback (most recent call last):\n"
    last = _head(f"{_type_name(type(error))}: {_message(error, limit // 8)}", limit // 4)
    return head + _tail(frames, limit - len(head) - len(last.encode())) + last


def _head(text: str, limit: int) -> str:
    """Return the beginning of a text, at most ``limit`` bytes of valid UTF-8."""
    raw = text[: limit + 1].encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "…"


def _tail(text: str, limit: int) -> str:
    """Return the end of a text, at most ``limit`` bytes of valid UTF-8."""
    raw = text[-limit - 1 :].encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return "…" + raw[len(raw) - limit + 3 :].decode("utf-8", "ignore")
