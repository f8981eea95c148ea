"""The demo of a cluster, in which campaigns complete although one replica is killed and another one is stopped.

    python -m examples.cluster

It starts PostgreSQL, a mail server and three replicas of `mendflow serve`, and
starts campaigns all the time through a client that knows the three. It kills A
with SIGKILL, stops B with SIGSTOP and continues it later. Then it checks its
claims. The exit code is 0 only if every claim holds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import csv
import itertools
import os
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from examples.audit import Finding
from examples.board import Board, listed
from examples.cluster_audit import Story, audit, takeover_times
from examples.database import new_schema, postgres, shown
from examples.processes import ROOT, Server, mail_server, read_campaign, read_mailbox, read_recipients
from examples.screen import headline, run, say, show_findings
from mendflow import Client

if TYPE_CHECKING:
    from mendflow import WorkflowHandle

REPLICAS = ("A", "B", "C")
KILLED, STOPPED = "A", "B"
#: The time between the starts of two campaigns, in seconds, and how many recipients each has.
INTERVAL, RECIPIENTS = 0.5, 5
#: How long a call waits for a replica before the client calls another one, in seconds.
PATIENCE = 2.0
#: How long the demo shows the cluster without an incident, and how many messages are sent before the first.
CALM, SENT = 2.5, 10
#: How many campaigns a replica drives at least, and how many messages it sends, when something happens to it.
CAMPAIGNS, MESSAGES = 2, 2
#: How many campaigns the continued replica drives before the demo ends.
AGAIN = 2
#: How long all campaigns together may take, in seconds.
LIMIT = 120.0


async def show(directory: Path, store: str) -> bool:
    """Run the demo, and return True if every claim holds. ``store`` is the URL of a database, or empty."""
    async with contextlib.AsyncExitStack() as stack:
        url = store or stack.enter_context(postgres())
        version, schema = await stack.enter_async_context(new_schema(url))
        say(f"PostgreSQL {version}: {shown(url)}")
        port = stack.enter_context(mail_server(directory))
        say(f"mail server on 127.0.0.1:{port}: refuses some connections, greylists, and rejects one address")
        servers = [Server(directory, store=schema, name=name) for name in REPLICAS]
        for server in servers:
            stack.callback(server.stop)
        await asyncio.gather(*(server.start() for server in servers))
        for server in servers:
            say(f"replica {server.name}, process {server.pid}: mendflow {shlex.join(server.command())}")
        target = "ipv4:" + ",".join(server.grpc_address for server in servers)
        say(f'the clients: Client("{target}", timeout={PATIENCE:g})')
        # Calls take turns on the replicas, so a client that only starts campaigns spreads them evenly.
        client, watcher = [await stack.enter_async_context(Client(target, timeout=PATIENCE)) for _ in range(2)]
        async with asyncio.timeout(LIMIT):
            await connect(client)
            cluster = Cluster(client, watcher, Board(servers), files_of_recipients(directory), read_campaign(port))
            every = f"one every {INTERVAL:g} s"
            headline(f"campaigns with {RECIPIENTS} recipients each, {every}; ■ is a campaign that the replica drives")
            findings = await cluster.run()
            took = time.monotonic() - cluster.board.begun
            findings += audit(list(cluster.stories), read_mailbox(directory), cluster.board.name_of)
    headline("what happened")
    show_findings(findings)
    say(f"        the campaigns took {took:.1f} s", dim=True)
    headline("explore")
    logs = [shlex.quote(str(server.log)) for server in servers]
    say(f"  grep -h replica_ {' '.join(logs)}")
    say(f"  cat {shlex.quote(str(directory / 'mailbox.jsonl'))}")
    return all(finding.holds for finding in findings)


async def connect(client: Client) -> None:
    """Wait until the client is connected to all replicas, so that they get equal parts of the work."""
    seen: set[str] = set()
    while len(seen) < len(REPLICAS):
        seen.add((await client.server_info()).replica_id)
        await asyncio.sleep(0)


def files_of_recipients(directory: Path) -> dict[Path, list[str]]:
    """Write files with some of the recipients each; return the addresses by file."""
    rows, files = read_recipients(), {}
    for begin in range(0, len(rows), RECIPIENTS):
        part = rows[begin : begin + RECIPIENTS]
        path = directory / f"recipients-{begin // RECIPIENTS + 1}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(part[0]))
            writer.writeheader()
            writer.writerows(part)
        files[path] = [row["address"] for row in part]
    return files


class Cluster:
    """The campaigns, their clients, and what happens to the replicas."""

    def __init__(
        self, client: Client, watcher: Client, board: Board, files: dict[Path, list[str]], campaign: dict[str, Any]
    ) -> None:
        self.client, self.watcher = client, watcher
        self.board = board
        self.stories: dict[Story, WorkflowHandle[Any]] = {}
        self._files = itertools.cycle(files.items())
        self._campaign = {**campaign, "batch_size": 1}
        self._enough = asyncio.Event()

    async def run(self) -> list[Finding]:
        """Run campaigns while things happen to the replicas; return what is found out about those."""
        showing = asyncio.create_task(self.board.show())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._start_campaigns(tasks))
                incidents = tasks.create_task(self._incidents())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
        for story, handle in self.stories.items():
            story.history = [event async for event in handle.events()]
            story.report = await handle.result()
        killed, stopped, continued, fenced = incidents.result()
        return [*self._takeover(KILLED, killed), *self._takeover(STOPPED, stopped), self._rejoin(continued, fenced)]

    async def _start_campaigns(self, tasks: asyncio.TaskGroup) -> None:
        for number in itertools.count(1):
            tasks.create_task(self._run_campaign(f"campaign-{number:02}"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._enough.wait(), INTERVAL)
            if self._enough.is_set():
                return

    async def _run_campaign(self, workflow_id: str) -> None:
        """Start a campaign and watch it to its end."""
        path, recipients = next(self._files)
        story = Story(workflow_id, recipients)
        await self.client.start("send_campaign", {**self._campaign, "recipients": str(path)}, id=workflow_id)
        handle = self.stories[story] = self.watcher.handle(workflow_id)
        self.board.started(story, (await handle.get()).replica_id)

        def moved(up: bool, _: str) -> None:  # noqa: FBT001 - the client's callback
            story.moves += not up

        async for event in handle.watch(on_connection=moved):
            self.board.add(story, event)
        self.board.finished(story)

    async def _incidents(self) -> tuple[float, float, float, float]:
        """Kill a replica, stop another one and continue it; return the moments, and when the last was fenced."""
        board = self.board
        await board.until(lambda: board.sent >= SENT)
        await self._busy(KILLED)
        what = self._work_of(KILLED)
        board.servers[KILLED].kill()
        killed = board.signalled("SIGKILL", KILLED, f"{KILLED} was killed {what}", fg="red", bold=True)
        await board.until(lambda: not board.campaigns_of(KILLED))
        await asyncio.sleep(CALM)
        await self._busy(STOPPED)
        what = self._work_of(STOPPED)
        os.kill(board.servers[STOPPED].pid, signal.SIGSTOP)
        stopped = board.signalled("SIGSTOP", STOPPED, f"{STOPPED} was stopped {what}", fg="red", bold=True)
        await board.until(lambda: not board.campaigns_of(STOPPED))
        await asyncio.sleep(CALM)
        os.kill(board.servers[STOPPED].pid, signal.SIGCONT)
        text = f"{STOPPED} continues after {stopped.seconds:.1f} s, and does not know yet what it missed"
        continued = board.signalled("SIGCONT", STOPPED, text, fg="yellow", bold=True)
        await board.until(self._fenced)
        await board.until(lambda: len(board.campaigns_of(STOPPED)) >= AGAIN)
        self._enough.set()
        board.note("the last campaign is started", dim=True)
        return killed.moment, stopped.moment, continued.moment, self._fenced()[0]["seen"]

    async def _busy(self, replica: str) -> None:
        """Wait until the replica drives campaigns and is sending messages."""
        board = self.board
        await board.until(
            lambda: len(board.campaigns_of(replica)) >= CAMPAIGNS and board.messages_of(replica) >= MESSAGES
        )

    def _work_of(self, replica: str) -> str:
        campaigns, messages = self.board.campaigns_of(replica), self.board.messages_of(replica)
        return f"while it drove {listed(campaigns)}, with {messages} messages in progress"

    def _fenced(self) -> list[dict[str, Any]]:
        return [line for line in self.board.logged[STOPPED] if line["event"] == "replica_fenced"]

    def _takeover(self, replica: str, moment: float) -> list[Finding]:
        """Return what is found out about the takeover of a replica's work."""
        times = takeover_times(self.stories, replica, moment, self.board.name_of)
        signal_name = "SIGKILL" if replica == KILLED else "SIGSTOP"
        if not times:
            return [Finding(f"no campaign of {replica} continued elsewhere", holds=False)]
        claim = (
            f"{replica}: {len(times)} campaigns continued elsewhere, the first {times[0][0]:.1f} s after {signal_name}"
        )
        reasons = [
            f"{name} took over, because {line['reason']}"
            for name, lines in self.board.logged.items()
            for line in lines
            if line["event"] == "replica_taken_over" and self.board.name_of(line["previous_replica_id"]) == replica
        ]
        last = f"the last of them {times[-1][0]:.1f} s after it (from the signal to the first new attempt)"
        return [Finding(claim, len(reasons) == 1, (last, *reasons))]

    def _rejoin(self, continued: float, fenced: float) -> Finding:
        """Return what is found out about the replica that was continued."""
        line = self._fenced()[0]
        claim = f"{STOPPED} was fenced: {max(0.0, fenced - continued):.1f} s after SIGCONT it gave up and joined again"
        again = [
            story.workflow_id
            for story, handle in self.stories.items()
            if story.first_driver == STOPPED and story.watched[0].time.ToMicroseconds() / 1e6 > continued
        ]
        details = (f"{line['previous_replica_id']} is now {line['replica_id']}", f"it drove {listed(again)}")
        return Finding(claim, len(again) >= 1, details)


def main() -> int:
    """Read the command line, run the demo, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.cluster", description=__doc__.split("\n\n", 1)[0])
    parser.add_argument(
        "--directory", type=Path, default=ROOT / ".cluster", help="a folder to empty and use (%(default)s)"
    )
    parser.add_argument(
        "--store",
        default="",
        metavar="URL",
        help="postgresql://USER:PASSWORD@HOST:PORT/DATABASE, where the demo makes a schema and drops it at the end"
        " (default: a new PostgreSQL on 127.0.0.1)",
    )
    options = parser.parse_args()
    directory = options.directory.resolve()
    return run(lambda: show(directory, options.store), directory, LIMIT)


if __name__ == "__main__":
    sys.exit(main())
