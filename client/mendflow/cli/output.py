"""Standard output and standard error that are closed, full or disconnected."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn, TextIO

import click

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["escape_unencodable", "output_errors"]

#: The errors of a write to a file, a pipe or a terminal.
_OF_A_WRITE: Final = frozenset(
    {errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOSPC, errno.ENXIO, errno.EPIPE, errno.EROFS}
)
_FAILED: Final = 1


@contextlib.contextmanager
def output_errors(*, required: bool) -> Iterator[None]:
    """Exit with 1 and one line on standard error if the output of the code inside cannot be written.

    With ``required``, do so at once if standard output is closed, before the command does something that it cannot
    report. A closed pipe exits with 1 and without a line, because its reader wanted no more.
    """
    _fill_closed_descriptors()
    if required and sys.stdout is None:
        _fail("standard output is closed; redirect it to a file, or to /dev/null if you do not need it")
    try:
        try:
            yield
        finally:
            if required:
                # Python would flush at its exit, where an error is no exception.
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in _OF_A_WRITE or error.filename is not None:
            raise
        _drop(sys.stdout)
        if error.errno == errno.EPIPE:
            sys.exit(_FAILED)
        _fail(f"the output cannot be written: {error.strerror}")


def escape_unencodable() -> None:
    """Escape characters that the locale cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # It is None if it was closed when the process started.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a TextIOWrapper


def _fail(problem: str) -> NoReturn:
    try:
        click.echo(f"error: {problem}", err=True)
    except OSError:
        _drop(sys.stderr)
    sys.exit(_FAILED)


def _drop(stream: TextIO | None) -> None:
    """Drop what a stream has not written, so that Python does not try again at its exit."""
    with contextlib.suppress(OSError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr] # None has no fileno
        os.close(null)


def _fill_closed_descriptors() -> None:
    """Open /dev/null in the place of closed standard streams, so that no file or socket gets their numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
