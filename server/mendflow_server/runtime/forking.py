"""Release the server's resources in forked children.

A step may fork: `multiprocessing` does so by default on Linux. The child
inherits the server's signal handlers and descriptors. A SIGTERM for the child
would then drain the server, and a child that outlives a killed server would keep
its lock and its ports. So a child drops them before any other code runs in it.

Python calls the hooks of `os.register_at_fork` without an argument and never
unregisters them. So one module-level list has what children must drop; the
composition root adds to it with `armed`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import stat
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Belongings", "armed", "end_forked_child"]

#: Every use of a descriptor opened with O_PATH fails with EBADF, on systems that have it.
_UNUSABLE: Final = (os.devnull, os.O_RDONLY | getattr(os, "O_PATH", 0))
#: The highest descriptor to check where the system does not list them.
_HIGHEST: Final = 65_536


class Belongings:
    """The server's resources that its forked children must not keep.

    ``files`` are compared by inode, so a descriptor is found whatever code opened
    it. A TCP socket whose local port is in ``ports`` listens for the server or
    was accepted by it. ``connections`` returns the sockets that the server
    opened itself: while a child has one, the other side would not notice the
    server's end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, signals: Sequence[signal.Signals]) -> None:
        self.files: tuple[Path, ...] = ()
        self.ports: frozenset[int] = frozenset()
        self.connections: Callable[[], Iterable[int]] = tuple
        self.signals = tuple(signals)
        self._loop = loop
        self._loop_thread = threading.get_ident()

    def drop(self) -> None:
        """Release everything. Call this only in a forked child."""
        # If a callback fails, the others still run. The first one added runs last.
        with contextlib.ExitStack() as stack:
            stack.callback(self._leave_loop)
            stack.callback(lambda: _disable(self._descriptors()))
            for number in self.signals:
                stack.callback(signal.signal, number, signal.SIG_DFL)
            stack.callback(signal.set_wakeup_fd, -1)

    def _leave_loop(self) -> None:
        # The thread that forked keeps its identity. Python 3.12 and newer does the first part itself.
        if threading.get_ident() == self._loop_thread:
            asyncio._set_running_loop(None)  # noqa: SLF001 - documented for event loops
            asyncio.set_event_loop(None)

    def _descriptors(self) -> list[int]:
        """Return the open descriptors that belong to the server."""
        inodes = set()
        for path in self.files:
            with contextlib.suppress(OSError):
                found = path.stat()
                inodes.add((found.st_dev, found.st_ino))
        ours = [number for number in _open_descriptors() if self._is_ours(number, inodes)]
        with contextlib.suppress(Exception):  # The child must drop the rest in any case.
            ours += set(self.connections()) - set(ours)
        return ours + [number for number in (_poller_of(self._loop),) if number is not None and number >= 0]

    def _is_ours(self, number: int, inodes: set[tuple[int, int]]) -> bool:
        try:
            found = os.fstat(number)
        except OSError:
            return False
        if stat.S_ISREG(found.st_mode):
            return (found.st_dev, found.st_ino) in inodes
        return stat.S_ISSOCK(found.st_mode) and _local_port(number) in self.ports


def _open_descriptors() -> list[int]:
    try:
        return sorted(int(entry.name) for entry in Path("/dev/fd").iterdir())
    except OSError:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return list(range(min(soft, _HIGHEST) if soft > 0 else _HIGHEST))


def _local_port(number: int) -> int | None:
    """Return the local port of a TCP socket, None for any other socket."""
    try:
        found = socket.socket(fileno=number)
    except OSError:
        return None
    try:
        if found.family not in {socket.AF_INET, socket.AF_INET6} or found.type != socket.SOCK_STREAM:
            return None
        port: int = found.getsockname()[1]
    except OSError:
        return None
    else:
        return port
    finally:
        found.detach()


def _poller_of(loop: asyncio.AbstractEventLoop) -> int | None:
    """Return the descriptor that the loop polls with. Parent and child would share its registrations."""
    find = getattr(loop, "_get_backend_id", None) or getattr(getattr(loop, "_selector", None), "fileno", None)
    if find is None:
        return None
    try:
        number: int = find()
    except (OSError, ValueError, RuntimeError):
        return None
    return number


def _disable(descriptors: Sequence[int]) -> None:
    """Replace descriptors by unusable ones.

    If a descriptor were only closed, the next file that the child opens would
    get its number, and code that still has the number would write into that file.
    """
    if not descriptors:
        return
    # Close one first: the process may have reached its limit of open files.
    os.close(descriptors[0])
    unusable = os.open(*_UNUSABLE)
    for number in descriptors:
        if number != unusable:
            os.dup2(unusable, number, inheritable=False)
    if unusable not in descriptors:
        os.close(unusable)


class _Hooks:
    """The fork hooks of this process, and what its children must drop."""

    def __init__(self) -> None:
        self.armed: list[Belongings] = []
        self._registered = False
        self._masks = threading.local()

    def register(self) -> None:
        """Register the hooks once. Python never unregisters them."""
        if not self._registered:
            self._registered = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def _before(self) -> None:
        # Block the signals: one that arrives in the child before it drops the handlers would reach the parent's loop.
        signals = {number for each in self.armed for number in each.signals}
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if signals else None

    def _after_in_parent(self) -> None:
        mask = getattr(self._masks, "before", None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _after_in_child(self) -> None:
        given, self.armed = self.armed, []
        # With a default timeout, creating a socket object would change the socket for the parent too.
        timeout = socket.getdefaulttimeout()
        socket.setdefaulttimeout(None)
        try:
            for each in given:
                each.drop()
        finally:
            socket.setdefaulttimeout(timeout)
            self._after_in_parent()


_HOOKS: Final = _Hooks()


@contextlib.contextmanager
def armed(belongings: Belongings) -> Iterator[Belongings]:
    """Make every child that is forked inside this context drop these belongings."""
    _HOOKS.register()
    _HOOKS.armed.append(belongings)
    try:
        yield belongings
    finally:
        if belongings in _HOOKS.armed:
            _HOOKS.armed.remove(belongings)


def end_forked_child(server: int, error: BaseException | str | None = None) -> None:
    """End this process unless its process id is ``server``.

    Call this where the code of a step ends. In a child that the step forked, the
    callers are the server's functions, and the child must not return to them.
    """
    if os.getpid() != server:
        _end(SystemExit(error) if isinstance(error, str) else error)


def _end(error: BaseException | None) -> NoReturn:
    """Exit as Python would: with the status of SystemExit, or with a traceback and status 1."""
    status = 0
    try:
        if isinstance(error, SystemExit):
            if isinstance(error.code, int):
                status = error.code & 0xFF
            elif error.code is not None:
                status = 1
                print(error.code, file=sys.stderr)  # noqa: T201 - as Python does
        elif error is not None:
            status = 1
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(status)
