"""Calls of any rpc with any bytes, and their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from mendflow.v1 import workflow_pb2, workflow_service_pb2_grpc
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.payload_pb2 import Payload
from tests.fuzz.contract import BY_NAME, Answer, Method, answer_of
from tests.fuzz.ledger import Ledger
from tests.fuzz.messages import PAYLOAD_LIMIT, REQUEST_LIMIT
from tests.fuzz.served import SERVED
from tests.fuzz.world import SIGNAL_LIMIT, seed
from tests.support.servers import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from tests.support.servers import Server

#: The time limit of a call, also on a machine that is busy with other work, in seconds. A longer call hangs.
PATIENCE = 20.0
#: A stream is read until it has been silent for this long, or has sent this many frames.
SILENCE = 0.1
FRAMES = 3
#: The workflow ``forbidden`` leaves a task behind, and no code takes the exception that forbids it.
THEIR_OWN_TASK = "coro=<_in_a_task()"


class Complaints(logging.Handler):
    """Complaints: the server's own errors, and every warning of a library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a library's complaint: asyncio's about an exception not taken, gRPC's about a failed callback."""
        if THEIR_OWN_TASK in record.getMessage():
            return
        error = record.exc_info[1] if record.exc_info else None
        self._heard.append({"event": record.name, "message": record.getMessage(), "error": repr(error)})

    def listen(self, _: Any, method: str, event: Any) -> Any:
        """Keep a complaint of the server, as a processor of structlog."""
        # A workflow that fails is the caller's, not the server's.
        if method in ("error", "critical", "exception") and event["event"] != "workflow_ended":
            self._heard.append(dict(event))
        raise structlog.DropEvent

    def taken(self) -> list[Any]:
        """Return and forget the complaints so far."""
        heard, self._heard = self._heard, []
        return heard


@dataclass(frozen=True)
class Fuzzed:
    """A server that is fuzzed, the complaints, and the replies to its callers."""

    server: Server
    complaints: Complaints
    ledger: Ledger
    _canaries: Any = field(default_factory=itertools.count)

    async def call(self, method: Method, request: Any, data: bytes, **options: Any) -> Answer:
        """Call with these bytes, and record the replies. ``request`` is None if the bytes are no message."""
        answer = await call(self.server.channel, method, [data], **options)
        self.ledger.note(method, request, answer)
        return answer

    async def is_sound(self, may: Callable[[Any], bool] = lambda _: False) -> None:
        """Assert that workflows run, the server is ready, the store matches the replies, and complaints are allowed."""
        # A connection of its own: hand-made HTTP/2 may have ended the others.
        async with grpc.aio.insecure_channel(self.server.address) as channel:
            await canary(workflow_service_pb2_grpc.WorkflowServiceStub(channel), f"canary-{next(self._canaries)}")
            await is_ready(channel)
        wrong = self.ledger.look()
        assert not wrong, "\n".join(wrong)
        unexpected = [each for each in self.complaints.taken() if not may(each)]
        assert not unexpected, "\n".join(map(str, unexpected))


@contextlib.asynccontextmanager
async def fuzzed(directory: Path, *, seeded: int) -> AsyncIterator[Fuzzed]:
    """Serve with small limits. At the end the store must match the replies, and there must be no complaint."""
    path = directory / "mendflow.db"
    await seed(f"sqlite:///{path}", seeded)
    complaints, ledger = Complaints(), Ledger(path)
    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.processors.format_exc_info, complaints.listen], cache_logger_on_first_use=False
    )
    logging.getLogger().addHandler(complaints)
    try:
        async with serving(
            directory,
            definitions=SERVED,
            payload_limit=PAYLOAD_LIMIT,
            request_limit=REQUEST_LIMIT,
            batch_limit=20,
            untaken_signals_limit=SIGNAL_LIMIT,
            wait_limit=0.05,
            watch_heartbeat=SILENCE / 2,
            history_limit=200,
        ) as server:
            yield Fuzzed(server, complaints, ledger)
            await server.app.drain()
        # A task whose exception no code took complains when it is collected.
        gc.collect()
        wrong = ledger.look_at_all()
        assert not wrong, "\n".join(wrong)
        left = complaints.taken()
        assert not left, "\n".join(map(str, left))
    finally:
        logging.getLogger().removeHandler(complaints)
        structlog.configure(**before)


async def call(
    channel: grpc.aio.Channel, method: Method, requests: Sequence[bytes], *, timeout: float = PATIENCE, **options: Any
) -> Answer:
    """Call with these bytes, read some of the responses, and return how the call ended."""
    try:
        async with asyncio.timeout(PATIENCE + 5):
            return await _call(channel, method, requests, timeout=timeout, **options)
    except TimeoutError:
        return Answer("DEADLINE_EXCEEDED", "the call hangs and ignores its deadline", None)


async def _call(channel: Any, method: Method, requests: Sequence[bytes], **options: Any) -> Answer:
    responses: list[Any] = []
    try:
        if method.client_streaming:
            made = channel.stream_stream(method.path)(iter(requests), **options)
        elif method.server_streaming:
            made = channel.unary_stream(method.path)(requests[0], **options)
        else:
            response = await channel.unary_unary(method.path)(requests[0], **options)
            return Answer("OK", "", None, (method.response.FromString(response),))
        return await _read(made, method, responses)
    except grpc.RpcError as error:
        return answer_of(error, tuple(responses))


async def _read(stream: Any, method: Method, responses: list[Any]) -> Answer:
    """Read a few frames, then cancel the call."""
    while len(responses) < FRAMES or method.client_streaming:
        reading = asyncio.ensure_future(stream.read())
        # The first frame must come. After it the stream may rest.
        done, _ = await asyncio.wait([reading], timeout=SILENCE if responses else None)
        if not done:
            stream.cancel()
            with contextlib.suppress(asyncio.CancelledError, grpc.RpcError):
                await reading
            break
        frame = await reading
        if frame is grpc.aio.EOF:
            break
        responses.append(method.response.FromString(frame))
    stream.cancel()
    return Answer("OK", "", None, tuple(responses))


async def canary(stub: Any, name: str) -> None:
    """Run a workflow from start to end, as another caller would meanwhile."""
    async with asyncio.timeout(PATIENCE):
        start = ws.StartWorkflowRequest(workflow_id=name, workflow_type="three", input=Payload(json='"canary"'))
        await stub.StartWorkflow(start)
        while True:
            found = (await stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id=name))).workflow
            if found.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
                assert found.output.json == '"canary-1-2-3"'
                return
            await asyncio.sleep(0.002)


async def is_ready(channel: grpc.aio.Channel) -> None:
    """Assert that the server is ready, or becomes ready soon on a busy machine."""
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await call(channel, BY_NAME["Check"], [b""])
            assert answer.code == "OK"
            if answer.responses[0].status == answer.responses[0].SERVING:
                return
            await asyncio.sleep(0.05)
