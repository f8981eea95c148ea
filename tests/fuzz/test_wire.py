"""Input: whatever bytes come over the wire, a call is answered by its contract, and the server continues."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from mendflow.v1 import workflow_pb2
from mendflow.v1 import workflow_service_pb2 as ws
from mendflow.v1.payload_pb2 import Payload
from tests.fuzz import http2
from tests.fuzz.answers import faults_of_answer
from tests.fuzz.calling import PATIENCE, Fuzzed, call, fuzzed
from tests.fuzz.contract import BY_NAME, METHODS, Method, faults
from tests.fuzz.forms import fuzz
from tests.fuzz.messages import REQUEST_LIMIT, messages, unknown_fields, varint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

    from mendflow import WorkflowHandle
    from tests.support.servers import Server

GET_INFO = b"/mendflow.v1.WorkflowService/GetServerInfo"
#: A path that is no text.
NO_TEXT = b"/x/\xff"
START = b"/mendflow.v1.WorkflowService/StartWorkflow"


@pytest.fixture
async def fuzzed_server(tmp_path: Path) -> AsyncIterator[Fuzzed]:
    async with fuzzed(tmp_path, seeded=0) as running:
        yield running
        await running.is_sound()


@st.composite
def broken(draw: Any, method: Method) -> bytes:
    """Draw bytes that are a message of this rpc, or nearly, or not at all."""
    data: bytes = draw(messages(method.request.DESCRIPTOR)).SerializeToString()[:200]
    place = draw(st.integers(0, len(data)))
    spliced = draw(st.binary(max_size=8))
    flipped = bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) if place < len(data) else b""
    return draw(  # type: ignore[no-any-return]
        st.one_of(
            st.just(data[:place]),
            st.just(data[:place] + flipped + data[place + 1 :]),
            st.just(data[:place] + spliced + data[place:]),
            st.integers(2, 50).map(lambda times: data * times),
            # A text that is longer than the message, or longer than anything can be.
            st.sampled_from([1, 2**31 - 1, 2**32, 2**63, -1]).map(lambda length: data + b"\x0a" + varint(length)),
            unknown_fields,
            st.binary(max_size=40),
        )
    )


@fuzz(300, 20_000)
@given(sent=st.one_of(*(st.tuples(st.just(method), broken(method)) for method in METHODS)))
async def test_bytes_that_are_no_message_are_refused_as_bad_input(
    sent: tuple[Method, bytes], fuzzed_server: Fuzzed
) -> None:
    method, data = sent
    request = _read(method, data)
    answer = await fuzzed_server.call(method, request, data)
    wrong = [] if _is_too_large(data, answer.code) else faults_of_answer(method, request, answer)
    assert not wrong, f"{method} {data!r}\n{answer}\n{wrong}\n{fuzzed_server.complaints.taken()}"
    await fuzzed_server.is_sound()


def _read(method: Method, data: bytes) -> Message | None:
    """Return the message, or None if the bytes are none."""
    try:
        return method.request.FromString(data)
    except DecodeError:
        return None


def _is_too_large(data: bytes, code: str) -> bool:
    return len(data) > REQUEST_LIMIT and code == "RESOURCE_EXHAUSTED"


_trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60).map(str.strip)
_trace_values = st.one_of(
    st.sampled_from(
        [
            _trace,
            _trace.upper(),
            _trace.replace("00-", "ff-"),
            _trace + "-more",
            "00-" + "0" * 32 + "-" + "0" * 16 + "-01",
            ",,,=,;",
            "a=b," * 40,
            "k=v;p=1,k=v",
            "%%%,%00=%ff",
            "=" * 512,
            "x" * 8_193,
        ]
    ),
    _printable,
)
metadata = st.one_of(
    # A trace that is accepted, with anything attached to it.
    st.builds(
        lambda *values: list(zip(("traceparent", "tracestate", "baggage"), values, strict=True)),
        st.just(_trace),
        _trace_values,
        _trace_values,
    ),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["traceparent", "tracestate", "baggage", "user-agent", "x-a"]), _trace_values),
            st.tuples(st.sampled_from(["x-bin", "traceparent-bin", "grpc-trace-bin"]), st.binary(max_size=60)),
        ),
        max_size=6,
    ),
)


@fuzz(120, 5_000)
@given(metadata=metadata)
async def test_no_metadata_keeps_a_workflow_from_running(
    metadata: list[tuple[str, Any]], fuzzed_server: Fuzzed
) -> None:
    request = ws.StartWorkflowRequest(workflow_type="three", input=Payload(json='"x"'))
    request.wait.FromMilliseconds(50)
    start = BY_NAME["StartWorkflow"]
    answer = await fuzzed_server.call(start, request, request.SerializeToString(), metadata=metadata)
    if answer.code == "RESOURCE_EXHAUSTED" and _is_large(metadata):
        return
    assert answer.code == "OK", f"{metadata}\n{answer}\n{fuzzed_server.complaints.taken()}"
    workflow_id = answer.responses[0].workflow.workflow_id
    async with grpc.aio.insecure_channel(fuzzed_server.server.address) as channel:
        asked = ws.GetWorkflowRequest(workflow_id=workflow_id)
        while True:
            found = await call(channel, BY_NAME["GetWorkflow"], [asked.SerializeToString()], metadata=metadata)
            if found.code == "RESOURCE_EXHAUSTED" and _is_large(metadata):
                break
            assert found.code == "OK"
            if found.responses[0].workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
                break
    await fuzzed_server.is_sound()


def _is_large(metadata: list[tuple[str, Any]]) -> bool:
    """Return whether gRPC itself may refuse it. From 8 KiB on, gRPC refuses at random."""
    return sum(len(name) + len(value) + 32 for name, value in metadata) > 8_000


@fuzz(40, 3_000)
@given(
    timeout=st.one_of(st.sampled_from([0, -1, 1e-9, 1e-6, 1e-4]), st.floats(0, 0.01)), method=st.sampled_from(METHODS)
)
async def test_no_deadline_is_too_short_to_be_safe(timeout: float, method: Method, fuzzed_server: Fuzzed) -> None:
    request = method.request()
    if method.name == "StartWorkflow":
        request = ws.StartWorkflowRequest(workflow_id="hurried", workflow_type="echo", input=Payload(json='"x"'))
    answer = await fuzzed_server.call(method, request, request.SerializeToString(), timeout=timeout)
    # gRPC's client may find the deadline over while it begins the call; that status is its own.
    if answer.code != "DEADLINE_EXCEEDED" and answer.message != "Internal error from Core":
        assert not faults_of_answer(method, request, answer)
    if method.name == "StartWorkflow":
        again = await fuzzed_server.call(method, request, request.SerializeToString())
        assert again.code == "OK", "whether or not the first one came through"
    await fuzzed_server.is_sound()


NOTHING: Any = ()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_a_call_that_never_says_what_it_asks_ends_with_its_deadline(server: Server, method: Method) -> None:
    calling: Any = server.channel.stream_stream(method.path)(NOTHING, timeout=0.2)
    if method.client_streaming:
        assert await calling.code() is grpc.StatusCode.OK
    else:
        # gRPC's Python server ends such a call in no other way.
        assert await calling.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await is_alive_now(server)


async def test_path_that_is_no_text_interrupts_service_only_briefly(server: Server) -> None:
    """The path ends gRPC's own loop, and with it the listener. Another listener takes its place."""
    handle = await server.client.start("wait_for", "x", id="watched")
    watching = asyncio.create_task(_kinds(handle))
    for _ in range(3):
        parts = [
            http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0),
            http2.frame(http2.HEADERS, http2.END_HEADERS, 1, http2.headers(http2.grpc_headers(NO_TEXT))),
            http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"")),
        ]
        await http2.say(server.app.grpc_port, *parts, silence=0.1)
        await comes_back(server)
    await handle.signal("go", "on", request_id="once")
    async with asyncio.timeout(PATIENCE):
        assert await watching == [
            "workflow_started",
            "signal_awaited",
            "signal_received",
            "signal_taken",
            "workflow_succeeded",
        ]


