"""Steps that fork in every way. Children write what they find to files beside the journal."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import multiprocessing
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mendflow import Client, MendflowError, SyncClient, step, workflow

if TYPE_CHECKING:
    from collections.abc import Callable

FORK = multiprocessing.get_context("fork")
#: Made at import, as users do. The first step that uses it forks its workers.
POOL = concurrent.futures.ProcessPoolExecutor(2, mp_context=FORK)
METHODS: dict[str, Any] = {name: multiprocessing.get_context(name) for name in ("fork", "forkserver", "spawn")}
#: How long a child may take, in seconds.
PATIENCE = 10.0


def place() -> Path:
    """Return the test's directory."""
    return Path(os.environ["MENDFLOW_TEST_JOURNAL"]).parent


def leave_word(name: str, word: Any) -> None:
    """Write what a child found, in one operation."""
    path = place() / f"{name}.json"
    path.with_suffix(".new").write_text(json.dumps(word))
    path.with_suffix(".new").replace(path)


def inherited() -> dict[str, Any]:
    """Return what this process has inherited from its parent."""
    regular, sockets = [], []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found = os.fstat(int(link.name))
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            regular.append(str(link.readlink()))
        elif stat.S_ISSOCK(found.st_mode):
            with socket.socket(fileno=os.dup(int(link.name))) as copy:
                if copy.family in {socket.AF_INET, socket.AF_INET6}:
                    sockets.append(copy.getsockname()[1])
    return {
        "pid": os.getpid(),
        "files": sorted(path for path in regular if "mendflow.db" in path),
        "ports": sockets,
        "handlers": {name: signal.getsignal(getattr(signal, name)) is signal.SIG_DFL for name in ("SIGTERM", "SIGINT")},
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "wakeup": signal.set_wakeup_fd(-1),
        "loop": asyncio._get_running_loop() is not None,  # noqa: SLF001 - it does not raise
    }


def look(name: str) -> int:
    """Write what this process inherited, and return its process id."""
    leave_word(name, inherited())
    return os.getpid()


def wait_for(name: str) -> None:
    """Wait for a file that the test writes."""
    limit = time.monotonic() + PATIENCE
    while not (place() / name).exists() and time.monotonic() < limit:
        time.sleep(0.01)


def look_and_stay(name: str) -> None:
    """Write what this process inherited, and live until the test ends it."""
    look(name)
    while True:
        time.sleep(0.05)


def fork(code: Callable[[], Any]) -> int:
    """Fork with os.fork, and return the child's process id. The child ends when the code returns or raises."""
    pid = os.fork()
    if pid == 0:
        code()
        os._exit(0)
    return pid


def outcome(pid: int) -> int:
    """Wait for a child, and return its exit code, or -9999 if it had to be killed."""
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -9999


def leave(how: str) -> None:
    """End the child in a way that must not end a step's own process."""
    if how == "exit":
        sys.exit(7)
    if how == "words":
        sys.exit("the child's last words")
    if how == "raise":
        message = "the child fails"
        raise ValueError(message)


@step
def fork_and_look(how: str) -> str:
    """Fork on a step's thread."""
    if how == "os.fork":
        outcome(fork(lambda: look(how)))
    elif how in {"fork", "forkserver", "spawn"}:
        process = METHODS[how].Process(target=look, args=(how,))
        process.start()
        process.join(PATIENCE)
    elif how == "pool":
        with FORK.Pool(2) as pool:
            pool.map(look, [how])
    elif how == "executor":
        POOL.submit(look, how).result(PATIENCE)
    elif how == "preexec":
        subprocess.run(["true"], preexec_fn=lambda: look(how), check=True)
    elif how == "popen":
        code = "import sys; sys.path[:0] = sys.argv[1:]; import fork_workflows; fork_workflows.look('popen')"
        subprocess.run([sys.executable, "-c", code, *sys.path], check=True, close_fds=False)
    return how


