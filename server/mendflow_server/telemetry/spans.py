"""Spans of committed events.

Each attempt has a span, and each workflow has one, whose parent is the caller's
span if the caller sent one. A span is created once its closing event is
committed. OpenTelemetry's batch processor exports the spans outside the event
loop, from a queue of bounded size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import structlog
from grpc import Compression
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind, Status, StatusCode

from mendflow.client.loopback import NO_PROXY, is_loopback
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.runtime.threads import daemon_thread
from mendflow_server.telemetry import names, otel_variables
from mendflow_server.telemetry.logging import log_output
from mendflow_server.telemetry.span_context import span_context
from mendflow_server.telemetry.trace_context import SAMPLED, attempt_span_id, workflow_span_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.timestamp_pb2 import Timestamp
    from opentelemetry.sdk.trace import SpanProcessor
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext

__all__ = ["SpanProjector", "build_projector", "console_exporter", "otlp_exporter"]

log = structlog.get_logger("mendflow.telemetry")

#: The longest that sending the last spans may delay the end of the process, in seconds.
FLUSH_SECONDS: Final = 3.0
#: The longest that giving up on them may take, in seconds.
GIVING_UP_SECONDS: Final = 1.0


class SpanProjector:
    """Creates spans from committed events and passes them to a processor."""

    def __init__(self, processor: SpanProcessor, exporter: SpanExporter, resource: Resource) -> None:
        self._processor = processor
        self._exporter = exporter
        self._resource = resource
        self._scope = InstrumentationScope(names.SCOPE)

    def attempt_closed(
        self,
        trace: event_pb2.TraceContext,
        uid: str,
        workflow_id: str,
        workflow_type: str,
        started: event_pb2.Event,
        closed: event_pb2.Event,
    ) -> None:
        """Export the span of an attempt, unless its trace is not sampled."""
        if not trace.trace_flags & SAMPLED:
            return
        detail = started.attempt_started
        attributes: dict[str, Any] = {
            names.WORKFLOW_ID: workflow_id,
            names.WORKFLOW_TYPE: workflow_type,
            names.STEP_KEY: detail.step_key,
            names.STEP_NAME: detail.step_name,
            names.ATTEMPT: detail.attempt,
        }
        status = Status(StatusCode.OK)
        if closed.HasField("attempt_failed"):
            failure = closed.attempt_failed.failure
            attributes |= _failure(failure) | _decision(closed.attempt_failed.decision)
            attributes[names.LOST] = failure.kind == failure_pb2.FAILURE_KIND_LOST
            status = Status(StatusCode.ERROR, f"{failure.type}: {failure.message}".removeprefix(": "))
        self._export(
            names.ATTEMPT_SPAN.format(step_name=detail.step_name),
            span_context(trace, attempt_span_id(uid, detail.step_key, detail.attempt)),
            span_context(trace, workflow_span_id(uid)),
            attributes,
            status,
            (started.time, closed.time),
        )

    def workflow_ended(
        self,
        trace: event_pb2.TraceContext,
        uid: str,
        workflow_id: str,
        workflow_type: str,
        first: event_pb2.Event,
        final: event_pb2.Event,
    ) -> None:
        """Export the span of a workflow, unless its trace is not sampled."""
        if not trace.trace_flags & SAMPLED:
            return
        detail = final.WhichOneof("detail") or ""
        state = detail.removeprefix("workflow_").upper()
        attributes: dict[str, Any] = {
            names.WORKFLOW_ID: workflow_id,
            names.WORKFLOW_TYPE: workflow_type,
            names.WORKFLOW_UID: uid,
            names.WORKFLOW_STATE: state,
        }
        status = Status(StatusCode.OK)
        if state != workflow_pb2.WorkflowState.Name(workflow_pb2.WORKFLOW_STATE_SUCCEEDED).removeprefix(
            "WORKFLOW_STATE_"
        ):
            status = Status(StatusCode.ERROR, state)
        if detail == "workflow_failed":
            failure = final.workflow_failed.failure
            attributes |= _failure(failure)
            status = Status(StatusCode.ERROR, f"{failure.type}: {failure.message}".removeprefix(": "))
        parent = span_context(trace, int(trace.parent_span_id, 16), remote=True) if trace.parent_span_id else None
        self._export(
            names.WORKFLOW_SPAN.format(workflow_type=workflow_type),
            span_context(trace, workflow_span_id(uid)),
            parent,
            attributes,
            status,
            (first.time, final.time),
            SpanKind.SERVER,
        )

    def _export(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: dict[str, Any],
        status: Status,
        times: tuple[Timestamp, Timestamp],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        self._processor.on_end(
            ReadableSpan(
                name=name,
                context=context,
                parent=parent,
                resource=self._resource,
                attributes=attributes,
                kind=kind,
                status=status,
                start_time=times[0].ToNanoseconds(),
                end_time=max(times[0].ToNanoseconds(), times[1].ToNanoseconds()),
                instrumentation_scope=self._scope,
            )
        )

    def shutdown(self) -> None:
        """Send the remaining spans, within a few seconds. This blocks, so do not call it on the event loop."""
        # The processor sends the remaining spans when it shuts down, but without a time limit. An unresponsive receiver
        # would delay the end of the process by half a minute.
        closing = daemon_thread(self._processor.shutdown, name="mendflow-last-spans")
        closing.start()
        closing.join(FLUSH_SECONDS)
        if closing.is_alive():
            log.warning("spans_not_sent", seconds=FLUSH_SECONDS)
            # Abort the call in progress, so that the processor's threads end.
            self._exporter.shutdown()
            closing.join(GIVING_UP_SECONDS)


def _failure(failure: failure_pb2.Failure) -> dict[str, Any]:
    return {
        names.FAILURE_KIND: failure_pb2.FailureKind.Name(failure.kind).removeprefix("FAILURE_KIND_").lower(),
        names.ERROR_TYPE: failure.type or "lost",
    }


def _decision(decision: failure_pb2.RetryDecision) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        names.RETRY_ACTION: failure_pb2.RetryAction.Name(decision.action).removeprefix("RETRY_ACTION_").lower(),
        names.RETRY_REASON: failure_pb2.RetryReason.Name(decision.reason).removeprefix("RETRY_REASON_").lower(),
        names.RETRY_EXPLANATION: decision.explanation,
    }
    if decision.HasField("delay"):
        attributes[names.RETRY_DELAY] = decision.delay.seconds + decision.delay.nanos / 1e9
    return attributes


def console_exporter() -> SpanExporter:
    """Return an exporter that prints each span on one line, as logs are."""
    out: Any = log_output()
    return ConsoleSpanExporter(out=out, formatter=lambda span: f"{span.to_json(indent=None)}\n")


def otlp_exporter() -> SpanExporter:
    """Return an exporter that sends spans by OTLP over gRPC. Raise `NotExported`."""
    receiver = otel_variables.endpoint() or ""
    options: Any = (NO_PROXY,) if is_loopback(receiver) else None
    return OTLPSpanExporter(
        compression=Compression.Gzip if otel_variables.compresses() else Compression.NoCompression,
        channel_options=options,
    )


def build_projector(build: Callable[[], SpanExporter]) -> SpanProjector:
    """Return the projector that hands spans to the exporter built."""
    resource = Resource.create()
    if str(resource.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: names.SERVICE}))
    exporter = build()
    limits = otel_variables.batch_limits()
    processor = BatchSpanProcessor(
        exporter,
        max_queue_size=limits.queue,
        max_export_batch_size=limits.batch,
        schedule_delay_millis=limits.delay,
    )
    return SpanProjector(processor, exporter, resource)
