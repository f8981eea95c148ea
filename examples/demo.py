"""The demo, in which a campaign completes although its server is killed with SIGKILL in the middle.

    python -m examples.demo

It starts a mail server and `mendflow serve` with a new SQLite file in .demo/,
starts the campaign and watches it. It kills the server while some attempts are
complete and some are in progress, restarts the server, and keeps the same watch.
Then it checks its claims. The exit code is 0 only if every claim holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from examples.audit import audit
from mendflow import Client, MendflowError
from mendflow.cli.event_text import describe_event

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from examples.audit import Finding
    from mendflow import WorkflowHandle
    from mendflow.v1 import event_pb2

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORKFLOW_ID = "demo-campaign"
#: How long the mail server takes for a message, in seconds. The kill comes in the middle of it.
DELAY = 0.8
#: How long the server stays down, in seconds.
DOWNTIME = 1.5
#: How many messages are sent, and how many more are in progress, when the demo kills the server.
SENT, IN_PROGRESS = 8, 3
COLOURS = {
    "attempt_failed": "yellow",
    "progress_reported": "cyan",
    "workflow_recovered": "green",
    "workflow_succeeded": "green",
    "workflow_failed": "red",
}
#: How long the whole campaign may take, in seconds.
LIMIT = 120.0


class DemoFailed(Exception):
    """The demo could not be completed."""


def say(text: str = "", **style: Any) -> None:
    """Print a line, with colours only on a terminal."""
    click.secho(text, **style)


def headline(text: str) -> None:
    """Print a headline."""
    say()
    say(f"── {text}", bold=True)


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """Stop a process that this one started, with SIGTERM and then with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def spawn(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a module in this environment, in a new session so that Ctrl-C does not reach it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - a module of this repository
            [sys.executable, "-m", *arguments],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextlib.contextmanager
def mail_server(directory: Path) -> Iterator[int]:
    """Run the mail server, and yield its port."""
    log = directory / "smtp.log"
    mailbox = directory / "mailbox.jsonl"
    arguments = ["--address", "127.0.0.1:0", "--mailbox", str(mailbox), "--delay", str(DELAY)]
    process = spawn(["examples.smtp_server", *arguments], log)
    try:
        limit = time.monotonic() + 20
        while not (text := log.read_text(encoding="utf-8")).endswith("\n"):
            if process.poll() is not None or time.monotonic() > limit:
                raise DemoFailed(f"the mail server did not start; see {log}")
            time.sleep(0.02)
        yield int(text.splitlines()[0].rpartition(":")[2])
    finally:
        stop(process)


@dataclass
class Server:
    """`mendflow serve`, which keeps its addresses and its store after a restart."""

    directory: Path
    grpc_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    http_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, or 0 before the first start."""
        return self.process.pid if self.process else 0

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / "server.log"

    def command(self) -> list[str]:
        """Return the arguments of `mendflow`."""
        store = f"sqlite:///{self.directory / 'demo.db'}"
        modules = ["examples.campaign", "examples.order"]
        addresses = ["--grpc-address", self.grpc_address, "--http-address", self.http_address]
        return ["serve", *modules, "--store", store, *addresses]

    async def start(self) -> None:
        """Start the server and wait until /health reports that it is ready."""
        self.process = spawn(["mendflow.cli", *self.command()], self.log)
        limit = time.monotonic() + 30
        while not await asyncio.to_thread(self._is_ready):
            if self.process.poll() is not None or time.monotonic() > limit:
                raise DemoFailed(f"the server did not start; see {self.log}")
            await asyncio.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http_address}/health", timeout=2) as reply:
                return bool(reply.status == 200)  # noqa: PLR2004 - HTTP 200 OK
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the server with SIGKILL, without a chance to shut down."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Shut the server down."""
        if self.process is not None:
            stop(self.process)


class Watched:
    """The events that the demo's only watch has received."""

    def __init__(self) -> None:
        self.events: list[event_pb2.Event] = []
        self.sent = 0
        self.in_progress: set[str] = set()
        self._ended = False
        self._changed = asyncio.Event()

    async def follow(self, handle: WorkflowHandle[Any]) -> None:
        """Watch until the workflow ends."""
        async for event in handle.watch(on_connection=show_connection):
            self.add(event)
        self._ended = True
        self._changed.set()

    def add(self, event: event_pb2.Event) -> None:
        """Add and print an event."""
        self.events.append(event)
        detail = getattr(event, event.WhichOneof("detail") or "workflow_started")
        kind = event.WhichOneof("detail")
        key = getattr(detail, "step_key", "")
        if kind == "attempt_started" and detail.step_name == "send":
            self.in_progress.add(key)
        elif kind in {"attempt_succeeded", "attempt_failed"} and key in self.in_progress:
            self.in_progress.discard(key)
            self.sent += kind == "attempt_succeeded"
        show_event(event)
        self._changed.set()

    async def in_the_middle(self) -> None:
        """Wait until some messages are sent and others are in progress, half-way through the mail server's delay."""
        while True:
            while self.sent < SENT or len(self.in_progress) < IN_PROGRESS:
                await self.more_than(len(self.events))
            await asyncio.sleep(DELAY / 2)
            if len(self.in_progress) >= IN_PROGRESS:
                return

    async def more_than(self, count: int) -> None:
        """Wait until there are more than ``count`` events."""
        while len(self.events) <= count:
            if self._ended:
                raise DemoFailed("the campaign ended before its server was killed; run the demo again")
            self._changed.clear()
            await self._changed.wait()


def show_event(event: event_pb2.Event) -> None:
    """Print an event on one line, truncated to the width of a terminal."""
    line = f"   {describe_event(event)}"
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        line = line if len(line) <= width else f"{line[: width - 1]}…"
    kind = event.WhichOneof("detail") or ""
    say(line, fg=COLOURS.get(kind), dim=kind == "attempt_started")


def show_connection(up: bool, why: str) -> None:  # noqa: FBT001 - the client's callback
    """Print that the watch lost its connection or has resumed."""
    say("   reconnected; the watch resumes after its last event" if up else f"   connection lost: {why}", dim=True)


@dataclass(frozen=True)
class Crash:
    """The kill and the recovery. Times are in seconds."""

    pid: int
    seconds_in: float
    in_progress: int
    events_before: int
    ready_after: float
    recovered_after: float
    watched_after: float


async def kill_and_restart(server: Server, watched: Watched, begun: float) -> Crash:
    """Kill the server in the middle of the campaign, wait for `DOWNTIME`, and start it again."""
    await watched.in_the_middle()
    pid, in_progress = server.pid, len(watched.in_progress)
    server.kill()
    killed = time.monotonic()
    say(f"✗ SIGKILL: server {pid} was killed with {in_progress} messages in progress", fg="red", bold=True)
    await asyncio.sleep(DOWNTIME)
    # By now the watch has received everything that the server sent before the kill.
    before = len(watched.events)
    say(f"✓ restarted after {DOWNTIME:g} s with the same file and no other instruction", fg="green", bold=True)
    started, started_at = time.monotonic(), time.time()
    await server.start()
    ready = time.monotonic()
    await watched.more_than(before)
    return Crash(
        pid=pid,
        seconds_in=killed - begun,
        in_progress=in_progress,
        events_before=before,
        ready_after=ready - started,
        recovered_after=watched.events[before].time.ToMicroseconds() / 1e6 - started_at,
        watched_after=time.monotonic() - started,
    )


async def run_both(watch: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Crash]) -> Crash:
    """Run the watch and the work concurrently, and return the work's result. Raise the first exception of either."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch)
            crash = tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return crash.result()


async def show(directory: Path) -> bool:
    """Run the demo, and return True if every claim holds."""
    server = Server(directory)
    lines = (HERE / "recipients.csv").read_text(encoding="utf-8").splitlines()
    recipients = [row["address"] for row in csv.DictReader(lines)]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(mail_server(directory))
        stack.callback(server.stop)
        say(f"mail server on 127.0.0.1:{port}: refuses some connections, greylists, and rejects one address")
        await server.start()
        say(f"server {server.pid}: mendflow {shlex.join(server.command())}")
        async with Client(server.grpc_address) as client, asyncio.timeout(LIMIT):
            begun = time.monotonic()
            headline(f"{WORKFLOW_ID}: {len(recipients)} recipients from recipients.csv")
            campaign = json.loads((HERE / "campaign.json").read_text(encoding="utf-8"))
            campaign["smtp"] = {"host": "127.0.0.1", "port": port}
            handle = await client.start("send_campaign", campaign, id=WORKFLOW_ID)
            watched = Watched()
            crash = await run_both(watched.follow(handle), kill_and_restart(server, watched, begun))
            took = time.monotonic() - begun
            findings = audit(
                watched=watched.events,
                watched_before_crash=crash.events_before,
                history=[event async for event in handle.events()],
                report=await handle.result(),
                recipients=recipients,
                mailbox=read_mailbox(directory),
            )
    show_findings(crash, findings, took, server)
    return all(finding.holds for finding in findings)


def read_mailbox(directory: Path) -> list[dict[str, Any]]:
    """Return the messages that the mail server accepted."""
    lines = (directory / "mailbox.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def show_findings(crash: Crash, findings: Sequence[Finding], took: float, server: Server) -> None:
    """Print what crashed, what was lost and what ran again."""
    headline("what happened")
    say(f"✗ crashed: server {crash.pid}, by SIGKILL, {crash.seconds_in:.1f} s after the start of the campaign,")
    say(f"        with {crash.in_progress} messages in progress", dim=True)
    say(f"        down for {DOWNTIME:g} s; the demo took {took:.1f} s", dim=True)
    say(f"        after the restart the campaign resumed in {crash.recovered_after:.1f} s,", dim=True, nl=False)
    say(f" the server was ready in {crash.ready_after:.1f} s,", dim=True, nl=False)
    say(f" and the watch resumed in {crash.watched_after:.1f} s", dim=True)
    for finding in findings:
        say(f"{'✓' if finding.holds else '✗'} {finding.claim}", fg=None if finding.holds else "red")
        for detail in finding.details:
            say(f"        {detail}", dim=True)
    headline("explore")
    # Print the path, because the shell may use another environment.
    program = Path(sys.executable).with_name("mendflow")
    name = str(program.relative_to(ROOT) if program.is_relative_to(ROOT) else program)
    mendflow = shlex.quote(name if program.exists() else "mendflow")
    say(f"  cd {shlex.quote(str(ROOT))}")
    say(f"  {mendflow} {shlex.join(server.command())}")
    say(f"  {mendflow} show {WORKFLOW_ID} --server {server.grpc_address}      # in another terminal")
    say(f"  cat {shlex.quote(str(server.directory / 'mailbox.jsonl'))} {shlex.quote(str(server.log))}")


async def interruptible(directory: Path) -> bool:
    """Run the demo. SIGTERM and a closed terminal cancel it like Ctrl-C, so that no process stays behind."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel if task else lambda: None)
    return await show(directory)


def empty(directory: Path) -> None:
    """Empty the directory. Raise `DemoFailed` if it has files that are not from a demo."""
    if directory.exists() and any(directory.iterdir()) and not (directory / "smtp.log").exists():
        raise DemoFailed(f"{directory} has files that are not from a demo; use another --directory")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def main() -> int:
    """Read the command line, run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument(
        "--directory", type=Path, default=ROOT / ".demo", help="a folder to empty and use (%(default)s)"
    )
    directory = parser.parse_args().directory.resolve()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        empty(directory)
        return 0 if asyncio.run(interruptible(directory)) else 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("stopped", err=True)
        return 130
    except BrokenPipeError:
        # The reader closed the pipe. Discard the rest of the output, so that Python does not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TimeoutError:
        say(f"the demo exceeded its limit of {LIMIT:g} s; see the logs in {directory}", fg="red", err=True)
        return 1
    except (DemoFailed, MendflowError) as error:
        say(f"the demo failed: {error}", fg="red", err=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