@step
async def fork_and_look_on_loop(how: str) -> str:
    """Fork on the loop's thread."""
    if how == "loop os.fork":
        outcome(fork(lambda: look(how)))
    elif how == "loop fork":
        process = FORK.Process(target=look, args=(how,))
        process.start()
        process.join(PATIENCE)
    elif how == "loop preexec":
        child = await asyncio.create_subprocess_exec("true", preexec_fn=lambda: look(how))
        assert await child.wait() == 0
    elif how == "loop run":
        assert outcome(fork(lambda: asyncio.run(look_later(how)))) == 0
    return how


async def look_later(name: str) -> None:
    """Write what was inherited, from a loop that the child owns."""
    await asyncio.sleep(0.01)
    leave_word(name, {**inherited(), "loop": False})


@step
def start_and_terminate(signal_name: str) -> int:
    """Start a child, and send it a signal at once."""
    process = FORK.Process(target=look_and_stay, args=("terminated",))
    process.start()
    os.kill(process.pid or 0, getattr(signal, signal_name))
    process.join(PATIENCE)
    return process.exitcode or 0


@step
def terminate_one_that_runs(signal_name: str) -> int:
    """Start a child, and send it a signal when it has been running for long."""
    process = FORK.Process(target=look_and_stay, args=("ran",))
    process.start()
    wait_for("ran.json")
    os.kill(process.pid or 0, getattr(signal, signal_name))
    process.join(PATIENCE)
    return process.exitcode or 0


@step
def leave_orphans(how: str) -> list[int]:
    """Start children that outlive the server."""
    if how == "executor":
        return [POOL.submit(look, f"orphan-{index}").result(PATIENCE) for index in range(2)]
    processes = [FORK.Process(target=look_and_stay, args=(f"orphan-{index}",)) for index in range(2)]
    for index, process in enumerate(processes):
        process.start()
        wait_for(f"orphan-{index}.json")
    return [process.pid or 0 for process in processes]


@step
def leave_from_thread(how: str) -> int:
    """Fork, and make the child leave the step's code."""
    pid = os.fork()
    if pid == 0:
        leave(how)
        return 0
    return outcome(pid)


@step
async def leave_from_loop(how: str) -> int:
    """Fork on the loop's thread, and make the child leave the step's code."""
    pid = os.fork()
    if pid == 0:
        if how == "await":
            await asyncio.sleep(0)
        elif how == "sleep":
            await asyncio.sleep(0.01)
        leave(how)
        return 0
    return outcome(pid)


@step
def call_from_child(how: str) -> int:
    """Fork, and make the child use the client."""

    def call() -> None:
        target = f"127.0.0.1:{os.environ['MENDFLOW_TEST_PORT']}"
        try:
            if how == "sync":
                SyncClient(target, retry_for=1.0, timeout=1.0)
            else:
                asyncio.run(_connect(target))
        except MendflowError as error:
            leave_word("call", str(error))
            os._exit(3)

    return outcome(fork(call))


async def _connect(target: str) -> None:
    Client(target, retry_for=1.0, timeout=1.0)


@workflow
async def looks(how: str) -> str:
    """Fork and look."""
    return await (fork_and_look_on_loop(how) if how.startswith("loop ") else fork_and_look(how))


@workflow
async def terminates(signal_name: str) -> list[int]:
    """End a child by a signal."""
    return [await start_and_terminate(signal_name), await terminate_one_that_runs(signal_name)]


@workflow
async def orphans(how: str) -> list[int]:
    """Leave running children behind."""
    return await leave_orphans(how)


@workflow
async def leaves(how: str) -> list[int]:
    """Fork children that leave their step."""
    if how in {"await", "sleep"}:
        return [await leave_from_loop(how)]
    return [await leave_from_thread(how), await leave_from_loop(how)]


@workflow
async def calls(how: str) -> int:
    """Fork a child that calls the server."""
    return await call_from_child(how)


@step
async def interrupted_by(signal_name: str) -> str:
    """Run for long, and keep the loop busy in small portions. Whatever is raised into it becomes its failure."""
    leave_word("busy", signal_name)
    limit = time.monotonic() + PATIENCE
    while time.monotonic() < limit:
        await asyncio.sleep(0)
    return signal_name


@workflow
async def is_interrupted(signal_name: str) -> str:
    """Run a step that a drain waits for."""
    return await interrupted_by(signal_name)
