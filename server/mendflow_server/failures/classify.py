"""What an exception was: from any exception to a `Failure`, pure.

The kind is answered by the first rule that knows the exception: Mendflow's own
errors, a gRPC status, an SMTP reply, an HTTP status, its type. What no rule
knows is transient: trying again in vain costs less than giving up too early.

Exceptions come from users' code and foreign libraries, so nothing that they
say is trusted: messages that cannot be printed, properties that raise, causes
in a circle, texts without end or that are no valid Unicode all give a failure.
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
#: A cause's own traceback says less than the first one; a chain of them must not fill the history.
CAUSE_TRACEBACK_BYTES: Final = 4 * 1024
TYPE_BYTES: Final = 512
#: Failures in a chain, the first included.
CHAIN: Final = 8
#: Frames looked at for a traceback: more never fit.
FRAMES: Final = 256
#: The longest a callee's wish is heeded, in seconds.
LONGEST_HINT: Final = 86_400.0

TRANSIENT: Final = failure_pb2.FAILURE_KIND_TRANSIENT
PERMANENT: Final = failure_pb2.FAILURE_KIND_PERMANENT
THROTTLED: Final = failure_pb2.FAILURE_KIND_THROTTLED
TIMEOUT: Final = failure_pb2.FAILURE_KIND_TIMEOUT
CANCELLED: Final = failure_pb2.FAILURE_KIND_CANCELLED
LOST: Final = failure_pb2.FAILURE_KIND_LOST

#: Of a group's members the one that comes first here speaks for the group:
#: one that will not go away makes the whole attempt vain.
SEVERITY: Final = (PERMANENT, THROTTLED, TIMEOUT, TRANSIENT, CANCELLED)

GRPC_KINDS: Final[Mapping[str, failure_pb2.FailureKind.ValueType]] = {
    "UNAVAILABLE": TRANSIENT,
    "ABORTED": TRANSIENT,
    "INTERNAL": TRANSIENT,
    "UNKNOWN": TRANSIENT,
    # Our own cancel arrives as asyncio.CancelledError; this one was the callee's.
    "CANCELLED": TRANSIENT,
    "RESOURCE_EXHAUSTED": THROTTLED,
    "DEADLINE_EXCEEDED": TIMEOUT,
}

#: HTTP's 4xx are the caller's fault, its 5xx the server's; SMTP's 4xx may go away, its 5xx do not.
FOURS: Final = range(400, 500)
FIVES: Final = range(500, 600)

HTTP_KINDS: Final[Mapping[int, failure_pb2.FailureKind.ValueType]] = {
    408: TIMEOUT,
    425: TRANSIENT,
    429: THROTTLED,
    501: PERMANENT,
    505: PERMANENT,
}

#: Faults of the code or of what it was given: the next attempt meets them again.
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


class _Verdict(NamedTuple):
    kind: failure_pb2.FailureKind.ValueType
    status_code: str = ""
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Classified:
    """A failure, and whether the policy names its exception as one that is not retried."""

    failure: failure_pb2.Failure
    not_retried: bool


def classify(error: BaseException, *, policy: RetryPolicy, now: float) -> Classified:
    """Answer what the exception is. ``now`` (UTC seconds) is for a Retry-After that names a date."""
    try:
        failure = _failure(error, now)
    except BaseException as broken:  # noqa: BLE001  the exception's own class may raise anything when it is examined
        name = _head(type(error).__name__, TYPE_BYTES)
        message = f"({name} cannot be examined: {type(broken).__name__} was raised)"
        failure = failure_pb2.Failure(kind=TRANSIENT, type=name, message=message)
    try:
        not_retried = is_not_retried(policy, error)
    except BaseException:  # noqa: BLE001  so may the policy's own classes
        not_retried = False
    return Classified(failure, not_retried)


def is_not_retried(policy: RetryPolicy, error: BaseException) -> bool:
    """Tell whether the policy lists the exception, a base of it or, of a group, a member."""
    return any(
        isinstance(one, listed) if isinstance(listed, type) else listed in _names(type(one))
        for listed in policy.not_retried
        for one in (error, *_leaves(error))
    )


def lost_failure(message: str) -> failure_pb2.Failure:
    """The process that ran the attempt died or gave it up."""
    return failure_pb2.Failure(kind=LOST, message=_head(message, MESSAGE_BYTES))


def timeout_failure(seconds: float) -> failure_pb2.Failure:
    """The attempt took longer than its timeout."""
    message = f"the attempt took longer than its timeout of {seconds:g} s"
    return failure_pb2.Failure(kind=TIMEOUT, type=_type_name(TimeoutError), message=message)


def cancelled_failure(message: str) -> failure_pb2.Failure:
    """The attempt was cancelled by its workflow."""
    name = _type_name(asyncio.CancelledError)
    return failure_pb2.Failure(kind=CANCELLED, type=name, message=_head(message, MESSAGE_BYTES))


# --- the kinds ---------------------------------------------------------------


def _verdict(error: BaseException, now: float) -> _Verdict:
    members = [_verdict_of_one(one, now) for one in _leaves(error)]
    if not members:
        return _verdict_of_one(error, now)
    worst = min(members, key=lambda verdict: SEVERITY.index(verdict.kind))
    hints = [verdict.retry_after for verdict in members if verdict.retry_after is not None]
    return worst._replace(retry_after=max(hints, default=None))


def _verdict_of_one(error: BaseException, now: float) -> _Verdict:
    for rule in RULES:
        verdict = rule(error, now)
        if verdict is not None:
            return verdict
    return _Verdict(TRANSIENT)


def _by_mendflow(error: BaseException, _now: float) -> _Verdict | None:
    if isinstance(error, errors.ThrottledError):
        return _Verdict(THROTTLED, retry_after=error.retry_after)
    if isinstance(error, errors.TransientError):
        return _Verdict(TRANSIENT)
    if isinstance(error, errors.PermanentError):
        return _Verdict(PERMANENT)
    if isinstance(error, errors.RequestError) and error.code:
        return _Verdict(GRPC_KINDS.get(error.code, PERMANENT), f"grpc:{error.code}", error.retry_after)
    return None


def _by_grpc(error: BaseException, _now: float) -> _Verdict | None:
    if not isinstance(error, grpc.RpcError):
        return None
    code = _called(error, "code")
    if not isinstance(code, grpc.StatusCode):
        return _Verdict(TRANSIENT)
    hint = None
    for key, value in _called(error, "trailing_metadata") or ():
        if key == "grpc-status-details-bin":
            hint = _retry_info(value)
    return _Verdict(GRPC_KINDS.get(code.name, PERMANENT), f"grpc:{code.name}", hint)


def _retry_info(details: Any) -> float | None:
    """Answer the delay of the RetryInfo among a status's details."""
    info = error_details_pb2.RetryInfo()
    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.Unpack(info):
                return float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9)
    except (DecodeError, TypeError):
        # Not ours to judge: a callee's details that nobody can read say nothing.
        return None
    return None


