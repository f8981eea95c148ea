"""The demo: a campaign goes out while its server is killed with SIGKILL, and comes to its end all the same.

    python -m examples.demo

It starts a mail server and `mendflow serve` on a new SQLite file in .demo/,
starts the campaign, watches it, kills the server when some attempts are done
and some are under way, starts it again, and keeps to the same watch. Then it
checks what it claims; the exit code is 0 only if every claim holds.
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
#: How long the mail server takes over a message, in seconds; the kill comes in the middle.
DELAY = 0.8
#: How long the server stays dead, in seconds.
AWAY = 1.5
#: The kill comes when so many messages are sent and so many more are under way.
SENT, UNDER_WAY = 8, 3
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
    """The demo could not be shown."""


def say(text: str = "", **style: Any) -> None:
    """Print a line; colours only on a terminal."""
    click.secho(text, **style)


def headline(text: str) -> None:
    """Print what comes next."""
    say()
    say(f"── {text}", bold=True)


def free_port() -> int:
    """Answer a port that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """End a process that this one started: kindly, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def spawn(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a module of this environment. It gets no Ctrl-C of its own: this process ends it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - a module of ours
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
    """Run the mail server, and answer its port."""
    log = directory / "smtp.log"
    mailbox = directory / "mailbox.jsonl"
    arguments = ["--address", "127.0.0.1:0", "--mailbox", str(mailbox), "--delay", str(DELAY)]
    process = spawn(["examples.smtp_server", *arguments], log)
    try:
        limit = time.monotonic() + 20
        while not (text := log.read_text(encoding="utf-8")).endswith("\n"):
            if process.poll() is not None or time.monotonic() > limit:
                raise DemoFailed(f"the mail server did not start; {log} says why")
            time.sleep(0.02)
        yield int(text.splitlines()[0].rpartition(":")[2])
    finally:
        stop(process)


@dataclass
class Server:
    """`mendflow serve`, on addresses and a store that stay the same when it is started again."""

    directory: Path
    grpc_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    http_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process's id; 0 before the first start."""
        return self.process.pid if self.process else 0

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.directory / "server.log"

    def command(self) -> list[str]:
        """Answer the arguments of `mendflow`."""
        store = f"sqlite:///{self.directory / 'demo.db'}"
        modules = ["examples.campaign", "examples.order"]
        addresses = ["--grpc-address", self.grpc_address, "--http-address", self.http_address]
        return ["serve", *modules, "--store", store, *addresses]

    async def start(self) -> None:
        """Start it and wait until /health says that it serves."""
        self.process = spawn(["mendflow.cli", *self.command()], self.log)
        limit = time.monotonic() + 30
        while not await asyncio.to_thread(self._is_ready):
            if self.process.poll() is not None or time.monotonic() > limit:
                raise DemoFailed(f"the server did not start; {self.log} says why")
            await asyncio.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http_address}/health", timeout=2) as reply:
                return bool(reply.status == 200)  # noqa: PLR2004 - HTTP's OK
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL: it gets no chance to say good-bye."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """End it in good order."""
        if self.process is not None:
            stop(self.process)


class Watched:
    """What the one watch has seen so far."""

    def __init__(self) -> None:
        self.events: list[event_pb2.Event] = []
        self.sent = 0
        self.under_way: set[str] = set()
        self._ended = False
        self._news = asyncio.Event()

    async def follow(self, handle: WorkflowHandle[Any]) -> None:
        """Watch to the end."""
        async for event in handle.watch(on_connection=show_connection):
            self.add(event)
        self._ended = True
        self._news.set()

    def add(self, event: event_pb2.Event) -> None:
        """Take an event in."""
        self.events.append(event)
        detail = getattr(event, event.WhichOneof("detail") or "workflow_started")
        kind = event.WhichOneof("detail")
        key = getattr(detail, "step_key", "")
        if kind == "attempt_started" and detail.step_name == "send":
            self.under_way.add(key)
        elif kind in {"attempt_succeeded", "attempt_failed"} and key in self.under_way:
            self.under_way.discard(key)
            self.sent += kind == "attempt_succeeded"
        show_event(event)
        self._news.set()

    async def in_the_middle(self) -> None:
        """Wait until some messages are sent and others under way, handed over by half."""
        while True:
            while self.sent < SENT or len(self.under_way) < UNDER_WAY:
                await self.more_than(len(self.events))
            await asyncio.sleep(DELAY / 2)
            if len(self.under_way) >= UNDER_WAY:
                return

    async def more_than(self, count: int) -> None:
        """Wait for an event after so many."""
        while len(self.events) <= count:
            if self._ended:
                raise DemoFailed("the campaign ended before its server could be killed in the middle")
            self._news.clear()
            await self._news.wait()


def show_event(event: event_pb2.Event) -> None:
    """Print an event on a line, which on a terminal is not broken."""
    line = f"   {describe_event(event)}"
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        line = line if len(line) <= width else f"{line[: width - 1]}…"
    kind = event.WhichOneof("detail") or ""
    say(line, fg=COLOURS.get(kind), dim=kind == "attempt_started")


def show_connection(up: bool, why: str) -> None:  # noqa: FBT001 - as the client calls it
    """Print that the watch lost the server or has it back."""
    say(
        "   the watch is back, and goes on after the last event it saw" if up else f"   the watch waits: {why}",
        dim=True,
    )


@dataclass(frozen=True)
class Death:
    """How the server died."""

    pid: int
    seconds_in: float
    under_way: int
    events_before: int
    ready_after: float
    recovered_after: float
    watched_after: float


async def kill_and_restart(server: Server, watched: Watched, begun: float) -> Death:
    """Kill the server in the middle, leave it dead for a moment, and start it again."""
    await watched.in_the_middle()
    pid, under_way = server.pid, len(watched.under_way)
    server.kill()
    killed = time.monotonic()
    say(f"✗ SIGKILL: server {pid} is dead, with {under_way} messages under way", fg="red", bold=True)
    await asyncio.sleep(AWAY)
    # What was on its way to us when it died has been read by now.
    before = len(watched.events)
    say(f"✓ started again after {AWAY:g} s, on the same file; nobody told it what to do", fg="green", bold=True)
    started, started_at = time.monotonic(), time.time()
    await server.start()
    ready = time.monotonic()
    await watched.more_than(before)
    return Death(
        pid=pid,
        seconds_in=killed - begun,
        under_way=under_way,
        events_before=before,
        ready_after=ready - started,
        recovered_after=watched.events[before].time.ToMicroseconds() / 1e6 - started_at,
        watched_after=time.monotonic() - started,
    )


async def beside(watch: Coroutine[Any, Any, None], work: Coroutine[Any, Any, Death]) -> Death:
    """Do the work beside the watch, wait for both, and raise what the first of them raises."""
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch)
            death = tasks.create_task(work)
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    return death.result()


async def show(directory: Path) -> bool:
    """Show it, and tell whether all that is claimed holds."""
    server = Server(directory)
    lines = (HERE / "recipients.csv").read_text(encoding="utf-8").splitlines()
    recipients = [row["address"] for row in csv.DictReader(lines)]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(mail_server(directory))
        stack.callback(server.stop)
        say(f"mail server on 127.0.0.1:{port}: refuses some connections, greylists, rejects one address for good")
        await server.start()
        say(f"server {server.pid}: mendflow {shlex.join(server.command())}")
        async with Client(server.grpc_address) as client, asyncio.timeout(LIMIT):
            begun = time.monotonic()
            headline(f"{WORKFLOW_ID}: {len(recipients)} recipients from recipients.csv")
            campaign = json.loads((HERE / "campaign.json").read_text(encoding="utf-8"))
            campaign["smtp"] = {"host": "127.0.0.1", "port": port}
            handle = await client.start("send_campaign", campaign, id=WORKFLOW_ID)
            watched = Watched()
            death = await beside(watched.follow(handle), kill_and_restart(server, watched, begun))
            took = time.monotonic() - begun
            findings = audit(
                watched=watched.events,
                watched_before_death=death.events_before,
                history=[event async for event in handle.events()],
                report=await handle.result(),
                recipients=recipients,
                mailbox=read_mailbox(directory),
            )
    tell(death, findings, took, server)
    return all(finding.holds for finding in findings)


def read_mailbox(directory: Path) -> list[dict[str, Any]]:
    """Answer what the mail server took."""
    lines = (directory / "mailbox.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def tell(death: Death, findings: Sequence[Finding], took: float, server: Server) -> None:
    """Say what died, what was lost and what ran again."""
    headline("what happened")
    say(f"✗ died: server {death.pid}, by SIGKILL, {death.seconds_in:.1f} s in, {death.under_way} messages under way")
    say(f"        away for {AWAY:g} s; {took:.1f} s in all", dim=True)
    say(
        f"        after its new start the campaign went on in {death.recovered_after:.1f} s, all was ready in",
        dim=True,
        nl=False,
    )
    say(f" {death.ready_after:.1f} s, and the watch went on in {death.watched_after:.1f} s", dim=True)
    for finding in findings:
        say(f"{'✓' if finding.holds else '✗'} {finding.claim}", fg=None if finding.holds else "red")
        for detail in finding.details:
            say(f"        {detail}", dim=True)
    headline("go on")
    # Where pip put it, for the environment may not be the shell's own.
    program = Path(sys.executable).with_name("mendflow")
    name = str(program.relative_to(ROOT) if program.is_relative_to(ROOT) else program)
    mendflow = shlex.quote(name if program.exists() else "mendflow")
    say(f"  cd {shlex.quote(str(ROOT))}")
    say(f"  {mendflow} {shlex.join(server.command())}")
    say(f"  {mendflow} show {WORKFLOW_ID} --server {server.grpc_address}      # in another terminal")
    say(f"  cat {shlex.quote(str(server.directory / 'mailbox.jsonl'))} {shlex.quote(str(server.log))}")


async def interruptible(directory: Path) -> bool:
    """Show it; SIGTERM and a closed terminal end it as Ctrl-C does, so that nothing is left running."""
    task = asyncio.current_task()
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel if task else lambda: None)
    return await show(directory)


def empty(directory: Path) -> None:
    """Make the directory new; refuse one that is not a demo's."""
    if directory.exists() and any(directory.iterdir()) and not (directory / "smtp.log").exists():
        raise DemoFailed(f"{directory} holds something that is not the demo's; it will not be emptied")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def main() -> int:
    """Read the command line, show the demo, and answer the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument("--directory", type=Path, default=ROOT / ".demo", help="emptied, then used (%(default)s)")
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
        # Whoever read this has gone; what Python still holds for them must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except TimeoutError:
        say(f"the demo took longer than {LIMIT:g} s; the logs in {directory} say why", fg="red", err=True)
        return 1
    except (DemoFailed, MendflowError) as error:
        say(f"the demo could not be shown: {error}", fg="red", err=True)
        return 1


if __name__ == "__main__":
    sys.exit(main())
