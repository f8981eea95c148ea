"""Histories with deaths: any prefix of them replays to the decisions that the rest records."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.campaign import send_campaign
from examples.order import place_order
from examples.smtp_server import Mailbox, mail_server
from mendflow import Client
from mendflow.v1 import workflow_pb2
from tests.fuzz.acting import ACTS, PATIENCE, act, let_end
from tests.fuzz.forms import fuzz
from tests.fuzz.programs import SIGNALS, run_program, slow_programs
from tests.fuzz.replaying import argument_of, faults_of_prefixes, is_lost
from tests.support.killing import Point
from tests.support.promises import Evidence, Reply, broken, read_store
from tests.support.servers import ServerProcess, serving_process
from tests.support.trial import SUBJECT, Case, run_trial

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mendflow import Workflow
    from mendflow.v1.event_pb2 import Event

PROGRAMS = "tests.fuzz.programs"
#: How many programs run at once when the server is killed.
CROWD = 10


def check(workflow: Workflow[Any, Any], events: list[Event]) -> None:
    wrong = faults_of_prefixes(workflow, argument_of(workflow, events), events)
    assert not wrong, "\n".join([*(f"{event.sequence} {str(event)[-300:]!r}" for event in events), *wrong])


@dataclass
class Mortal:
    """A server that is killed, and the programs it ran."""

    server: ServerProcess
    client: Client
    replies: list[Reply] = field(default_factory=list)
    seen: collections.Counter[str] = field(default_factory=collections.Counter)
    ids: Any = field(default_factory=itertools.count)

    async def progress(self, ids: list[str], events: int) -> None:
        """Wait until these have ``events`` events in total, or have come to rest."""
        before = -1
        async with asyncio.timeout(PATIENCE):
            while True:
                found = await asyncio.gather(*(self.client.get(each) for each in ids))
                now = sum(each.last_sequence for each in found)
                if now >= events or now == before:
                    return
                before = now


@pytest.fixture
async def mortal(tmp_path: Path) -> AsyncIterator[Mortal]:
    # Short idle time, so that it replays all the time.
    with serving_process(tmp_path, modules=(PROGRAMS,), environment={"MENDFLOW_EVICT_AFTER": "0.05"}) as server:
        async with Client(server.grpc_address, timeout=60.0, retry_for=None) as client:
            running = Mortal(server, client)
            yield running
        server.kill()
        wrong = broken(Evidence(read_store(server.store), replies=running.replies))
    print(f"\n{dict(running.seen)}")  # noqa: T201 - the proof's figures
    assert not wrong, "\n".join(map(str, wrong))
    assert running.seen["lost"], "no death interrupted anything"
    assert running.seen["workflow_recovered"]


@fuzz(4, 200)
@given(
    crowd=st.lists(
        st.tuples(slow_programs, st.lists(st.sampled_from([*SIGNALS, *ACTS]), max_size=4)),
        min_size=CROWD,
        max_size=CROWD,
    ),
    deaths=st.lists(st.integers(CROWD, 12 * CROWD), min_size=1, max_size=2),
)
async def test_every_prefix_of_a_history_with_deaths_replays_to_the_same_decisions(
    crowd: list[tuple[Any, list[str]]], deaths: list[int], mortal: Mortal
) -> None:
    ids = [f"program-{next(mortal.ids)}" for _ in crowd]
    handles = [
        await mortal.client.start(run_program, program, id=each) for (program, _), each in zip(crowd, ids, strict=True)
    ]
    acting = asyncio.gather(*(act(handle, sent) for handle, (_, sent) in zip(handles, crowd, strict=True)))
    for events in deaths:
        await mortal.progress(ids, events)
        mortal.server.kill()
        mortal.server.start(wait=False)
    await acting
    ended = await asyncio.gather(*map(let_end, handles))
    for handle, has_ended in zip(handles, ended, strict=True):
        history = [event async for event in handle.events()]
        check(run_program, history)
        assert has_ended, handle
        mortal.replies.append(Reply("result", handle.id, await handle.get()))
        mortal.seen.update(event.WhichOneof("detail") or "" for event in history)
        mortal.seen["lost"] += sum(map(is_lost, history))


@pytest.mark.parametrize("verdict", ["resume", "terminate"])
async def test_every_prefix_of_a_quarantined_history_replays_to_the_same_decisions(
    tmp_path: Path, verdict: str
) -> None:
    branches = ["gather", ["sequence", ["work"], ["kill"], ["drawn"]], ["signal", "go"], ["sleep"]]
    program = ["sequence", ["now"], ["try", branches, ["work"]], ["think"]]
    with serving_process(tmp_path, modules=(PROGRAMS,), environment={"MENDFLOW_CRASH_BUDGET": "1"}) as server:
        async with Client(server.grpc_address, timeout=60.0, retry_for=None) as client:
            handle = await client.start(run_program, program, id="deadly")
            await asyncio.to_thread(server.wait_died)
            await asyncio.to_thread(server.start)
            while (await handle.get()).state != workflow_pb2.WORKFLOW_STATE_QUARANTINED:
                await asyncio.sleep(0.01)
            # The history takes it, and not the code, which must not run.
            await act(handle, ["go", verdict])
            assert await let_end(handle)
            reply = Reply("result", handle.id, await handle.get())
        server.kill()
        stored = read_store(server.store)
    wrong = broken(Evidence(stored, replies=[reply]))
    assert not wrong, "\n".join(map(str, wrong))
    history = stored.histories["deadly"]
    kinds = [event.WhichOneof("detail") for event in history]
    assert "workflow_quarantined" in kinds
    assert kinds[-1] == {"resume": "workflow_succeeded", "terminate": "workflow_terminated"}[verdict]
    check(run_program, history)


# --- the examples ---------------------------------------------------------------------------------


def order_input(directory: Path, _port: int) -> dict[str, Any]:
    """The carrier refuses the piano, so everything is undone."""
    items = [
        {"sku": "lamp", "price_cents": 4900, "weight_kg": 2.5, "quantity": 2},
        {"sku": "piano", "price_cents": 290_000, "weight_kg": 240},
    ]
    return {"order_id": "o", "items": items, "ledger": str(directory / "ledger.db"), "packing_time": 0.02}


def campaign_input(directory: Path, port: int) -> dict[str, Any]:
    """One address is greylisted, and one is rejected."""
    recipients = directory / "recipients.csv"
    addresses = ["ada@lovelace.example", "grace@careful.example", "unknown@rejected.example", "vint@cerf.example"]
    lines = [f"{address},{address.partition('@')[0]},Town" for address in addresses]
    recipients.write_text("\n".join(["address,name,city", *lines, ""]), encoding="utf-8")
    return {
        "template": {"subject": "$name", "body": "from $city"},
        "sender": "cafe@mendflow.example",
        "recipients": str(recipients),
        "smtp": {"port": port},
        "batch_size": 3,
    }


@contextlib.asynccontextmanager
async def mail_around(directory: Path) -> AsyncIterator[int]:
    async with mail_server("127.0.0.1", 0, Mailbox(directory / "mailbox.jsonl", 0.0)) as port:
        yield port


def nothing_more(_: Any) -> list[str]:
    """Judge nothing: the tests that kill at every boundary judge the results of the examples."""
    return []


ORDER = Case("place_order", order_input, nothing_more, signals=(("approve", {"by": "ann"}),))
CAMPAIGN = Case("send_campaign", campaign_input, nothing_more, around=mail_around)
DEATHS = {
    "alone": (),
    "killed in a step": (Point("effect", 4, "after"), Point("effect", 2, "before")),
    "killed in a commit": (Point("commit", 7, "before"), Point("commit", 4, "after")),
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("deaths", DEATHS)
@pytest.mark.parametrize(("case", "workflow"), [(ORDER, place_order), (CAMPAIGN, send_campaign)])
async def test_every_prefix_of_the_examples_replays_to_the_same_decisions(
    tmp_path: Path, case: Case, workflow: Workflow[Any, Any], deaths: str
) -> None:
    trial = await run_trial(case, tmp_path / "trial", DEATHS[deaths])
    assert not trial.faults
    assert len(trial.deaths) == len(DEATHS[deaths])
    check(workflow, read_store(trial.store).histories[SUBJECT])