async def _kinds(handle: WorkflowHandle[Any]) -> list[str | None]:
    return [event.WhichOneof("detail") async for event in handle.watch()]


async def comes_back(server: Server) -> None:
    """Wait until the server accepts calls again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with grpc.aio.insecure_channel(server.address) as channel:
                answer = await call(channel, BY_NAME["GetServerInfo"], [b""], timeout=2)
            if answer.code == "OK":
                return
            await asyncio.sleep(0.05)


async def is_alive_now(server: Server) -> None:
    assert (await call(server.channel, BY_NAME["GetServerInfo"], [b""])).code == "OK"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_every_rpc_refuses_bytes_that_are_no_message(server: Server, method: Method) -> None:
    answer = await call(server.channel, method, [b"\xff"])
    assert faults(method, None, answer) == []


async def test_unknown_service_gets_a_short_refusal(server: Server) -> None:
    """A service name as long as a request may be once broke the whole reply, and the stream."""
    for name in ("x" * 20_000, "é" * 20_000, "\0" * 20_000):
        request = BY_NAME["Check"].request(service=name)
        answer = await call(server.channel, BY_NAME["Check"], [request.SerializeToString()])
        assert answer.code == "NOT_FOUND"
        assert "liveness" in answer.message


TIMEOUTS = [b"", b"0n", b"1n", b"-1S", b"abc", b"1", b"99999999H", b"999999999999H", b"1.5S", b"1 S", b"\xff", b"1S1S"]


@pytest.mark.parametrize("timeout", TIMEOUTS)
async def test_any_grpc_timeout_is_survived(server: Server, timeout: bytes) -> None:
    heard = await http2.say(
        server.app.grpc_port,
        http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0),
        http2.frame(
            http2.HEADERS, http2.END_HEADERS, 1, http2.headers(http2.grpc_headers(GET_INFO, grpc_timeout=timeout))
        ),
        http2.frame(http2.DATA, http2.END_STREAM, 1, http2.message(b"")),
        silence=PATIENCE,
        until=_has_ended,
    )
    assert _has_ended(heard), http2.frames(heard)
    await is_alive_now(server)


def _has_ended(heard: bytes) -> bool:
    """Return whether the server has answered the first call, or refused to."""
    return any(
        kind in (http2.RST_STREAM, http2.GOAWAY) or (stream == 1 and kind <= http2.HEADERS and flags & http2.END_STREAM)
        for kind, flags, stream in http2.frames(heard)
    )


_streams = st.sampled_from([0, 1, 1, 1, 3, 2, 2**31 - 1, 2**32 - 1])
_headers = st.builds(
    lambda path, changed, extra: http2.headers([*http2.grpc_headers(path, **changed), *extra]),
    st.sampled_from([GET_INFO, START, b"/", b"", b"*", NO_TEXT, b"/" + b"x" * 9_000]),
    st.dictionaries(
        st.sampled_from(
            ["content_type", "te", "grpc_encoding", "grpc_timeout", "grpc_accept_encoding", "content_length"]
        ),
        st.sampled_from(
            [b"", b"gzip", b"application/grpc+json", b"text/html", b"1S", b"identity,gzip", b"9" * 30, b"\xff"]
        ),
        max_size=2,
    ),
    st.lists(
        st.tuples(
            st.sampled_from([b"", b"X", b":path", b":status", b"traceparent", b"x-bin", b"connection", b"a b", b"\0"]),
            st.one_of(st.binary(max_size=20), st.just(base64.b64encode(b"\xff")), st.just(b"\r\nhost: x")),
        ),
        max_size=3,
    ),
)
_messages = st.builds(
    lambda data, compressed, length: http2.message(data, compressed=compressed, length=length),
    st.binary(max_size=20),
    st.sampled_from([0, 0, 1, 2, 255]),
    st.one_of(st.none(), st.sampled_from([0, 1, 2**31, 2**32 - 1])),
)
_frames = st.one_of(
    st.builds(http2.frame, st.just(http2.HEADERS), st.integers(0, 0xFF), _streams, _headers),
    st.builds(http2.frame, st.just(http2.HEADERS), st.just(4), st.just(1), _headers),
    st.builds(http2.frame, st.just(http2.DATA), st.integers(0, 1), _streams, _messages),
    st.builds(http2.frame, st.integers(0, 12), st.integers(0, 0xFF), _streams, st.binary(max_size=20)),
    st.binary(max_size=40),
)
conversations = st.tuples(
    st.sampled_from([http2.PREFACE + http2.frame(http2.SETTINGS, 0, 0)] * 3 + [http2.PREFACE, http2.PREFACE[:9], b""]),
    st.lists(_frames, max_size=5),
    st.booleans(),
)


@fuzz(200, 5_000)
@given(said=conversations)
async def test_no_http2_brings_the_server_down(said: tuple[bytes, list[bytes], bool], fuzzed_server: Fuzzed) -> None:
    begin, parts, half_close = said
    await http2.say(fuzzed_server.server.app.grpc_port, begin, *parts, silence=0.02, half_close=half_close)
    await comes_back(fuzzed_server.server)
    ended_loop = not all(map(_is_text, http2.paths(b"".join(parts))))
    await fuzzed_server.is_sound(lambda complaint: _is_of_no_text(complaint, ended_loop=ended_loop))


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_of_no_text(complaint: Any, *, ended_loop: bool) -> bool:
    """Return whether gRPC complains of a header that is no text, and continues.

    A path that is no text ends gRPC's loop. The loop's death is reported three times. Its task is found later, when it
    is collected.
    """
    text = f"{complaint.get('message')} {complaint['error']}"
    match complaint["event"]:
        case "grpc._cython.cygrpc":
            return text.startswith("Invalid encoding on b") or (ended_loop and "codec can't decode byte" in text)
        case "grpc_accept_loop_ended":
            return ended_loop and "UnicodeDecodeError" in text
        case "asyncio":
            return "coroutine without __name__" in text and "UnicodeDecodeError" in text
        case _:
            return False


_lines = st.one_of(
    st.builds(
        lambda method, path, version, names: f"{method} {path} {version}\r\n{names}\r\n\r\n".encode("utf-8", "replace"),
        st.sampled_from(["GET", "HEAD", "POST", "TRACE", "CONNECT", "get", "", "\0"]),
        st.sampled_from(
            ["/health", "/health/live", "/health?%ff", "/%00", "*", "http://[::1", "//", "/" + "a" * 9_000, "/é"]
        ),
        st.sampled_from(["HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "HTTP/2", ""]),
        st.sampled_from(
            [
                "Host: x",
                "Content-Length: -1",
                "Content-Length: 99999999999999999999",
                "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
                "Expect: 100-continue",
                "Upgrade: websocket\r\nConnection: upgrade",
                "Range: bytes=9-1",
                "X: " + "y" * 20_000,
                "\r\n".join(f"H{index}: v" for index in range(300)),
                "no colon",
                " : ",
            ]
        ),
    ),
    st.binary(max_size=60),
    st.just(http2.PREFACE),
)


@fuzz(200, 5_000)
@given(said=st.lists(_lines, min_size=1, max_size=3), half_close=st.booleans())
async def test_no_http_brings_the_server_down(
    said: list[bytes],
    half_close: bool,  # noqa: FBT001 - an example
    fuzzed_server: Fuzzed,
) -> None:
    server = fuzzed_server.server
    await http2.say(server.app.http_port, *said, silence=0.02, half_close=half_close)
    well = await http2.say(
        server.app.http_port, b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", silence=PATIENCE
    )
    assert well.startswith(b"HTTP/1.1 200 "), well
    await fuzzed_server.is_sound(_is_of_bad_http)


def _is_of_bad_http(complaint: Any) -> bool:
    """Return whether aiohttp complains of bytes that are no HTTP. A handler that fails causes another error."""
    kinds = ("BadHttpMessage", "BadStatusLine", "BadHttpMethod", "InvalidHeader", "LineTooLong", "InvalidURLError")
    return bool(complaint["event"] == "aiohttp.server" and complaint["error"].lstrip("<").startswith(kinds))