def _by_smtp(error: BaseException, _now: float) -> _Verdict | None:
    code = _smtp_code(error)
    if code is None:
        return None
    return _Verdict(PERMANENT if code in FIVES else TRANSIENT, f"smtp:{code}")


def _smtp_code(error: BaseException) -> int | None:
    """Answer the reply code; of several refused recipients one that may yet be accepted."""
    bases = {base.__name__ for base in type(error).__mro__}
    recipients = _attribute(error, "recipients") if "SMTPRecipientsRefused" in bases else None
    if isinstance(recipients, Mapping):
        codes = [reply[0] for reply in recipients.values()]
    elif isinstance(recipients, list):
        codes = [_attribute(reply, "code") for reply in recipients]
    elif "SMTPResponseException" in bases:
        # smtplib says smtp_code; aiosmtplib says code, which must not be taken for HTTP's.
        codes = [_attribute(error, "smtp_code") or _attribute(error, "code")]
    else:
        return None
    whole = [code for code in codes if isinstance(code, int) and code > 0]
    return next((code for code in whole if code not in FIVES), whole[0] if whole else None)


def _by_http(error: BaseException, now: float) -> _Verdict | None:
    # Only an Exception: SystemExit has a code too.
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
                return _Verdict(kind, f"http:{int(status)}", hint)
    return None


