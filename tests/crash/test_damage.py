"""A damaged file: nothing is lost silently, what is readable is served, and each message says what to do.

The tests overwrite pages of events that they choose by content, so that it is certain which workflows are damaged.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest

from mendflow.errors import ServerUnavailable
from mendflow.v1 import workflow_pb2
from tests.crash.volumes import OnAVolume, breaches, calling
from tests.support.promises import read_effects, read_store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.volumes import Caller

pytestmark = pytest.mark.proof

SUCCEEDED = workflow_pb2.WORKFLOW_STATE_SUCCEEDED
ADVICE = "the file is damaged; stop the server and restore a backup"
PAGE = 4_096
#: The first byte of a page with the rows of an index, or of a table stored as one, such as the table of events.
INDEX_LEAF = 0x0A
MANY = 50
#: Texts that identify events: inputs, and the output of a step of chatty.
SAID, WAITS, CHAT = "so it was said ", "this one waits ", "000001"


def log_of(store: Path) -> Path:
    """Return the path of the write-ahead log."""
    return store.with_name(f"{store.name}-wal")


def into_the_file(store: Path) -> None:
    """Copy the log that a killed server left into the file."""
    with contextlib.closing(sqlite3.connect(store)) as database:
        assert database.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0


def overwrite_events(store: Path, text: str) -> None:
    """Overwrite a page of events that contains this text, from the middle of these pages."""
    content = store.read_bytes()
    places = [
        place
        for place in range(0, len(content), PAGE)
        if content[place] == INDEX_LEAF and text.encode() in content[place : place + PAGE]
    ]
    assert len(places) > 2, "there is no page in the middle"
    with store.open("r+b") as file:
        file.seek(places[len(places) // 2])
        file.write(b"\x55" * PAGE)


async def fill(server: OnAVolume, caller: Caller) -> None:
    """Run workflows that end and workflows that wait, then end the server."""
    for number in range(MANY):
        await caller.start("wait_for", WAITS * 50, f"wait-{number}")
    for number in range(MANY):
        await caller.start("echo", SAID * 50, f"said-{number}")
        await caller.end(f"said-{number}")
    assert server.terminate() == 0
    assert not log_of(server.store).exists()


async def cannot_be_read(caller: Caller) -> list[str]:
    """Return the workflows that the server cannot read. Every other one is there."""
    found = []
    for name in {reply.workflow_id for reply in caller.replies}:
        try:
            await caller.client.get(name)
        except ServerUnavailable:
            found.append(name)
    return found


def left_alone(server: OnAVolume, caller: Caller) -> set[str]:
    """Return the workflows that the server does not drive, according to its log."""
    started = [reply.workflow_id for reply in caller.replies if reply.kind == "started"]
    keys = [key for line in server.log if line["event"] == "workflow_unreadable" for key in line["keys"]]
    lost = [line["workflow_id"] for line in server.log if line["event"] == "workflow_lost"]
    return {started[key - 1] for key in keys} | set(lost)


async def finish_all(server: OnAVolume, caller: Caller) -> list[str]:
    """Make the waiting workflows continue as far as they can, and return those that cannot."""
    lost = []
    for number in range(MANY):
        name = f"wait-{number}"
        try:
            await caller.signal(name)
            while (await caller.client.get(name)).state != SUCCEEDED and name not in left_alone(server, caller):
                await asyncio.sleep(0.01)
        except ServerUnavailable:
            lost.append(name)
        else:
            lost += [name] if name in left_alone(server, caller) else []
    return lost


@pytest.mark.parametrize("damage", ["overwritten", "truncated"])
async def test_file_that_is_no_longer_a_store_is_refused_unchanged(on_a_directory: OnAVolume, damage: str) -> None:
    server = on_a_directory
    server.start()
    async with calling(server) as caller:
        await fill(server, caller)
        content = server.store.read_bytes()
        left = b"\x55" * 100 + content[100:] if damage == "overwritten" else content[: len(content) // 2 // PAGE * PAGE]
        server.store.write_bytes(left)
        words = server.refused()
        assert str(server.store) in words
        assert "restore a backup" in words
        assert server.store.read_bytes() == left
        server.store.write_bytes(content)
        server.start()
        assert not await finish_all(server, caller)
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)


@pytest.mark.parametrize("damaged", ["while it serves", "while it was down"])
async def test_damaged_file_serves_the_rest_and_reports_the_damage(on_a_directory: OnAVolume, damaged: str) -> None:
    server = on_a_directory
    server.start()
    async with calling(server) as caller:
        await fill(server, caller)
        copy, effects = server.store.read_bytes(), server.effects.read_bytes()
        replies = list(caller.replies)
        if damaged == "while it serves":
            # The waiting workflows are not lost: the recovery read their pages, and wrote them to the log.
            server.start()
            overwrite_events(server.store, SAID)
        else:
            overwrite_events(server.store, WAITS)
            server.start()
        unreadable = await cannot_be_read(caller)
        assert 0 < len(unreadable) < MANY / 2
        await server.says(503, ADVICE, reasons=1)
        lost = await finish_all(server, caller)
        await server.says(200, path="/health/live")
        (error,) = server.errors("store_damaged")
        assert ADVICE in error
        assert str(server.store) in error
        assert bool(lost) == (damaged != "while it serves")
        assert len(lost) < MANY * 2 / 3, "also those whose events would have to move to the page"
        await caller.start("three", "x", "after")
        assert await caller.end("after") == SUCCEEDED
        assert server.terminate() == 0
        assert "Traceback" not in server.words
        # With the copy every workflow continues from where the copy was made.
        server.store.write_bytes(copy)
        server.effects.write_bytes(effects)
        caller.replies = replies
        server.start()
        await server.says(200)
        for number in range(MANY):
            await caller.signal(f"wait-{number}")
        await caller.all_end()
    assert server.terminate() == 0
    assert not breaches(server, replies)
    assert {each.workflow_id for each in replies} == set(read_store(server.store).rows)


async def test_readable_workflows_in_progress_in_a_damaged_file_continue(on_a_directory: OnAVolume) -> None:
    server = on_a_directory
    names = [f"chat-{number}" for number in range(8)]
    server.start()
    async with calling(server) as caller:
        for name in names:
            await caller.start("chatty", 60, name)
        for name in names:
            await caller.signal(name)
        while len(read_effects(server.effects)) < 100:
            assert server.process is not None
            assert server.process.poll() is None
        server.kill()
        into_the_file(server.store)
        copy, effects = server.store.read_bytes(), server.effects.read_bytes()
        overwrite_events(server.store, CHAT)
        server.start(wait=False)
        await server.says(503, ADVICE, reasons=1)  # It has recovered despite the damage.
        for name in names:
            while name not in left_alone(server, caller) and (await caller.client.get(name)).state != SUCCEEDED:
                await asyncio.sleep(0.01)
        assert 0 < len(left_alone(server, caller)) < len(names) / 2
        assert server.terminate() == 0
        assert "Traceback" not in server.words
        server.store.write_bytes(copy)
        server.effects.write_bytes(effects)
        server.start()
        assert sorted(await caller.all_end()) == names
    assert server.terminate() == 0
    assert not breaches(server, caller.replies)


@pytest.mark.parametrize("tail", ["cut in a commit", "a frame half written", "a frame of nothing"])
async def test_a_torn_log_loses_nothing_that_was_acknowledged(on_a_directory: OnAVolume, tail: str) -> None:
    server = on_a_directory
    server.environment["MENDFLOW_PROBE_INTERVAL"] = "60"  # Only the callers cause writes.
    server.start()
    log = log_of(server.store)
    async with calling(server) as caller:
        for number in range(10):
            await caller.start("wait_for", f"{number}", f"wait-{number}")
            await caller.start("three", f"{number}", f"three-{number}")
            await caller.end(f"three-{number}")
        replies, size = list(caller.replies), log.stat().st_size
        # The power fails while the commit of this start is in flight: its caller gets no reply.
        await caller.client.start("wait_for", "torn", id="torn")
        torn = log.stat().st_size
        assert torn > size
        server.kill()
        content = log.read_bytes()
        log.write_bytes(
            {
                "cut in a commit": content[: torn - PAGE // 2],
                "a frame half written": content + content[32 : 32 + PAGE],
                "a frame of nothing": content[:size] + bytes(torn - size),
            }[tail]
        )
        server.start()
        there = {workflow.workflow_id async for workflow in caller.client.list()}
        assert ("torn" in there) == (tail == "a frame half written")
        for number in range(10):
            await caller.signal(f"wait-{number}")
            assert await caller.end(f"wait-{number}") == SUCCEEDED
    assert server.terminate() == 0
    assert caller.replies[: len(replies)] == replies
    assert not breaches(server, caller.replies, over=tail != "a frame half written")
