"""What a forked child of the server gives up.

A step may fork: `multiprocessing` does so by default on Linux. The child gets
the server's signal handlers and descriptors with the rest of the memory. A
SIGTERM for the child would then drain the server, and a child that outlives a
killed server would keep its lock and its ports. So a child drops them before
any other code runs in it.

Python calls the hooks of `os.register_at_fork` without an argument and never
unregisters them. This is why one list at module level says what is armed; the
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
    from collections.abc import Iterator, Sequence

__all__ = ["Belongings", "armed", "end_forked_child"]

#: Every use of such a descriptor fails with EBADF, where the system has it.
_DEAD: Final = (os.devnull, os.O_RDONLY | getattr(os, "O_PATH", 0))
#: The highest descriptor to look at where the system does not list them.
_HIGHEST: Final = 65_536


class Belongings:
    """What the server has that its forked children must not keep.

    ``files`` are compared by inode, so a descriptor is found no matter who opened
    it. A TCP socket whose local port is in ``ports`` listens for the server or
    was accepted by it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, signals: Sequence[signal.Signals]) -> None:
        self.files: tuple[Path, ...] = ()
        self.ports: frozenset[int] = frozenset()
        self.signals = tuple(signals)
        self._loop = loop
        self._loop_thread = threading.get_ident()

    def drop(self) -> None:
        """Give everything up. Called in a forked child only."""
        # If one fails, the others are done all the same; what is added first is done last.
        with contextlib.ExitStack() as stack:
            stack.callback(self._leave_loop)
            stack.callback(lambda: _bury(self._descriptors()))
            for number in self.signals:
                stack.callback(signal.signal, number, signal.SIG_DFL)
            stack.callback(signal.set_wakeup_fd, -1)

    def _leave_loop(self) -> None:
        # The thread that forked keeps its identity. Python does the first part by itself from 3.12 on.
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
    """Return the descriptor that the loop polls with; parent and child would share what is registered there."""
    find = getattr(loop, "_get_backend_id", None) or getattr(getattr(loop, "_selector", None), "fileno", None)
    if find is None:
        return None
    try:
        number: int = find()
    except (OSError, ValueError, RuntimeError):
        return None
    return number


def _bury(descriptors: Sequence[int]) -> None:
    """Replace descriptors by dead ones.

    A number that is merely closed would be given to the next file that the
    child opens, and code that still knows the number would write into it.
    """
    if not descriptors:
        return
    # One is closed first: there may be no room for another.
    os.close(descriptors[0])
    dead = os.open(*_DEAD)
    for number in descriptors:
        if number != dead:
            os.dup2(dead, number, inheritable=False)
    if dead not in descriptors:
        os.close(dead)


class _Hooks:
    """The hooks of this process, and what they act for."""

    def __init__(self) -> None:
        self.armed: list[Belongings] = []
        self._registered = False
        self._masks = threading.local()

    def register(self) -> None:
        """Register the hooks, once: Python keeps them for good."""
        if not self._registered:
            self._registered = True
            os.register_at_fork(
                before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
            )

    def _before(self) -> None:
        # A signal that arrives in the child before it has dropped the handlers would reach the parent's loop.
        signals = {number for each in self.armed for number in each.signals}
        self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if signals else None

    def _after_in_parent(self) -> None:
        mask = getattr(self._masks, "before", None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _after_in_child(self) -> None:
        given, self.armed = self.armed, []
        # With a default timeout, looking at a socket would change it for the parent too.
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
    """Have every child that is forked inside this context drop these belongings."""
    _HOOKS.register()
    _HOOKS.armed.append(belongings)
    try:
        yield belongings
    finally:
        if belongings in _HOOKS.armed:
            _HOOKS.armed.remove(belongings)


def end_forked_child(server: int, error: BaseException | str | None = None) -> None:
    """End this process unless its process id is that of the server.

    Called where a step's code has ended. In a child that it forked, the
    server's stack lies below, and the child must never return there.
    """
    if os.getpid() != server:
        _end(SystemExit(error) if isinstance(error, str) else error)


def _end(error: BaseException | None) -> NoReturn:
    """End as Python would: with the status of SystemExit, or with a traceback and 1."""
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
