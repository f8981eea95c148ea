"""The retry policy and its decisions."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf import duration_pb2
from hypothesis import example, given
from hypothesis import strategies as st

from mendflow.authoring.failures.retry import cancelled_failure, decide, lost_failure, timeout_failure
from mendflow.authoring.retry import RetryPolicy
from mendflow.v1 import failure_pb2

NOW = 1_790_000_000.0
DAY = 86_400
RETRY = failure_pb2.RETRY_ACTION_RETRY
FAIL = failure_pb2.RETRY_ACTION_FAIL_STEP
PAUSE = failure_pb2.RETRY_ACTION_PAUSE_WORKFLOW


def failure(kind: str = "TRANSIENT", hint: float | None = None) -> failure_pb2.Failure:
    made = failure_pb2.Failure(kind=failure_pb2.FailureKind.Value(f"FAILURE_KIND_{kind}"), type="x.Y")
    if hint is not None:
        made.retry_after.CopyFrom(duration_pb2.Duration(seconds=int(hint), nanos=round(hint % 1 * 1e9)))
    return made


def decided(policy: RetryPolicy, failed: failure_pb2.Failure | None = None, **given_: Any) -> failure_pb2.RetryDecision:
    arguments: dict[str, Any] = {
        "not_retried": False,
        "failed_attempts": 1,
        "first_attempt_time": NOW,
        "now": NOW,
        "jitter": 0.5,
    }
    return decide(policy, failed or failure(), **(arguments | given_))


def seconds(delay: duration_pb2.Duration) -> float:
    assert 0 <= delay.nanos < 1_000_000_000
    return float(delay.seconds + delay.nanos / 1e9)


@st.composite
def policies(draw: st.DrawFn) -> RetryPolicy:
    initial = draw(st.one_of(st.just(0.0), st.floats(1e-9, 1e8)))
    return RetryPolicy(
        max_attempts=draw(st.none() | st.integers(1, 10**12)),
        initial_interval=initial,
        maximum_interval=draw(st.floats(initial, 3e8)),
        backoff_coefficient=draw(st.floats(1, 1e300)),
        total_time=draw(st.none() | st.floats(0, 3e8)),
        on_exhaustion=draw(st.sampled_from(["raise", "pause"])),
    )


jitters = st.floats(0, 1, exclude_max=True)


# --- the policy ---


def test_the_defaults_are_those_of_the_documentation() -> None:
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.initial_interval, policy.maximum_interval) == (10, 1.0, 60.0)
    assert (policy.backoff_coefficient, policy.total_time) == (2.0, None)
    assert (policy.not_retried, policy.on_exhaustion) == ((), "raise")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", -1),
        ("max_attempts", 2.0),
        ("max_attempts", True),
        ("initial_interval", -0.1),
        ("initial_interval", math.nan),
        ("initial_interval", math.inf),
        ("initial_interval", "1"),
        ("initial_interval", 1e-12),
        ("initial_interval", True),
        ("maximum_interval", 0.5),
        ("maximum_interval", math.inf),
        ("maximum_interval", 10**400),
        ("maximum_interval", 1e12),
        ("backoff_coefficient", 0.99),
        ("backoff_coefficient", math.nan),
        ("backoff_coefficient", math.inf),
        ("total_time", -1),
        ("total_time", math.nan),
        ("not_retried", "ValueError"),
        ("not_retried", ValueError),
        ("not_retried", [int]),
        ("not_retried", ["not a name"]),
        ("not_retried", [""]),
        ("not_retried", 5),
        ("on_exhaustion", "stop"),
    ],
)
def test_a_senseless_value_is_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"RetryPolicy.{field} must be .+, not ") as refused:
        RetryPolicy(**{field: value})
    shown = value[0] if isinstance(value, list) else value
    assert repr(shown) in str(refused.value)


@pytest.mark.parametrize("given_", [[ValueError, "a.B"], (ValueError, "a.B"), iter([ValueError, "a.B"])])
def test_not_retried_takes_any_iterable(given_: Any) -> None:
    policy = RetryPolicy(not_retried=given_)
    assert policy.not_retried == (ValueError, "a.B")
    assert hash(policy) == hash(RetryPolicy(not_retried=(ValueError, "a.B")))


# --- the decision ---


@pytest.mark.parametrize(
    ("kind", "not_retried", "attempts", "action", "reason"),
    [
        ("TRANSIENT", False, 1, RETRY, "BACKOFF"),
        ("THROTTLED", False, 1, RETRY, "BACKOFF"),
        ("TIMEOUT", False, 1, RETRY, "BACKOFF"),
        ("TRANSIENT", True, 1, FAIL, "NOT_RETRYABLE"),
        ("TIMEOUT", True, 3, FAIL, "NOT_RETRYABLE"),
        ("PERMANENT", False, 1, FAIL, "NOT_RETRYABLE"),
        ("PERMANENT", False, 3, FAIL, "NOT_RETRYABLE"),
        ("TRANSIENT", False, 2, RETRY, "BACKOFF"),
        ("TRANSIENT", False, 3, PAUSE, "MAX_ATTEMPTS"),
        ("TIMEOUT", False, 3, PAUSE, "MAX_ATTEMPTS"),
        ("TRANSIENT", False, 4, PAUSE, "MAX_ATTEMPTS"),
        ("CANCELLED", True, 3, failure_pb2.RETRY_ACTION_CANCEL_STEP, "CANCELLED"),
        ("LOST", True, 3, RETRY, "LOST"),
    ],
)
def test_the_table_of_decisions(kind: str, not_retried: bool, attempts: int, action: int, reason: str) -> None:  # noqa: FBT001  a table's column
    policy = RetryPolicy(max_attempts=3, on_exhaustion="pause")
    decision = decided(policy, failure(kind), not_retried=not_retried, failed_attempts=attempts)
    assert (decision.action, decision.reason) == (action, failure_pb2.RetryReason.Value(f"RETRY_REASON_{reason}"))
    assert decision.attempts_left == max(0, 3 - attempts)
    assert decision.HasField("delay") == decision.HasField("next_attempt_time") == (action == RETRY)
    assert decision.explanation.endswith(".")


def test_exhaustion_raises_unless_the_policy_says_pause() -> None:
    assert decided(RetryPolicy(max_attempts=1)).action == FAIL
    assert decided(RetryPolicy(max_attempts=1, on_exhaustion="pause")).action == PAUSE
    assert decided(RetryPolicy(max_attempts=1, on_exhaustion="pause"), failure("PERMANENT")).action == FAIL


@given(limit=st.integers(1, 60), jitter=jitters)
def test_max_attempts_counts_attempts(limit: int, jitter: float) -> None:
    policy, failed = RetryPolicy(max_attempts=limit), 1
    while decided(policy, failed_attempts=failed, jitter=jitter).action == RETRY:
        failed += 1
    assert failed == limit


@given(policy=policies(), failed=st.integers(1, 10**400), jitter=jitters)
@example(policy=RetryPolicy(max_attempts=None), failed=10**400, jitter=0.999)
@example(policy=RetryPolicy(max_attempts=None, backoff_coefficient=1.0), failed=10**400, jitter=0.999)
@example(policy=RetryPolicy(max_attempts=None, initial_interval=0.0), failed=10**400, jitter=0.999)
def test_any_number_of_attempts_waits_within_the_cap(policy: RetryPolicy, failed: int, jitter: float) -> None:
    decision = decided(policy, failed_attempts=failed, jitter=jitter)
    assert decision.HasField("attempts_left") == (policy.max_attempts is not None)
    if decision.action == RETRY:
        assert seconds(decision.delay) <= policy.maximum_interval
        if policy.backoff_coefficient == 1 or policy.initial_interval == 0:
            assert seconds(decision.delay) <= policy.initial_interval


@given(failed=st.integers(1, 12), jitter=jitters)
def test_jitter_is_full(failed: int, jitter: float) -> None:
    policy = RetryPolicy(max_attempts=None, initial_interval=0.5, maximum_interval=100.0, backoff_coefficient=3.0)
    longest = min(100.0, 0.5 * 3.0 ** (failed - 1))
    assert seconds(decided(policy, failed_attempts=failed, jitter=jitter).delay) == pytest.approx(
        jitter * longest, abs=2e-6
    )


def test_two_runs_wait_differently() -> None:
    delays = {seconds(decided(RetryPolicy(), failed_attempts=7, jitter=number / 1000).delay) for number in range(1000)}
    assert len(delays) == 1000
    assert min(delays) == 0
    assert 59 < max(delays) < 60


@given(
    total=st.floats(0, 3e8),
    passed=st.floats(0, 3e8),
    jitter=jitters,
    hint=st.none() | st.floats(0, 1e6),
    interval=st.floats(1e-9, 1e6),
)
def test_total_time_is_respected(
    total: float, passed: float, jitter: float, hint: float | None, interval: float
) -> None:
    policy = RetryPolicy(max_attempts=None, initial_interval=interval, maximum_interval=1e6, total_time=total)
    unlimited = RetryPolicy(max_attempts=None, initial_interval=interval, maximum_interval=1e6)
    now, failed = NOW + passed, failure("THROTTLED", hint)
    decision = decided(policy, failed, first_attempt_time=NOW, now=now, jitter=jitter)
    wish = decided(unlimited, failed, first_attempt_time=NOW, now=now, jitter=jitter)
    late = wish.next_attempt_time.ToMicroseconds() > round(NOW * 1e6) + round(total * 1e6)
    if late:
        assert (decision.action, decision.reason) == (FAIL, failure_pb2.RETRY_REASON_TOTAL_TIME)
        assert not decision.HasField("delay")
    else:
        assert (decision.action, decision.next_attempt_time) == (RETRY, wish.next_attempt_time)


@given(now=st.floats(0, 4e9), jitter=jitters, failed=st.integers(1, 20))
def test_delay_and_time_agree(now: float, jitter: float, failed: int) -> None:
    decision = decided(RetryPolicy(max_attempts=None), now=now, jitter=jitter, failed_attempts=failed)
    due = decision.next_attempt_time
    assert due.ToMicroseconds() - decision.delay.ToMicroseconds() == round(now * 1e6)
    assert 0 <= due.nanos < 1_000_000_000
    assert due.nanos % 1000 == 0


@pytest.mark.parametrize(
    ("hint", "expected", "reason"),
    [
        (30.0, 30.0, failure_pb2.RETRY_REASON_RETRY_AFTER),
        (0.25, 0.5, failure_pb2.RETRY_REASON_BACKOFF),
        (0.0, 0.5, failure_pb2.RETRY_REASON_BACKOFF),
        (10.0 * DAY, DAY, failure_pb2.RETRY_REASON_RETRY_AFTER),
    ],
)
def test_the_longer_of_hint_and_backoff_is_used(hint: float, expected: float, reason: int) -> None:
    decision = decided(RetryPolicy(), failure("THROTTLED", hint), jitter=0.5)
    assert (seconds(decision.delay), decision.reason) == (expected, reason)


def test_a_lost_attempt_is_retried_at_once_whatever_is_used_up() -> None:
    policy = RetryPolicy(max_attempts=2, total_time=1.0)
    decision = decided(policy, lost_failure("killed"), failed_attempts=1, first_attempt_time=0.0)
    assert (decision.action, seconds(decision.delay), decision.attempts_left) == (RETRY, 0.0, 1)
    assert decision.next_attempt_time.ToMicroseconds() == round(NOW * 1e6)


def test_the_constructors_name_the_kind() -> None:
    assert lost_failure("gone").kind == failure_pb2.FAILURE_KIND_LOST
    assert timeout_failure(1.5).kind == failure_pb2.FAILURE_KIND_TIMEOUT
    assert "1.5 s" in timeout_failure(1.5).message
    assert cancelled_failure("by its workflow").kind == failure_pb2.FAILURE_KIND_CANCELLED
    assert len(lost_failure("x" * 10_000).message.encode()) <= 4096
