"""SIGKILL just before and just after every commit and every effect: every promise is kept at each of these places.

The places are enumerated. A life without a kill shows how many there are. Then each place gets a trial of its own. When
a trial reaches the last place of a kind, the next number is tried too, because two runs need not commit alike: things
that end at the same moment may share a commit. So a place that some life reached and no trial reached in several runs
is a fault. The exception is a commit beyond the least number that the story takes (an attempt is committed before it
runs, and its outcome afterwards). Only a limited share of these may be missed.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import statistics
from typing import TYPE_CHECKING, Any

import pytest

from examples import order
from examples.campaign import message_id
from examples.smtp_server import Mailbox, mail_server
from mendflow.errors import ServerUnavailable, WrongState
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from mendflow_server.history.state import FINAL_STATES
from tests.support.killing import Point
from tests.support.promises import Reply, open_attempts, read_store
from tests.support.scale import SOAK, scaled
from tests.support.trial import SUBJECT, Case, Trial, run_trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from mendflow import Client

pytestmark = pytest.mark.proof

#: The number of trials that run at the same time.
AT_ONCE = 4
#: After this many trials that did not end, further trials show nothing new.
ENOUGH = 4
#: How often a place is tried that only some lives reach: what shares a commit depends on the moment.
TRIES = 5
#: The share of a case's places that may be missed because things that end at the same moment share a commit.
SHARED = 0.1


# --- the workflows --------------------------------------------------------------------------------


def everything_input(_directory: Path, _port: int) -> str:
    return "w"


def check_everything(trial: Trial) -> list[str]:
    if trial.final.state != workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
        return [f"it ended {trial.final}"]
    output = json.loads(trial.final.output.json)
    # The number of the attempt in which a flaky step succeeded, and the remaining work, depend on the kill.
    expected = ["w-a", "w-cw-d", "w-b", output[6], "on", "refused", "timed out", "withdrawn", "w", output[12]]
    wrong = output[3:] != expected or output[6] not in "234" or not output[12].endswith("3]")
    return [f"it returned {output}"] if wrong else []


def order_input(directory: Path, _port: int) -> dict[str, Any]:
    items = [
        {"sku": "lamp", "price_cents": 4900, "weight_kg": 2.5, "quantity": 2},
        {"sku": "piano", "price_cents": 290_000, "weight_kg": 240},
    ]
    return {"order_id": "o", "items": items, "ledger": str(directory / "ledger.db"), "packing_time": 0.02}


def check_order(trial: Trial) -> list[str]:
    """The carrier refuses the piano, so everything is undone, and each effect has happened once."""
    wrong = []
    if trial.final.state != workflow_pb2.WORKFLOW_STATE_FAILED or "240 kg" not in trial.final.failure.message:
        wrong.append(f"it ended {trial.final}")
    written = order.entries(trial.directory / "ledger.db")
    expected = [
        ("reserved", "lamp", 2),
        ("reserved", "piano", 1),
        ("charged", "money", 299_800),
        ("shipped", "lamp", 2),
        ("recalled", "lamp", 2),
        ("refunded", "money", 299_800),
        ("released", "piano", 1),
        ("released", "lamp", 2),
    ]
    if written != expected:
        wrong.append(f"the ledger says {written}")
    return wrong


ACCEPTED = ("ada@lovelace.example", "grace@careful.example", "hedy@lamarr.example", "vint@cerf.example")
REJECTED = "unknown@rejected.example"


def campaign_input(directory: Path, port: int) -> dict[str, Any]:
    recipients = directory / "recipients.csv"
    if not SOAK:
        lines = [f"{address},{address.partition('@')[0]},Town" for address in (*ACCEPTED[:3], REJECTED, ACCEPTED[3])]
        recipients.write_text("\n".join(["address,name,city", *lines, ""]), encoding="utf-8")
    return {
        "template": {"subject": "$name", "body": "from $city"},
        "sender": "cafe@mendflow.example",
        "recipients": "recipients.csv" if SOAK else str(recipients),
        "smtp": {"port": port},
        "batch_size": scaled(3, 5),
    }


@contextlib.asynccontextmanager
async def mail_around(directory: Path) -> AsyncIterator[int]:
    async with mail_server("127.0.0.1", 0, Mailbox(directory / "mailbox.jsonl", 0.0)) as port:
        yield port


def check_campaign(trial: Trial) -> list[str]:
    """Each recipient has the mail under one Message-ID. A mail that arrived twice had an interrupted attempt."""
    if trial.final.state != workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
        return [f"it ended {trial.final}"]
    report = json.loads(trial.final.output.json)
    mailbox = [json.loads(line) for line in (trial.directory / "mailbox.jsonl").read_text("utf-8").splitlines()]
    arrived = {line["message_id"]: line["recipients"][0] for line in mailbox}
    times = collections.Counter(line["message_id"] for line in mailbox)
    keys = {
        event.attempt_started.step_key: event.attempt_started.idempotency_key
        for event in trial.watched[0].events
        if event.attempt_started.idempotency_key
    }
    cut = collections.Counter(
        message_id(keys[begun.step_key])
        for death in trial.deaths
        for begun in open_attempts(death.stored.histories.get(SUBJECT, []))
    )
    wrong = []
    if arrived != {delivery["message_id"]: delivery["recipient"] for delivery in report["sent"]}:
        wrong.append(f"the mailbox has {arrived}, the report says {report}")
    if [rejection["recipient"] for rejection in report["rejected"]] != [REJECTED]:
        wrong.append(f"rejected are {report['rejected']}")
    if len(arrived) != scaled(len(ACCEPTED), 24) or any(times[each] > 1 + cut[each] for each in times):
        wrong.append(f"of {times}, {cut} belong to interrupted attempts")
    return wrong


def cleans_up_input(_directory: Path, _port: int) -> float:
    return 60.0


def check_cleans_up(trial: Trial) -> list[str]:
    if trial.final.state != workflow_pb2.WORKFLOW_STATE_CANCELLED:
        return [f"it ended {trial.final}"]
    return []


def everything_else_input(directory: Path, _port: int) -> str:
    return str(directory / "flag")


def check_everything_else(trial: Trial) -> list[str]:
    if trial.final.state != workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
        return [f"it ended {trial.final}"]
    output = json.loads(trial.final.output.json)
    timeout = f"kind {failure_pb2.FAILURE_KIND_TIMEOUT}"
    return [] if output == ["a", "b", "StepFailed", "NoneType", timeout, "helped"] else [f"it returned {output}"]


async def help_out(trial: Trial, client: Client) -> None:
    """Wait until the workflow is paused, do what it needs, and resume it."""
    while True:
        found = await client.get(SUBJECT)
        if found.state in FINAL_STATES:
            return
        if found.state == workflow_pb2.WORKFLOW_STATE_PAUSED:
            await asyncio.to_thread((trial.directory / "flag").touch)
            with contextlib.suppress(ServerUnavailable, WrongState):
                await client.resume(SUBJECT)
                trial.replies.append(Reply("resumed", SUBJECT, None))
        await asyncio.sleep(0.02)


async def terminate(trial: Trial, client: Client) -> None:
    await client.terminate(SUBJECT, "enough")
    trial.replies.append(Reply("terminated", SUBJECT, None))


def check_terminated(trial: Trial) -> list[str]:
    return [] if trial.final.state == workflow_pb2.WORKFLOW_STATE_TERMINATED else [f"it ended {trial.final}"]


def batch_input(_directory: Path, _port: int) -> str:
    return "w"


def check_batch(trial: Trial) -> list[str]:
    ends = {reply.workflow_id: reply.detail for reply in trial.replies if reply.kind == "result"}
    wrong = len(ends) != 1 + len(trial.case.beside) or any(end.output.json != '"w"' for end in ends.values())
    return [f"they ended {ends}"] if wrong else []


CASES = {
    "everything": Case("everything", everything_input, check_everything, signals=(("go", "on"),)),
    "order": Case("place_order", order_input, check_order, signals=(("approve", {"by": "ann"}),)),
    "campaign": Case("send_campaign", campaign_input, check_campaign, around=mail_around),
    "cancelled": Case("cleans_up", cleans_up_input, check_cleans_up, cancel=True),
    "everything else": Case("everything_else", everything_else_input, check_everything_else, operate=help_out),
    "terminated": Case("holds", cleans_up_input, check_terminated, operate=terminate),
    "batch": Case("echo", batch_input, check_batch, beside=("second", "third")),
}

#: The events that the cases without a kill must have: all kinds but those that follow from a death, from changed code
#: or from a limit.
PRIMITIVES = frozenset(field.name for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields) - {
    "workflow_recovered",
    "workflow_quarantined",
    "alert_raised",
}

#: The place of the first of two deaths: a step has had its effect, and the server has not recorded it.
FIRST_DEATHS = (
    [
        *(("everything", effect) for effect in range(1, 13)),
        *(("order", effect) for effect in range(1, 11)),
        *(("campaign", effect) for effect in (1, 12, 33)),
        ("cancelled", 1),
    ]
    if SOAK
    else [("order", 2), ("cancelled", 1)]
)


# --- the enumeration ------------------------------------------------------------------------------


class Enumeration:
    """Every place in one life of a server, each with its trial. ``earlier`` says where the lives before it die."""

    def __init__(self, case: Case, directory: Path, earlier: Sequence[Point] = ()) -> None:
        self._case = case
        self._directory = directory
        self._earlier = tuple(earlier)
        self._places: collections.deque[Point] = collections.deque()
        #: The highest number of each kind that has a trial, and the highest that any life has reached.
        self._tried: collections.Counter[str] = collections.Counter()
        self._reached: collections.Counter[str] = collections.Counter()
        self._tries: collections.Counter[Point] = collections.Counter()
        self.trials: list[Trial] = []
        #: The least number of commits and effects that the story takes, from the life without a kill.
        self._least: dict[str, int] = {}

    async def run(self) -> None:
        """Count the places, then kill a server at each."""
        alone = await self._try()
        self._least = least(alone)
        for kind, number in self._reached.items():
            self._extend(kind, number)
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(self._work())

    def _extend(self, kind: str, number: int) -> None:
        while self._tried[kind] < number:
            self._tried[kind] += 1
            self._places += [Point(kind, self._tried[kind], moment) for moment in ("before", "after")]

    async def _work(self) -> None:
        while self._places and sum(bool(trial.failure) for trial in self.trials) < ENOUGH:
            point = self._places.popleft()
            trial = await self._try(point)
            if whole(trial):
                if point.number == self._tried[point.kind]:
                    self._extend(point.kind, point.number + 1)
            elif point.number <= self._reached[point.kind] and self._tries[point] < TRIES:
                self._places.append(point)

    async def _try(self, *points: Point) -> Trial:
        fatal = self._earlier + points
        name = ", ".join(str(point) for point in fatal) or "no kill"
        for point in points:
            self._tries[point] += 1
            name += f" ({self._tries[point]})" * (self._tries[point] > 1)
        trial = await run_trial(self._case, self._directory / name, fatal)
        self.trials.append(trial)
        for point in trial.reached(len(self._earlier) + 1):
            self._reached[point.kind] = max(self._reached[point.kind], point.number)
        return trial

    @property
    def killed(self) -> set[Point]:
        """The places at which a server was killed."""
        return {trial.fatal[-1] for trial in self.trials if trial.fatal and whole(trial)}

    @property
    def missed(self) -> list[Point]:
        """The places that some life reached, and that no trial reached in several runs."""
        missed = self._tries.keys() - self.killed
        return sorted(point for point in missed if point.number <= self._reached[point.kind])

    @property
    def faults(self) -> list[str]:
        """Everything that is wrong with the trials and the places."""
        found = [
            f"{trial.directory}: {fault}"
            for trial in sorted(self.trials, key=lambda trial: trial.fatal)
            for fault in trial.faults
        ]
        for kind, number in self._least.items():
            if self._reached[kind] < number:
                found.append(f"{self._reached[kind]} {kind}s were reached, but the story takes {number}")
        found += [
            f"{point} was reached once, but not in {self._tries[point]} runs"
            for point in self.missed
            if point.kind != "commit" or point.number <= self._least["commit"]
        ]
        if len(self.missed) > SHARED * len(self.killed):
            found.append(f"{len(self.missed)} places were missed, {len(self.killed)} were not")
        return found

    def report(self) -> str:
        """Return the counts in one line."""
        places = collections.Counter(f"{point.moment} {point.kind}s" for point in self.killed)
        waits = [pause for trial in self.trials for pause in trial.pauses]
        parts = ", ".join(f"{count} {place}" for place, count in sorted(places.items()))
        line = f"killed at {len(self.killed)} points ({parts}), of which the story takes {self._least}"
        if self.missed:
            line += f"; {', '.join(map(str, self.missed))} shared a commit in each of {TRIES} runs"
        if waits:
            line += f"; due work continued {statistics.median(waits):.3f} s after the process was up"
            line += f", at the latest {max(waits):.3f} s"
        return line


def least(alone: Trial) -> dict[str, int]:
    """Return the least number of commits and effects in the last life of a trial, from the histories that it left.

    An attempt runs after its commit, so its outcome is in a later commit than its start. No other event needs a commit
    of its own. The life itself takes one commit, which contains the verdict about an earlier death.
    """
    stored = read_store(alone.store)
    chains, effects = [], 0
    for workflow_id, history in stored.histories.items():
        before = alone.deaths[-1].stored.histories.get(workflow_id, []) if alone.deaths else []
        commit, begun = 1, {}
        for event in history[len(before) :]:
            if event.HasField("attempt_started"):
                begun[event.attempt_started.step_key, event.attempt_started.attempt] = commit
            for ended in (event.attempt_succeeded, event.attempt_failed):
                withdrawn = event.attempt_failed.failure.kind == failure_pb2.FAILURE_KIND_CANCELLED
                if not withdrawn and (ended.step_key, ended.attempt) in begun:
                    commit = max(commit, begun[ended.step_key, ended.attempt] + 1)
                    effects += 1
        chains.append(commit)
    return {"commit": max(chains) + (2 if alone.deaths else 1), "effect": effects}


def whole(trial: Trial) -> bool:
    """Return whether the server died at each place where it had to die."""
    return len(trial.deaths) == len(trial.fatal)


async def test_cases_without_a_kill_use_every_primitive(tmp_path: Path) -> None:
    used: set[str] = set()
    for name, case in CASES.items():
        trial = await run_trial(case, tmp_path / name, ())
        assert not trial.faults, "\n".join(trial.faults)
        for history in read_store(trial.store).histories.values():
            used |= {event.WhichOneof("detail") or "" for event in history}
    assert used >= PRIMITIVES, f"no case has {sorted(PRIMITIVES - used)}"


@pytest.mark.timeout(scaled(120, 900))
@pytest.mark.parametrize("name", CASES)
async def test_a_kill_at_every_boundary_breaks_no_promise(
    tmp_path: Path, name: str, record_figure: Callable[[str], None]
) -> None:
    enumeration = Enumeration(CASES[name], tmp_path)
    await enumeration.run()
    record_figure(f"{name}: {enumeration.report()}")
    assert not enumeration.faults, "\n".join(enumeration.faults)


@pytest.mark.timeout(scaled(120, 900))
@pytest.mark.parametrize(("name", "effect"), FIRST_DEATHS)
async def test_a_kill_at_every_boundary_of_a_recovery_breaks_no_promise(
    tmp_path: Path, name: str, effect: int, record_figure: Callable[[str], None]
) -> None:
    first = Point("effect", effect, "after")
    enumeration = Enumeration(CASES[name], tmp_path, [first])
    await enumeration.run()
    record_figure(f"{name}, recovering from a death {first}: {enumeration.report()}")
    assert not enumeration.faults, "\n".join(enumeration.faults)
