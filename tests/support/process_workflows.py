"""Steps that change what belongs to the whole process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import io
import locale
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from mendflow import step, workflow

if TYPE_CHECKING:
    from collections.abc import Callable

#: Before it is changed: the directory in which the server started.
HERE = Path.cwd()


def redirect() -> None:
    # It is never undone, as when two threads redirect and end in the wrong order.
    contextlib.redirect_stdout(io.StringIO()).__enter__()
    contextlib.redirect_stderr(io.StringIO()).__enter__()


def assign() -> None:
    sys.stdout = sys.stderr = None  # As a program without a console has them.


def close() -> None:
    if sys.__stdout__ is not None:
        sys.__stdout__.close()


def descriptor() -> None:
    target = os.open(os.devnull, os.O_WRONLY)
    os.dup2(target, 1)
    os.close(target)


def configure_logging() -> None:
    logging.basicConfig(force=True, stream=io.StringIO())
    logging.disable(logging.CRITICAL)


def configure_structlog() -> None:
    structlog.configure(processors=[_drop], logger_factory=structlog.ReturnLoggerFactory())


def _drop(*_: object) -> str:
    raise structlog.DropEvent


def make_warnings_errors() -> None:
    warnings.simplefilter("error")


def clear_environment() -> None:
    os.environ.clear()
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


def change_defaults() -> None:
    os.umask(0o777)
    socket.setdefaulttimeout(0.000_001)
    locale.setlocale(locale.LC_ALL, "C")
    sys.setswitchinterval(1.0)
    threading.excepthook = sys.excepthook = print
    random.seed(1)
    gc.disable()


#: The last one frees the number of a descriptor, which another file may get.
DEEDS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        redirect,
        assign,
        configure_logging,
        configure_structlog,
        make_warnings_errors,
        clear_environment,
        change_defaults,
        descriptor,
        close,
    )
}


@step
def does_on_thread(deed: str) -> None:
    DEEDS[deed]()


@workflow
async def deeds(deed: str) -> None:
    await does_on_thread(deed)


@step
async def breaks_hooks(value: str) -> None:
    # The module `threading` makes no thread while one of these is None.
    broken: Any = None
    if value == "threading":
        threading.excepthook = broken
    elif value == "sys":
        sys.excepthook = broken
    else:
        del threading.excepthook


@step
def on_thread() -> str:
    return threading.current_thread().name


@workflow
async def hooks(value: str) -> str:
    await breaks_hooks(value)
    return await on_thread()


@step
def capture() -> str:
    with contextlib.redirect_stdout(io.StringIO()) as captured:
        (HERE / "capturing").touch()
        while not (HERE / "captured").exists():
            time.sleep(0.01)
        return captured.getvalue()


@workflow
async def captures() -> str:
    return await capture()


@step
def go_elsewhere() -> None:
    os.chdir("/")


@step
def import_late() -> str:
    return str(importlib.import_module("imported_late").NAME)


@workflow
async def imports_late() -> str:
    await go_elsewhere()
    return await import_late()


@workflow
async def nothing() -> None:
    pass


@step
async def take_signals(how: str) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if how == "ignore":
            signal.signal(number, signal.SIG_IGN)
        else:
            loop.add_signal_handler(number, print, "taken")


@workflow
async def takes_signals(how: str) -> None:
    await take_signals(how)
