"""Calls of any rpc, with any bytes, and what came of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import grpc
import structlog

from mendflow.v1 import workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.payload_pb2 import Payload
from tests.conftest import serving
from tests.fuzz.contract import BY_NAME, Answer, Method, answer_of
from tests.fuzz.messages import PAYLOAD_LIMIT, REQUEST_LIMIT
from tests.fuzz.served import SERVED
from tests.fuzz.world import SIGNAL_LIMIT, seed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from tests.conftest import Server

#: A call that takes longer hangs, also on a machine that is busy with other things.
PATIENCE = 20.0
#: A stream is read until it has been silent for so long, or has sent so many frames.
SILENCE = 0.1
FRAMES = 3


@contextlib.asynccontextmanager
async def fuzzed(directory: Path, *, seeded: int) -> AsyncIterator[tuple[Server, list[Any]]]:
    """Serve with small limits, and tell what is logged as an error."""
    await seed(f"sqlite:///{directory / 'mendflow.db'}", seeded)
    complaints: list[Any] = []

    def listen(_: Any, method: str, event: Any) -> Any:
        if method in ("error", "critical", "exception"):
            complaints.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.processors.format_exc_info, listen], cache_logger_on_first_use=False)
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
            yield server, complaints
    finally:
        structlog.configure(**before)


async def call(
    channel: grpc.aio.Channel, method: Method, requests: Sequence[bytes], *, timeout: float = PATIENCE, **options: Any
) -> Answer:
    """Call with these bytes, read some of what comes, and answer how it ended."""
    try:
        async with asyncio.timeout(PATIENCE + 5):
            return await _call(channel, method, requests, timeout=timeout, **options)
    except TimeoutError:
        return Answer("DEADLINE_EXCEEDED", "it hangs, and does not heed its deadline either", None)


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
    """Read a few frames, then hang up."""
    while len(responses) < FRAMES or method.client_streaming:
        reading = asyncio.ensure_future(stream.read())
        # The first frame must come; after it the stream may rest.
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


async def canary(server: Server, name: str) -> None:
    """Run a workflow from start to end, as anyone else would meanwhile."""
    async with asyncio.timeout(PATIENCE):
        start = ws.StartWorkflowRequest(workflow_id=name, workflow_type="three", input=Payload(json='"canary"'))
        await server.stub.StartWorkflow(start)
        while True:
            found = (await server.stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id=name))).workflow
            if found.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
                assert found.output.json == '"canary-1-2-3"'
                return
            await asyncio.sleep(0.002)


_looks = itertools.count()


async def is_alive(server: Server) -> None:
    """It is ready, or soon is where the machine was too busy; and every tenth time, a workflow runs as ever."""
    number = next(_looks)
    if number % 10 == 0:
        await canary(server, f"canary-{number}")
    async with asyncio.timeout(PATIENCE):
        while True:
            answer = await call(server.channel, BY_NAME["Check"], [b""])
            assert answer.code == "OK"
            if answer.responses[0].status == answer.responses[0].SERVING:
                return
            await asyncio.sleep(0.05)
