"""What the demo of a cluster sees and prints: which replica drives which campaign, and who takes over."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from examples.screen import say, say_on_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from examples.cluster_audit import Story
    from examples.processes import Server
    from mendflow.v1 import event_pb2

#: How often the board looks at the logs of the replicas, and how often it prints who drives what, in seconds.
LOOK, PULSE = 0.1, 1.0


@dataclass
class Incident:
    """A signal that a replica got. The moments are in seconds since the epoch, by the clock of the events."""

    name: str
    replica: str
    moment: float = field(default_factory=time.time)

    @property
    def seconds(self) -> float:
        """How long ago the replica got the signal."""
        return time.time() - self.moment


class Board:
    """The campaigns and their replicas, as the clients and the logs of the replicas show them."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = {server.name: server for server in servers}
        self._names = {str(server.pid): server.name for server in servers}
        self.begun = time.monotonic()
        #: The replica that drives each open campaign.
        self.drivers: dict[str, str] = {}
        #: The messages that are being sent, as campaign and step.
        self.in_progress: set[tuple[str, str]] = set()
        self.sent = self.ended = 0
        #: The last signal that each replica got.
        self.incidents: dict[str, Incident] = {}
        #: What the replicas logged of takeovers, by the name of the replica.
        self.logged: dict[str, list[dict[str, Any]]] = defaultdict(list)
        #: The campaigns that were taken over and are not printed yet, by the new and the previous replica.
        self._taken: dict[tuple[str, str], list[str]] = defaultdict(list)
        self._read: Counter[str] = Counter()

    def name_of(self, replica_id: str) -> str:
        """Return a replica's name by its id, which has the number of its process. It keeps it when it joins again."""
        return self._names.get(replica_id.rsplit("-", 2)[-2], replica_id)

    def note(self, text: str, **style: Any) -> None:
        """Print a line with the time since the start."""
        say(f"{time.monotonic() - self.begun:5.1f} s  {text}", **style)

    # What the clients see.

    def started(self, story: Story, replica_id: str) -> None:
        """Note which replica drives a new campaign, unless the watch has shown a later one."""
        if not any(event.HasField("workflow_recovered") for event in story.watched):
            story.first_driver = self.name_of(replica_id)
            self.drivers[story.workflow_id] = story.first_driver

    def add(self, story: Story, event: event_pb2.Event) -> None:
        """Add an event of a campaign."""
        story.watched.append(event)
        kind = event.WhichOneof("detail")
        if kind == "attempt_started" and event.attempt_started.step_name == "send":
            self.in_progress.add((story.workflow_id, event.attempt_started.step_key))
        elif kind == "attempt_succeeded":
            place = (story.workflow_id, event.attempt_succeeded.step_key)
            self.sent += place in self.in_progress
            self.in_progress.discard(place)
        elif kind == "attempt_failed":
            self.in_progress.discard((story.workflow_id, event.attempt_failed.step_key))
        elif kind == "workflow_recovered":
            new = self.name_of(event.workflow_recovered.replica_id)
            previous = self.name_of(event.workflow_recovered.previous_replica_id)
            self.drivers[story.workflow_id] = new
            self._taken[new, previous].append(story.workflow_id)

    def finished(self, story: Story) -> None:
        """Note that a campaign has ended."""
        self.drivers.pop(story.workflow_id, None)
        self.ended += 1

    def campaigns_of(self, replica: str) -> list[str]:
        """Return the open campaigns that a replica drives."""
        return sorted(each for each, driver in self.drivers.items() if driver == replica)

    def messages_of(self, replica: str) -> int:
        """Return how many messages a replica is sending."""
        return sum(self.drivers.get(campaign) == replica for campaign, _ in self.in_progress)

    # What happens to the replicas.

    def signalled(self, name: str, replica: str, outcome: str, **style: Any) -> Incident:
        """Note and print that a replica got a signal."""
        self.incidents[replica] = Incident(name, replica)
        mark = "✓" if name == "SIGCONT" else "✗"
        self.note(f"{mark} {name}: {outcome}", **style)
        return self.incidents[replica]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition."""
        while not condition():  # noqa: ASYNC110 - a replica's log can only be looked at
            await asyncio.sleep(LOOK / 2)

    async def show(self) -> None:
        """Print the takeovers and what the replicas log of them, and each second who drives what, until cancelled."""
        next_pulse = 0.0
        while True:
            self._show_takeovers()
            for server in self.servers.values():
                self._read_log(server)
            if (now := time.monotonic()) >= next_pulse:
                next_pulse = now + PULSE
                self._show_drivers()
            await asyncio.sleep(LOOK)

    def _show_takeovers(self) -> None:
        for (new, previous), campaigns in self._taken.items():
            incident = self.incidents.get(previous)
            since = f", {incident.seconds:.1f} s after {incident.name}" if incident else ""
            self.note(f"✓ {new} took over {listed(campaigns)} from {previous}{since}", fg="green", bold=True)
        self._taken.clear()

    def _read_log(self, server: Server) -> None:
        """Note the new lines of a log that report takeovers."""
        with server.log.open("rb") as file:
            file.seek(self._read[server.name])
            while (line := file.readline()).endswith(b"\n"):
                self._read[server.name] += len(line)
                if line.startswith(b"{") and b'"replica_' in line:
                    self._show_logged(server.name, json.loads(line))

    def _show_logged(self, name: str, line: dict[str, Any]) -> None:
        event = line["event"]
        if event == "replica_taken_over":
            previous = self.name_of(line["previous_replica_id"])
            say_on_one_line(f"         {name} logs {event}: {previous}, because {line['reason']}", dim=True)
        elif event == "replica_fenced":
            incident = self.incidents.get(name)
            since = f", {incident.seconds:.1f} s after {incident.name}" if incident else ""
            self.note(f"✓ {name} saw that it was fenced, and joined again{since}", fg="green", bold=True)
            say_on_one_line(
                f"         {name} logs {event}: {line['previous_replica_id']} is now {line['replica_id']}", dim=True
            )
        else:
            return
        self.logged[name].append({**line, "seen": time.time()})

    def _show_drivers(self) -> None:
        """Print a square for each campaign that a replica drives."""
        marks = {"SIGKILL": "✗ ", "SIGSTOP": "‖ "}
        columns = []
        for name in self.servers:
            incident = self.incidents.get(name)
            mark = marks.get(incident.name, "") if incident else ""
            columns.append(f"{name} {mark}{'■' * len(self.campaigns_of(name))}".ljust(16))
        line = (
            f"{time.monotonic() - self.begun:5.1f} s  {''.join(columns)}{self.ended} ended, {self.sent} messages sent"
        )
        say_on_one_line(line, dim=sys.stdout.isatty())


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them; the first three, if there are many."""
    names = sorted(names)
    if len(names) > 4:  # noqa: PLR2004 - one more than three would be no shorter
        names = [*names[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "nothing"
