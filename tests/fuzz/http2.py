"""Just enough HTTP/2 to send what no gRPC library would."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """Return a frame."""
    return (
        len(body).to_bytes(3, "big") + bytes([kind & 0xFF, flags & 0xFF]) + (stream % 2**32).to_bytes(4, "big") + body
    )


def headers(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a block of headers, each spelled out."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def _text(text: bytes) -> bytes:
    """Return a string after its length, as HPACK writes it."""
    rest = len(text) - 127
    if rest < 0:
        return bytes([len(text)]) + text
    out = b"\x7f"
    while rest > 0x7F:
        out += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return out + bytes([rest]) + text


def grpc_headers(path: bytes, **changed: bytes) -> list[tuple[bytes, bytes]]:
    """Return a call's headers, with changes by name (_ for -)."""
    pairs = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"test",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    pairs.update({name.replace("_", "-").encode(): value for name, value in changed.items()})
    return list(pairs.items())


def paths(said: bytes) -> list[bytes]:
    """Return the paths in these bytes, as far as `headers` spelled them out. A long path is truncated."""
    return [rest[1 : 1 + rest[0]] for rest in said.split(b"\0\x05:path")[1:] if rest]


def message(data: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """Return a gRPC message. Its length may be false."""
    return bytes([compressed & 0xFF]) + ((len(data) if length is None else length) % 2**32).to_bytes(4, "big") + data


async def say(
    port: int,
    *parts: bytes,
    silence: float,
    half_close: bool = False,
    until: Callable[[bytes], bool] = lambda _: False,
) -> bytes:
    """Open a connection, send this, and return what arrives until it is enough, closed, or silent for this long."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    heard = b""
    try:
        with contextlib.suppress(OSError, TimeoutError):
            for part in parts:
                writer.write(part)
                await writer.drain()
            if half_close and writer.can_write_eof():
                writer.write_eof()
            while more := await asyncio.wait_for(reader.read(65_536), silence):
                heard += more
                if until(heard):
                    break
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return heard


def frames(heard: bytes) -> list[tuple[int, int, int]]:
    """Return the kind, flags and stream of each frame."""
    found = []
    while len(heard) >= 9:
        found.append((heard[3], heard[4], int.from_bytes(heard[5:9], "big")))
        heard = heard[9 + int.from_bytes(heard[:3], "big") :]
    return found
