"""Decide what follows a failed attempt. Pure: no clock and no randomness of its own.

`mendflow.authoring.failures.classify` determines the kind of a failure. `decide`
checks the kind, the policy and the time, in this order:

==========================  ===================================  ==================
failure                     action                               reason
==========================  ===================================  ==================
cancelled                   CANCEL_STEP                          CANCELLED
lost                        RETRY now, not counted               LOST
permanent or not retried    FAIL_STEP                            NOT_RETRYABLE
last attempt                FAIL_STEP or PAUSE_WORKFLOW          MAX_ATTEMPTS
next start is too late      FAIL_STEP or PAUSE_WORKFLOW          TOTAL_TIME
callee asks for longer      RETRY after that delay               RETRY_AFTER
any other                   RETRY after backoff                  BACKOFF
==========================  ===================================  ==================

Delays are whole microseconds, as all recorded times are, so the delay and the
time of the next attempt always agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from google.protobuf import duration_pb2, timestamp_pb2

from mendflow.authoring.failures.classify import (
    LONGEST_HINT,
    Classified,
    cancelled_failure,
    classify,
    is_not_retried,
    lost_failure,
    timeout_failure,
)
from mendflow.v1 import failure_pb2

if TYPE_CHECKING:
    from mendflow.authoring.retry import RetryPolicy

__all__ = ["Classified", "cancelled_failure", "classify", "decide", "is_not_retried", "lost_failure", "timeout_failure"]


def decide(
    policy: RetryPolicy,
    failure: failure_pb2.Failure,
    *,
    not_retried: bool,
    failed_attempts: int,
    first_attempt_time: float,
    now: float,
    jitter: float,
) -> failure_pb2.RetryDecision:
    """Return the decision for a failed attempt.

    ``not_retried`` says that the policy excludes the failure from retries.
    ``failed_attempts`` includes this attempt, but no lost ones. Times are in UTC
    seconds since the epoch. ``jitter`` is a random number in [0, 1).
    """
    decision = failure_pb2.RetryDecision()
    if policy.max_attempts is not None:
        decision.attempts_left = min(max(0, policy.max_attempts - failed_attempts), 2**31 - 1)
    if failure.kind == failure_pb2.FAILURE_KIND_CANCELLED:
        decision.action = failure_pb2.RETRY_ACTION_CANCEL_STEP
        decision.reason = failure_pb2.RETRY_REASON_CANCELLED
        decision.explanation = "The step was cancelled."
        return decision
    if failure.kind == failure_pb2.FAILURE_KIND_LOST:
        why = "The attempt was interrupted. Retrying now; this does not count against max_attempts."
        return _retry(decision, failure_pb2.RETRY_REASON_LOST, _micros(now), 0, why)
    if failure.kind == failure_pb2.FAILURE_KIND_PERMANENT or not_retried:
        decision.action = failure_pb2.RETRY_ACTION_FAIL_STEP
        decision.reason = failure_pb2.RETRY_REASON_NOT_RETRYABLE
        decision.explanation = (
            f"The retry policy does not retry {failure.type or 'this failure'}."
            if not_retried
            else "A permanent failure is not retried."
        )
        return decision
    if policy.max_attempts is not None and failed_attempts >= policy.max_attempts:
        why = f"Attempts failed: {failed_attempts} of {policy.max_attempts}"
        return _exhaust(decision, policy, failure_pb2.RETRY_REASON_MAX_ATTEMPTS, why)

    longest = _longest_delay(policy, failed_attempts)
    delay = math.floor(jitter * longest * 1e6)
    hint = _hint_micros(failure)
    reason = failure_pb2.RETRY_REASON_RETRY_AFTER if hint > delay else failure_pb2.RETRY_REASON_BACKOFF
    delay = max(delay, hint)
    start = _micros(now) + delay
    if policy.total_time is not None and start > _micros(first_attempt_time) + _micros(policy.total_time):
        late = start / 1e6 - first_attempt_time
        why = (
            f"The next attempt would start {late:.3f} s after the first, which exceeds total_time of "
            f"{policy.total_time:g} s"
        )
        return _exhaust(decision, policy, failure_pb2.RETRY_REASON_TOTAL_TIME, why)
    of = "" if policy.max_attempts is None else f" of {policy.max_attempts}"
    cause = "requested by the callee" if hint == delay > 0 else f"backoff of at most {longest:g} s, with jitter"
    why = f"Attempts failed: {failed_attempts}{of}. Retrying in {delay / 1e6:.3f} s ({cause})."
    return _retry(decision, reason, _micros(now), delay, why)


def _retry(
    decision: failure_pb2.RetryDecision, reason: failure_pb2.RetryReason.ValueType, now: int, delay: int, why: str
) -> failure_pb2.RetryDecision:
    decision.action = failure_pb2.RETRY_ACTION_RETRY
    decision.reason = reason
    decision.delay.CopyFrom(duration_pb2.Duration(seconds=delay // 1_000_000, nanos=delay % 1_000_000 * 1_000))
    due = now + delay
    decision.next_attempt_time.CopyFrom(
        timestamp_pb2.Timestamp(seconds=due // 1_000_000, nanos=due % 1_000_000 * 1_000)
    )
    decision.explanation = why
    return decision


def _exhaust(
    decision: failure_pb2.RetryDecision, policy: RetryPolicy, reason: failure_pb2.RetryReason.ValueType, why: str
) -> failure_pb2.RetryDecision:
    pause = policy.on_exhaustion == "pause"
    decision.action = failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW if pause else failure_pb2.RETRY_ACTION_FAIL_STEP
    decision.reason = reason
    decision.explanation = f"{why}. The workflow is paused until an operator resumes it." if pause else f"{why}."
    return decision


def _longest_delay(policy: RetryPolicy, failed_attempts: int) -> float:
    """Return the backoff before jitter, in seconds, for any number of attempts."""
    initial, coefficient = policy.initial_interval, policy.backoff_coefficient
    if initial == 0 or coefficient == 1:
        return initial
    try:
        return min(policy.maximum_interval, initial * coefficient ** max(0, failed_attempts - 1))
    except OverflowError:
        # The power exceeds any float, and initial_interval is at least a nanosecond.
        return policy.maximum_interval


def _hint_micros(failure: failure_pb2.Failure) -> int:
    if not failure.HasField("retry_after"):
        return 0
    micros = failure.retry_after.seconds * 1_000_000 + -(-failure.retry_after.nanos // 1_000)
    return min(max(0, micros), int(LONGEST_HINT) * 1_000_000)


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)