def _retry_after(headers: Any, now: float) -> float | None:
    """Answer the seconds to wait that a Retry-After header asks for, if it can be read."""
    try:
        pairs = list(headers.items())
    except Exception:  # noqa: BLE001  a foreign object: whatever it raises, it has no headers for us
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


def _by_type(error: BaseException, _now: float) -> _Verdict | None:
    if isinstance(error, asyncio.CancelledError):
        return _Verdict(CANCELLED)
    if isinstance(error, PERMANENT_TYPES):
        return _Verdict(PERMANENT)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return _Verdict(TIMEOUT) if isinstance(reason, TimeoutError) else None


#: Asked in this order; the first answer holds.
RULES: Final[tuple[Callable[[BaseException, float], _Verdict | None], ...]] = (
    _by_mendflow,
    _by_grpc,
    _by_smtp,
    _by_http,
    _by_type,
)


def _attribute(thing: Any, name: str) -> Any:
    """Answer an attribute of a foreign object, None when it has none or will not say."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001  a property of a foreign class may raise anything
        return None


def _called(thing: Any, name: str) -> Any:
    """Answer what a foreign object's method says, None when it has none or will not say."""
    try:
        return getattr(thing, name)()
    except Exception:  # noqa: BLE001  a foreign method may raise anything
        return None


# --- the texts ---------------------------------------------------------------


def _failure(error: BaseException, now: float) -> failure_pb2.Failure:
    """Build the failure with its chain of causes, from the last cause up."""
    chain, given = _chain(error)
    cause = None if given is None else _shortened(given, CHAIN - len(chain))
    for one in reversed(chain):
        cause = _link(one, cause, now, TRACEBACK_BYTES if one is error else CAUSE_TRACEBACK_BYTES)
    assert cause is not None  # noqa: S101  the chain holds at least the error itself
    return cause


def _link(
    error: BaseException, cause: failure_pb2.Failure | None, now: float, traceback_bytes: int
) -> failure_pb2.Failure:
    verdict = _verdict(error, now)
    failure = failure_pb2.Failure(
        kind=verdict.kind,
        type=_type_name(type(error)),
        message=_message(error),
        traceback=_traceback(error, traceback_bytes),
        cause=cause,
        status_code=verdict.status_code,
        step_key=error.step_key if isinstance(error, errors.StepFailed) else "",
    )
    hint = verdict.retry_after
    if isinstance(hint, int | float) and not math.isnan(hint):
        micros = math.ceil(min(max(0.0, hint), LONGEST_HINT) * 1e6)
        failure.retry_after.CopyFrom(
            duration_pb2.Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1_000)
        )
    return failure


def _chain(error: BaseException) -> tuple[list[BaseException], failure_pb2.Failure | None]:
    """Answer the error and its causes, and the failure that the last of them brought along."""
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
    """Answer a copy of the failure whose chain is at most so deep."""
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
    """Answer the members of an exception group, those of groups within it too; nothing for others."""
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
    """Answer all names by which a policy may list the class."""
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
    """Answer the traceback, oldest frames left out first; a long message never pushes frames out."""
    if error.__traceback__ is None:
        return ""
    try:
        if isinstance(error, BaseExceptionGroup):
            return _tail("".join(traceback.format_exception(error, limit=-FRAMES, chain=False)), limit)
        frames = "".join(traceback.format_tb(error.__traceback__, limit=-FRAMES))
    except BaseException as broken:  # noqa: BLE001  source lines and members are foreign: a failure without them is better than none
        return f"(no traceback: {type(broken).__name__} while it was formatted)"
    head = "Traceback (most recent call last):\n"
    last = _head(f"{_type_name(type(error))}: {_message(error, limit // 8)}", limit // 4)
    return head + _tail(frames, limit - len(head) - len(last.encode())) + last


def _head(text: str, limit: int) -> str:
    """Answer the text's beginning within so many bytes of UTF-8, valid for protobuf."""
    raw = text[: limit + 1].encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return raw[: limit - 3].decode("utf-8", "ignore") + "…"


def _tail(text: str, limit: int) -> str:
    """Answer the text's end within so many bytes of UTF-8, valid for protobuf."""
    raw = text[-limit - 1 :].encode("utf-8", "backslashreplace")
    if len(raw) <= limit:
        return raw.decode()
    return "…" + raw[len(raw) - limit + 3 :].decode("utf-8", "ignore")
