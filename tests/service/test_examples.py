"""The examples on a real server: the tests check the demo's claims independently, and the order's undo steps."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from examples import campaign, order
from examples.smtp_server import Mailbox, mail_server
from mendflow import Client, WorkflowCancelled, WorkflowFailed
from mendflow.v1 import event_pb2, failure_pb2
from tests.support.servers import free_port, serving, serving_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow import WorkflowHandle
    from tests.support.servers import Server

ROOT = Path(__file__).parents[2]
LOST = failure_pb2.FAILURE_KIND_LOST


def left_running(directory: Path) -> list[list[str]]:
    """Return the command lines of processes that run in the directory or name it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(directory) or any(str(directory) in word for word in process.cmdline()):
                found.append(process.cmdline())
    return found


def history_on_disk(store: Path) -> list[event_pb2.Event]:
    with contextlib.closing(sqlite3.connect(store)) as database:
        rows = database.execute("select bytes from events order by sequence").fetchall()
    return [event_pb2.Event.FromString(row[0]) for row in rows]


def started(history: list[event_pb2.Event]) -> dict[tuple[str, int], int]:
    return {
        (event.attempt_started.step_key, event.attempt_started.attempt): event.sequence
        for event in history
        if event.HasField("attempt_started")
    }


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run the demo once, and return what it left."""
    directory = tmp_path_factory.mktemp("a checkout with spaces") / "demo"
    command = [sys.executable, "-m", "examples.demo", "--directory", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done, directory


def test_the_demo_is_plain_when_piped_and_leaves_nothing_running(demo: Any) -> None:
    done, directory = demo
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert left_running(directory) == []


def test_the_demo_reports_the_kill_the_losses_and_the_new_attempts(demo: Any) -> None:
    done, directory = demo
    lost = [event for event in history_on_disk(directory / "demo.db") if event.attempt_failed.failure.kind == LOST]
    assert "crashed: server" in done.stdout
    assert "lost: nothing" in done.stdout
    assert f"ran again: only the {len(lost)} interrupted attempts" in done.stdout
    for event in lost:
        assert f"{event.attempt_failed.step_key}: attempt {event.attempt_failed.attempt} interrupted" in done.stdout


def test_the_demos_history_is_whole(demo: Any) -> None:
    history = history_on_disk(demo[1] / "demo.db")
    assert [event.sequence for event in history] == list(range(1, len(history) + 1))
    assert sum(event.HasField("workflow_recovered") for event in history) == 1
    assert history[-1].HasField("workflow_succeeded")
    results = Counter(event.attempt_succeeded.step_key for event in history if event.HasField("attempt_succeeded"))
    assert set(results.values()) == {1}


def test_only_interrupted_or_failed_attempts_ran_again(demo: Any) -> None:
    history = history_on_disk(demo[1] / "demo.db")
    failed = {
        (event.attempt_failed.step_key, event.attempt_failed.attempt): event.attempt_failed.failure
        for event in history
        if event.HasField("attempt_failed")
    }
    begun = started(history)
    recovered = next(event.sequence for event in history if event.HasField("workflow_recovered"))
    lost = {place for place, failure in failed.items() if failure.kind == LOST}
    assert lost
    assert all(begun[place] < recovered for place in lost)
    assert {(key, number - 1) for key, number in begun if number > 1} == {
        place for place, failure in failed.items() if failure.kind != failure_pb2.FAILURE_KIND_PERMANENT
    }
    codes = {failure.status_code for failure in failed.values() if failure.kind != LOST}
    assert codes == {"smtp:421", "smtp:451", "smtp:550"}


def test_everyone_has_the_message_once_per_message_id(demo: Any) -> None:
    history = history_on_disk(demo[1] / "demo.db")
    report = json.loads(history[-1].workflow_succeeded.output.json)
    mailbox = [json.loads(line) for line in (demo[1] / "mailbox.jsonl").read_text(encoding="utf-8").splitlines()]
    by_recipient = {line["recipients"][0]: line["message_id"] for line in mailbox}
    assert by_recipient == {delivery["recipient"]: delivery["message_id"] for delivery in report["sent"]}
    assert len(by_recipient) == 24
    assert [rejection["recipient"] for rejection in report["rejected"]] == ["unknown@rejected.example"]
    keys = {
        event.attempt_started.step_key: event.attempt_started.idempotency_key
        for event in history
        if event.attempt_started.idempotency_key
    }
    lost_keys = {keys[event.attempt_failed.step_key] for event in history if event.attempt_failed.failure.kind == LOST}
    twice = [identity for identity, count in Counter(line["message_id"] for line in mailbox).items() if count > 1]
    assert {identity.strip("<").partition("@")[0] for identity in twice} <= lost_keys


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    directory = tmp_path / "demo"
    command = [sys.executable, "-m", "examples.demo", "--directory", str(directory)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "recipients" in line:
                break
        assert len(left_running(directory)) >= 3
        process.send_signal(number)
        process.communicate(timeout=40)
    assert process.returncode == 130
    assert left_running(directory) == []


def test_the_demo_empties_no_directory_of_another_owner(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("irreplaceable", encoding="utf-8")
    command = [sys.executable, "-m", "examples.demo", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "has files that are not from a demo" in done.stderr
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "irreplaceable"


# --- the campaign ---------------------------------------------------------------------------------


async def test_a_campaign_without_a_mail_server_waits_for_one(tmp_path: Path) -> None:
    port = free_port()
    given = campaign.Campaign(
        template=campaign.Template("Hello $name", "from $city"),
        sender="cafe@mendflow.example",
        recipients=str(tmp_path / "recipients.csv"),
        smtp=campaign.MailServer(port=port),
    )
    (tmp_path / "recipients.csv").write_text("address,name,city\na@x.example,A,X\nb@x.example,B,X\n", encoding="utf-8")
    mailbox = tmp_path / "mailbox.jsonl"
    async with serving(tmp_path, definitions={"send_campaign": campaign.send_campaign}) as server:
        handle = await server.client.start(campaign.send_campaign, given)
        async with contextlib.AsyncExitStack() as stack:
            async for event in handle.watch():
                if event.HasField("workflow_paused"):
                    if not mailbox.exists():
                        mailbox.touch()
                        await stack.enter_async_context(mail_server("127.0.0.1", port, Mailbox(mailbox, 0.0)))
                    await handle.resume()
            report = await handle.result()
    assert [delivery.recipient for delivery in report.sent] == ["a@x.example", "b@x.example"]
    assert report.rejected == []
    assert len(mailbox.read_text(encoding="utf-8").splitlines()) == 2


# --- the order ------------------------------------------------------------------------------------


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Server]:
    """A server for orders."""
    async with serving(tmp_path, definitions={"place_order": order.place_order}) as server:
        yield server


def an_order(directory: Path, *items: order.Item, **changes: Any) -> order.Order:
    return order.Order("o", list(items), ledger=str(directory / "ledger.db"), packing_time=0.01, **changes)


LAMP = order.Item("lamp", 4900, 2.5, 2)
CHAIR = order.Item("chair", 9900, 7)
PIANO = order.Item("piano", 1000, 240)


async def test_an_order_is_reserved_charged_and_shipped(shop: Server, tmp_path: Path) -> None:
    receipt = await shop.client.run(order.place_order, an_order(tmp_path, LAMP, CHAIR))
    assert receipt == order.Receipt("o", 19_700, ["parcel-o-lamp", "parcel-o-chair"])
    assert order.entries(tmp_path / "ledger.db") == [
        ("reserved", "lamp", 2),
        ("reserved", "chair", 1),
        ("charged", "money", 19_700),
        ("shipped", "lamp", 2),
        ("shipped", "chair", 1),
    ]


async def test_completed_steps_are_undone_in_reverse_order(shop: Server, tmp_path: Path) -> None:
    with pytest.raises(WorkflowFailed, match="weighs 240 kg") as failed:
        await shop.client.run(order.place_order, an_order(tmp_path, LAMP, PIANO))
    assert failed.value.failure.step_key == "ship#2"
    assert order.entries(tmp_path / "ledger.db") == [
        ("reserved", "lamp", 2),
        ("reserved", "piano", 1),
        ("charged", "money", 10_800),
        ("shipped", "lamp", 2),
        ("recalled", "lamp", 2),
        ("refunded", "money", 10_800),
        ("released", "piano", 1),
        ("released", "lamp", 2),
    ]


async def test_an_approved_order_is_shipped(shop: Server, tmp_path: Path) -> None:
    handle = await shop.client.start(order.place_order, an_order(tmp_path, LAMP, approval_above_cents=0))
    await handle.signal("approve", order.Approval("Ada"))
    assert (await handle.result()).charged_cents == 9800


RESERVED_AND_RELEASED = [("reserved", "lamp", 2), ("released", "lamp", 2)]


async def test_a_declined_order_is_undone(shop: Server, tmp_path: Path) -> None:
    handle = await shop.client.start(order.place_order, an_order(tmp_path, LAMP, approval_above_cents=0))
    await handle.signal("approve", order.Approval("Ada", approved=False))
    with pytest.raises(WorkflowFailed, match="Ada declined the order"):
        await handle.result()
    assert order.entries(tmp_path / "ledger.db") == RESERVED_AND_RELEASED


async def test_an_order_without_an_approval_is_undone(shop: Server, tmp_path: Path) -> None:
    given = an_order(tmp_path, LAMP, approval_above_cents=0, approval_timeout=0.05)
    with pytest.raises(WorkflowFailed, match="the order was not approved"):
        await shop.client.run(order.place_order, given)
    assert order.entries(tmp_path / "ledger.db") == RESERVED_AND_RELEASED


async def test_an_order_that_is_cancelled_is_undone(shop: Server, tmp_path: Path) -> None:
    handle = await shop.client.start(order.place_order, an_order(tmp_path, LAMP, approval_above_cents=0))
    async for event in handle.watch():
        if event.HasField("signal_awaited"):
            await handle.cancel()
    with pytest.raises(WorkflowCancelled):
        await handle.result()
    assert order.entries(tmp_path / "ledger.db") == RESERVED_AND_RELEASED


async def test_an_undo_that_is_killed_in_the_middle_has_its_effect_once(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.db"
    given = an_order(tmp_path, LAMP, CHAIR, approval_above_cents=0)
    with serving_process(tmp_path, modules=("examples.order",)) as server:
        async with Client(server.grpc_address) as client:
            handle = await client.start(order.place_order, given)
            await seen(handle, "signal_awaited")
            with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as lock:
                # While the test holds the ledger, the first undo step cannot finish.
                lock.execute("begin immediate")
                await handle.cancel()
                await seen(handle, "attempt_started", step_key="release")
                server.kill()
            server.start()
            with pytest.raises(WorkflowCancelled):
                await handle.result()
            history = [event async for event in handle.events()]
    lost = [event.attempt_failed for event in history if event.attempt_failed.failure.kind == LOST]
    assert [(failed.step_key, failed.attempt) for failed in lost] == [("release", 1)]
    assert order.entries(ledger) == [
        ("reserved", "lamp", 2),
        ("reserved", "chair", 1),
        ("released", "chair", 1),
        ("released", "lamp", 2),
    ]


async def seen(handle: WorkflowHandle[Any], kind: str, **fields: Any) -> None:
    """Watch until such an event arrives."""
    async for event in handle.watch():
        if event.WhichOneof("detail") == kind:
            detail = getattr(event, kind)
            if all(getattr(detail, name) == value for name, value in fields.items()):
                return
    pytest.fail(f"there was no {kind} {fields}")
