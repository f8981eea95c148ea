"""The interceptor that turns each exception of a handler into a status."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import secrets
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import structlog
from google.protobuf.message import DecodeError

from mendflow_server.api.status_codes import status_code_of, to_status
from mendflow_server.errors import InternalFault, InvalidFields, Refusal, StoreNotCommitting
from mendflow_server.store.errors import CommitUnknown, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["StatusInterceptor", "as_refusal"]

_log = structlog.get_logger("mendflow_server.api")

_DETAILS_KEY = "grpc-status-details-bin"


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Turns an exception of a handler into a status with details.

    It also parses the request, so that it can refuse malformed bytes with INVALID_ARGUMENT. gRPC itself would return
    UNKNOWN. Cancellation, and a status that a handler sent itself, pass unchanged.
    """

    def __init__(self) -> None:
        # By method. There are few methods, so each handler is wrapped once and not at every call.
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(  # type: ignore[override]  # the stubs' type variables are the method's own
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Return the wrapped handler of a method, None for an unknown method."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        # None for an unknown method, which the stubs do not say.
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None  # type: ignore[return-value]  # as above
        wrapped = _wrap(method, handler)
        self._wrapped[method] = wrapped
        return wrapped


def as_refusal(error: BaseException, method: str) -> Refusal:
    """Return the refusal that the caller receives. Log an internal error with its traceback."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, StoreUnavailable | CommitUnknown):
        return StoreNotCommitting()
    error_id = secrets.token_hex(8)
    _log.error("call_failed", method=method, error_id=error_id, exc_info=error)
    return InternalFault(error_id)


def _wrap(method: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    parse = _parser(handler.request_deserializer)
    if handler.request_streaming:
        parse = _each(parse)
    behavior, make = {
        (False, False): (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (False, True): (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (True, False): (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (True, True): (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    wrap = _wrap_stream if handler.response_streaming else _wrap_unary
    return make(wrap(method, behavior, parse), None, handler.response_serializer)


def _wrap_unary(method: str, behavior: Any, parse: Callable[[bytes], Any]) -> Callable[..., Awaitable[Any]]:
    async def unary(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(parse(data), context)
        except (grpc.aio.AbortError, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - every exception becomes a status here
            refusal = as_refusal(error, method)
        return await _abort(context, refusal)

    return unary


def _wrap_stream(method: str, behavior: Any, parse: Callable[[bytes], Any]) -> Callable[..., Awaitable[None]]:
    if not inspect.isasyncgenfunction(behavior):
        return _wrap_unary(method, behavior, parse)

    async def stream(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        refusal: Refusal | None = None
        try:
            # Close a watch at once, not at the next garbage collection, since it counts against the limit.
            async with contextlib.aclosing(behavior(parse(data), context)) as frames:
                async for frame in frames:
                    try:
                        await context.write(frame)
                    except Exception:  # noqa: BLE001 - a write fails only when the caller has disconnected
                        return
        except (grpc.aio.AbortError, asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - every exception becomes a status here
            refusal = as_refusal(error, method)
        if refusal is not None:
            await _abort(context, refusal)

    return stream


def _parser(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        try:
            return data if deserialize is None else deserialize(data)
        except (DecodeError, ValueError) as error:
            raise InvalidFields([("", "the request bytes cannot be parsed as this method's request type")]) from error

    return parse


def _each(parse: Callable[[bytes], Any]) -> Callable[[Any], Any]:
    async def parse_each(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            yield parse(data)

    return parse_each


async def _abort(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> NoReturn:
    status = to_status(refusal)
    await context.abort(status_code_of(refusal), status.message, ((_DETAILS_KEY, status.SerializeToString()),))
