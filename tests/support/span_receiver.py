"""A real OTLP receiver, which stores the spans that it receives."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent import futures
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Stores the spans that it receives."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.endpoint = ""

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a server that sends its spans here, and soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the rpc's name
        for each in request.resource_spans:
            self.resources.append(values(each.resource.attributes))
            for scope in each.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    async def until(self, done: Callable[[list[Any]], Any]) -> list[Any]:
        """Wait until the condition holds for the spans, and return them."""
        while not done(self.spans):
            await asyncio.sleep(0.02)
        return list(self.spans)


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes as a dict."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextlib.contextmanager
def receiving() -> Iterator[Receiver]:
    """Run a receiver."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    found = Receiver()
    register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
    register(found, server)
    found.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        server.stop(0).wait()
