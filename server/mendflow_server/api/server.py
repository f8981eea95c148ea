"""The gRPC server, its options and its reflection service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from mendflow.client.process import refuse_forked_child, uses_grpc
from mendflow.v1 import (
    operator_service_pb2,
    operator_service_pb2_grpc,
    workflow_service_pb2,
    workflow_service_pb2_grpc,
)
from mendflow_server.api.interceptors import StatusInterceptor
from mendflow_server.api.reflection import Pools

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.descriptor_pool import DescriptorPool

    from mendflow_server.api.operator_service import OperatorService
    from mendflow_server.api.workflow_service import WorkflowService
    from mendflow_server.settings import Settings

__all__ = ["SERVICE_NAMES", "CannotListen", "build_grpc_server"]

#: The full names of the services, as health and reflection use them.
SERVICE_NAMES: Final = (
    workflow_service_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name,
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name,
)


class CannotListen(Exception):
    """The server cannot listen on its address. The message says what to do."""


def build_grpc_server(
    settings: Settings,
    address: str,
    *,
    workflow_service: WorkflowService,
    operator_service: OperatorService,
    health_servicer: Any,
    pools: Iterable[DescriptorPool] = (),
) -> tuple[grpc.aio.Server, int]:
    """Return a server that is bound to the address but not started, and its port, which is never 0.

    Reflection describes the API and the messages in ``pools``.

    Raise `CannotListen`.
    """
    refuse_forked_child()
    server = grpc.aio.server(interceptors=(StatusInterceptor(),), options=_options(settings))
    uses_grpc(server)
    unregistered: Any = _Unregistered(server)
    workflow_service_pb2_grpc.add_WorkflowServiceServicer_to_server(workflow_service, unregistered)
    operator_service_pb2_grpc.add_OperatorServiceServicer_to_server(operator_service, unregistered)
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, unregistered)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    names = (*SERVICE_NAMES, health_name, reflection.SERVICE_NAME)
    all_pools: Any = Pools(pools)
    servicer = reflection.aio.ReflectionServicer(names, pool=all_pools)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, unregistered)  # type: ignore[no-untyped-call]
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotListen(_cannot_listen(address)) from error
    if not port:
        raise CannotListen(_cannot_listen(address))
    return server, port


class _Unregistered:
    """Adds handlers without registering their methods with gRPC's core.

    For each registered method, grpc.aio 1.85 keeps a call waiting in the core. When its accept loop ends (see
    `mendflow_server.api.server_watchdog`), it frees these calls, and the core then writes into the freed memory.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Do nothing. The generated code calls this method; the generic handlers serve the same calls."""


def _cannot_listen(address: str) -> str:
    return (
        f"cannot listen for gRPC on {address}: another program uses the port, or the address is not one of this host; "
        "choose another address with --grpc-address or MENDFLOW_GRPC_ADDRESS"
    )


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        # By default a second server can bind the same port and receive half of the calls.
        ("grpc.so_reuseport", 0),
        # By default gRPC answers calls beyond 1,000 pending ones with CANCELLED before a handler sees them.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 30_000),
        ("grpc.max_receive_message_length", settings.request_limit),
        # The handlers bound their responses. gRPC must not refuse a large input and output in one response.
        ("grpc.max_send_message_length", -1),
        # Clients may ping every 10 s, also without a call. The limit is lower, since pings do not arrive evenly.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
        # Detect a watcher whose host has vanished, so that its watch no longer counts against the limit.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
