"""The signals that end the server: it hears them whatever user code has installed."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from structlog.testing import capture_logs

from mendflow_server.runtime.ending_signals import EndingSignals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: No other code of the tests uses it.
NUMBER = signal.SIGUSR2


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Iterator[asyncio.AbstractEventLoop]:
    before = signal.getsignal(NUMBER)
    made: asyncio.AbstractEventLoop = request.param()
    yield made
    made.close()
    signal.signal(NUMBER, before)


async def heard(call: asyncio.Event) -> bool:
    os.kill(os.getpid(), NUMBER)
    await asyncio.wait_for(call.wait(), 10)
    return True


def ignored(_: asyncio.AbstractEventLoop) -> None:
    signal.signal(NUMBER, signal.SIG_IGN)


def removed(loop: asyncio.AbstractEventLoop) -> None:
    loop.remove_signal_handler(NUMBER)
    signal.signal(NUMBER, signal.SIG_IGN)  # The default action would end the tests.


def handled_by_python(_: asyncio.AbstractEventLoop) -> None:
    signal.signal(NUMBER, lambda *_: None)


def handled_by_the_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.add_signal_handler(NUMBER, lambda: None)


@pytest.mark.parametrize("take", [ignored, removed, handled_by_python, handled_by_the_loop])
def test_a_signal_is_heard_after_user_code_has_taken_it(
    loop: asyncio.AbstractEventLoop, take: Callable[[Any], None]
) -> None:
    async def main() -> list[Any]:
        call = asyncio.Event()
        signals = EndingSignals([NUMBER], lambda: loop.call_soon_threadsafe(call.set))
        take(loop)
        with capture_logs() as logs:
            signals.restore()
            signals.restore()
        assert await heard(call)
        return [line["signal"] for line in logs]

    logged = loop.run_until_complete(main())
    assert logged == ["SIGUSR2"], "once"


def test_after_the_first_signal_the_next_one_has_its_default_action(loop: asyncio.AbstractEventLoop) -> None:
    async def main() -> None:
        call = asyncio.Event()
        signals = EndingSignals([NUMBER], lambda: loop.call_soon_threadsafe(call.set))
        assert await heard(call)
        signals.restore()

    loop.run_until_complete(main())
    assert signal.getsignal(NUMBER) is signal.SIG_DFL
