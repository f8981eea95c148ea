"""The gRPC server, with its options and its reflection."""

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

#: The full names of the rpc services, for health and reflection.
SERVICE_NAMES: Final = (
    workflow_service_pb2.DESCRIPTOR.services_by_name["WorkflowService"].full_name,
    operator_service_pb2.DESCRIPTOR.services_by_name["OperatorService"].full_name,
)


class CannotListen(Exception):
    """The address cannot be listened on; the message says what to do."""


def build_grpc_server(
    settings: Settings,
    address: str,
    *,
    workflow_service: WorkflowService,
    operator_service: OperatorService,
    health_servicer: Any,
    pools: Iterable[DescriptorPool] = (),
) -> tuple[grpc.aio.Server, int]:
    """Answer a server that is bound but not started, and its port (for an address with port 0).

    ``pools`` have what reflection tells beside the contract.

    Raises `CannotListen`.
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
    told: Any = Pools(pools)
    servicer = reflection.aio.ReflectionServicer(names, pool=told)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, unregistered)  # type: ignore[no-untyped-call]
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise CannotListen(_cannot_listen(address)) from error
    if not port:
        raise CannotListen(_cannot_listen(address))
    return server, port


class _Unregistered:
    """Takes handlers without registering their methods with gRPC's core.

    For each registered method grpc.aio 1.85 keeps a call waiting in the core.
    When its accepting loop dies (see `mendflow_server.api.server_watchdog`) it frees
    them, and the core then writes into the memory that they had.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        self.add_generic_rpc_handlers = server.add_generic_rpc_handlers

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The generated code asks for it; the generic handlers answer the same calls."""


def _cannot_listen(address: str) -> str:
    return (
        f"cannot listen for gRPC on {address}: another program has the port, or the address is not this host's; "
        "choose another with --grpc-address or MENDFLOW_GRPC_ADDRESS"
    )


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        # By default a second server could bind the same port and take half the calls.
        ("grpc.so_reuseport", 0),
        # By default a burst of more than 1,000 calls is thinned out, with CANCELLED, before anyone here sees them.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 30_000),
        ("grpc.max_receive_message_length", settings.request_limit),
        # Replies are bounded where they are made; gRPC shall not cut a large input and output together.
        ("grpc.max_send_message_length", -1),
        # Clients may ping each 10 s, also without a call; a little less, since pings do not arrive evenly.
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
        # A watcher whose host vanished is noticed, and its place among the watches is free again.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
