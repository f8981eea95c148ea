"""Every attempt has its span, sent over OTLP to a real receiver, across retries and a SIGKILL."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mendflow import Client
from tests.support.servers import serving_process
from tests.support.span_receiver import Receiver, values

if TYPE_CHECKING:
    from pathlib import Path


def workflow_spans(spans: list[Any]) -> list[Any]:
    return [span for span in spans if span.name.startswith("workflow ")]


async def test_every_attempt_has_a_span_across_retries_and_a_kill(tmp_path: Path, receiver: Receiver) -> None:
    with serving_process(tmp_path, environment=receiver.environment) as server:
        async with Client(server.grpc_address) as client:
            retried = await client.start("retried", 2, id="retried")
            await retried.result()
            cut = await client.start("holds", 0.8, id="cut")
            while not any("hold" in line for line in server.journal):
                await asyncio.sleep(0.01)
            await receiver.until(workflow_spans)
            server.kill()
            server.start()
            await cut.result()
            spans = await receiver.until(lambda spans: len(workflow_spans(spans)) == 2)
            for handle in (retried, cut):
                events = [event async for event in handle.events()]
                workflow = await handle.get()
                mine = [span for span in spans if span.trace_id.hex() == workflow.trace_id]
                roots = [span for span in mine if not span.parent_span_id]
                assert [root.name for root in roots] == [f"workflow {workflow.workflow_type}"], "one root"
                ids = [span.span_id for span in mine]
                assert len(ids) == len(set(ids))
                assert all(span.parent_span_id in ids for span in mine if span.parent_span_id), "no orphan"
                attempts = [
                    (event.attempt_started.step_key, event.attempt_started.attempt)
                    for event in events
                    if event.HasField("attempt_started")
                ]
                spanned = [
                    (values(span.attributes)["workflow.step.key"], values(span.attributes)["workflow.step.attempt"])
                    for span in mine
                    if span.parent_span_id
                ]
                assert sorted(spanned) == sorted(attempts), "a span for each attempt of the history"
                assert all(span.end_time_unix_nano >= span.start_time_unix_nano > 0 for span in mine)
    lost = [span for span in spans if values(span.attributes).get("mendflow.attempt.lost")]
    assert [
        (values(span.attributes)["workflow.step.key"], values(span.attributes)["workflow.step.attempt"])
        for span in lost
    ] == [("hold", 1)]
    failed = [span for span in spans if values(span.attributes).get("mendflow.failure.kind") == "transient"]
    assert len(failed) == 2
    assert all(values(span.attributes)["mendflow.retry.action"] == "retry" for span in failed)


@pytest.mark.parametrize(("flags", "sampled"), [("01", True), ("00", False)])
async def test_the_callers_trace_is_adopted_with_its_sampling_decision(
    tmp_path: Path, receiver: Receiver, flags: str, *, sampled: bool
) -> None:
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with serving_process(tmp_path, environment=receiver.environment) as server:
        from mendflow.v1 import workflow_service_pb2, workflow_service_pb2_grpc  # noqa: PLC0415

        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            request = workflow_service_pb2.StartWorkflowRequest(workflow_id="traced", workflow_type="echo")
            request.input.json = '"x"'
            request.wait.seconds = 10
            stub: Any = workflow_service_pb2_grpc.WorkflowServiceStub(channel)
            reply = await stub.StartWorkflow(request, metadata=(("traceparent", f"00-{trace_id}-{parent}-{flags}"),))
            assert reply.workflow.trace_id == trace_id
        assert await asyncio.to_thread(server.terminate) == 0, "a drain sends what is left"
    spans = [span for span in receiver.spans if span.trace_id.hex() == trace_id]
    assert bool(spans) is sampled
    if sampled:
        assert [span.parent_span_id.hex() for span in workflow_spans(spans)] == [parent]
        assert len(spans) == 2


#: A user's module that traces, with its own provider that exports to the same receiver.
TRACED = """
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from mendflow import RetryPolicy, TransientError, attempt, step, workflow

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
tracer = provider.get_tracer("own")


@step(retry=RetryPolicy(initial_interval=0.01))
async def on_loop() -> None:
    number = attempt().number
    with tracer.start_as_current_span(f"own on_loop {number}"):
        if number == 1:
            raise TransientError("once more")


@step
def on_thread() -> None:
    with tracer.start_as_current_span("own on_thread 1"):
        pass


@workflow
async def traced() -> None:
    await on_loop()
    await on_thread()
"""


async def test_a_steps_own_span_hangs_below_its_attempts(tmp_path: Path, receiver: Receiver) -> None:
    (tmp_path / "traced.py").write_text(TRACED)
    with serving_process(tmp_path, modules=("traced",), environment=receiver.environment) as server:
        async with Client(server.grpc_address) as client:
            await client.run("traced", id="subject")
            trace_id = (await client.get("subject")).trace_id
            spans = await receiver.until(workflow_spans)
    attempts = {
        span.span_id: f"own {said['workflow.step.name']} {said['workflow.step.attempt']}"
        for span, said in ((span, values(span.attributes)) for span in spans)
        if span.name.startswith("step ")
    }
    own = {span.parent_span_id: span.name for span in spans if span.name.startswith("own ")}
    assert own == attempts
    assert sorted(own.values()) == ["own on_loop 1", "own on_loop 2", "own on_thread 1"]
    assert {span.trace_id.hex() for span in spans} == {trace_id}
