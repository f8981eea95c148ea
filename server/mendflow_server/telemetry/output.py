"""A standard stream of the server's start, whatever becomes of it later."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["Output"]

#: One line at a time, because a pipe takes a long one in parts.
_WRITING: Final = threading.Lock()
# A child that is forked while another thread writes must not wait for that thread, which it does not have.
os.register_at_fork(after_in_child=_WRITING._at_fork_reinit)  # type: ignore[attr-defined] # noqa: SLF001 - as logging does


class Output:
    """Writes whole lines to what a stream was at first.

    It has a descriptor of its own, so the stream may be replaced, redirected or closed. What it writes to may be
    disconnected or full, which must not stop the server.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Keep the stream, which is None in a process that was started with it closed."""
        self._stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self._descriptor = _copied(stream)
        if self._descriptor is not None:
            weakref.finalize(self, os.close, self._descriptor).atexit = False

    def write(self, text: str) -> int:
        """Write one or more lines. A letter that the encoding does not have is escaped, as JSON does."""
        data = text.encode(self.encoding, "backslashreplace")
        with _WRITING:
            self.flush()  # First what steps have printed.
            try:
                if self._descriptor is None:
                    self._write_to_stream(data)
                while data and self._descriptor is not None:
                    data = data[os.write(self._descriptor, data) :]
            except (OSError, ValueError):
                return 0
        return len(text)

    def _write_to_stream(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.write(data.decode(self.encoding))
            self.flush()

    def flush(self) -> None:
        """Write what the stream itself holds back."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


def _copied(stream: TextIO | None) -> int | None:
    """Return a copy of a stream's descriptor; None if it has none."""
    if stream is None:
        return None
    try:
        return os.dup(stream.fileno())
    except (OSError, ValueError):
        return None
