"""The sampler of OTEL_TRACES_SAMPLER decides as the SDK's own does."""

from __future__ import annotations

import pytest
from opentelemetry.sdk.trace.sampling import _KNOWN_SAMPLERS, Decision, _get_from_env_or_default
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mendflow.foreign_variables import take_ignored
from mendflow_server.telemetry import build_sampler, trace_from_metadata
from tests.support.ignored_variables import ignored
from tests.support.span_samples import PARENT

pytestmark = pytest.mark.usefixtures("no_otel_variables")


@pytest.mark.parametrize("ratio", ["0", "0.25", "1", "", "2", "nonsense", "nan"])
@pytest.mark.parametrize("name", [*_KNOWN_SAMPLERS, "PARENTBASED_ALWAYS_OFF"])
@pytest.mark.parametrize("flags", [None, "00", "01", "03"])
def test_the_sampler_decides_as_the_sdk_does(
    monkeypatch: pytest.MonkeyPatch, name: str, ratio: str, flags: str | None
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", ratio)
    theirs, ours = _get_from_env_or_default(), build_sampler()
    for lower in (2**64, 2**62 - 1, 2**62, 2**64 - 1):
        trace_id = f"{lower:032x}"
        metadata = [("traceparent", f"00-{trace_id}-{PARENT}-{flags}")] if flags else []
        found = trace_from_metadata(metadata, random_bytes=lambda size: lower.to_bytes(size, "big"), sampler=ours)  # noqa: B023 - called at once
        parent = TraceContextTextMapPropagator().extract(dict(metadata))
        wanted = theirs.should_sample(parent, int(trace_id, 16), "workflow").decision is Decision.RECORD_AND_SAMPLE
        assert bool(found.trace_flags & 1) is wanted
        assert found.trace_flags & ~1 == (int(flags or "0", 16) & ~1)
    take_ignored()


def test_an_unknown_sampler_is_reported_once_and_the_default_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "xray")
    assert build_sampler() is None
    assert ignored() == [("OTEL_TRACES_SAMPLER", "xray", "parentbased_always_on is used")]


def test_a_bad_ratio_is_reported_once_and_everything_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "often")
    sampler = build_sampler()
    assert sampler is not None
    assert sampler(2**64 - 1, None)
    assert ignored() == [("OTEL_TRACES_SAMPLER_ARG", "often", "1 is used")]
