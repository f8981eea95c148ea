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
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.audit import audit
from examples.processes import (
    DELAY,
    ROOT,
    DemoFailed,
    Server,
    mail_server,
    read_campaign,
    read_mailbox,
    read_recipients,
)
from examples.screen import headline, program, run, say, say_on_one_line, show_findings
from mendflow import Client
from mendflow.cli.event_text import describe_event

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from examples.audit import Finding
    from mendflow import WorkflowHandle
    from mendflow.v1 import event_pb2

WORKFLOW_ID = "demo-campaign"
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
    """Print an event on one line."""
    kind = event.WhichOneof("detail") or ""
    say_on_one_line(f"   {describe_event(event)}", fg=COLOURS.get(kind), dim=kind == "attempt_started")


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
    recipients = [row["address"] for row in read_recipients()]
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(mail_server(directory))
        stack.callback(server.stop)
        say(f"mail server on 127.0.0.1:{port}: refuses some connections, greylists, and rejects one address")
        await server.start()
        say(f"server {server.pid}: mendflow {shlex.join(server.command())}")
        async with Client(server.grpc_address) as client, asyncio.timeout(LIMIT):
            begun = time.monotonic()
            headline(f"{WORKFLOW_ID}: {len(recipients)} recipients from recipients.csv")
            handle = await client.start("send_campaign", read_campaign(port), id=WORKFLOW_ID)
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
    show_outcome(crash, findings, took, server)
    return all(finding.holds for finding in findings)


def show_outcome(crash: Crash, findings: Sequence[Finding], took: float, server: Server) -> None:
    """Print what crashed, what was lost and what ran again."""
    headline("what happened")
    say(f"✗ crashed: server {crash.pid}, by SIGKILL, {crash.seconds_in:.1f} s after the start of the campaign,")
    say(f"        with {crash.in_progress} messages in progress", dim=True)
    say(f"        down for {DOWNTIME:g} s; the demo took {took:.1f} s", dim=True)
    say(f"        after the restart the campaign resumed in {crash.recovered_after:.1f} s,", dim=True, nl=False)
    say(f" the server was ready in {crash.ready_after:.1f} s,", dim=True, nl=False)
    say(f" and the watch resumed in {crash.watched_after:.1f} s", dim=True)
    show_findings(findings)
    headline("explore")
    mendflow = program()
    say(f"  cd {shlex.quote(str(ROOT))}")
    say(f"  {mendflow} {shlex.join(server.command())}")
    say(f"  {mendflow} show {WORKFLOW_ID} --server {server.grpc_address}      # in another terminal")
    say(f"  cat {shlex.quote(str(server.directory / 'mailbox.jsonl'))} {shlex.quote(str(server.log))}")


def main() -> int:
    """Read the command line, run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument(
        "--directory", type=Path, default=ROOT / ".demo", help="a folder to empty and use (%(default)s)"
    )
    directory = parser.parse_args().directory.resolve()
    return run(lambda: show(directory), directory, LIMIT)


if __name__ == "__main__":
    sys.exit(main())
