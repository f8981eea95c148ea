"""A file that is not what was written: nothing is lost in silence, what can be read is served, and all says what to do.

What the tests break is chosen by what lies there: pages of events, so that it is certain who must suffer and who not.
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

SUCCEEDED = workflow_pb2.WORKFLOW_STATE_SUCCEEDED
ADVICE = "the file is damaged; stop the server and restore a backup"
PAGE = 4_096
#: The first byte of a page that holds the rows of an index, or of a table that is one, as that of events.
INDEX_LEAF = 0x0A
MANY = 50
#: What events are known by: inputs, and what a step of chatty answers.
SAID, WAITS, CHAT = "so it was said ", "this one waits ", "000001"


def log_of(store: Path) -> Path:
    """Answer the write-ahead log's path."""
    return store.with_name(f"{store.name}-wal")


def into_the_file(store: Path) -> None:
    """Bring the log that a killed server left into the file."""
    with contextlib.closing(sqlite3.connect(store)) as database:
        assert database.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0


def overwrite_events(store: Path, text: str) -> None:
    """Overwrite a page of events that have this text in them, in the midst of theirs."""
    content = store.read_bytes()
    places = [
        place
        for place in range(0, len(content), PAGE)
        if content[place] == INDEX_LEAF and text.encode() in content[place : place + PAGE]
    ]
    assert len(places) > 2, "there is no page in the midst"
    with store.open("r+b") as file:
        file.seek(places[len(places) // 2])
        file.write(b"\x55" * PAGE)


async def fill(server: OnAVolume, caller: Caller) -> None:
    """Let workflows end, and others wait, and the server end after them."""
    for number in range(MANY):
        await caller.start("wait_for", WAITS * 50, f"wait-{number}")
    for number in range(MANY):
        await caller.start("echo", SAID * 50, f"said-{number}")
        await caller.end(f"said-{number}")
    assert server.terminate() == 0
    assert not log_of(server.store).exists()


async def cannot_be_read(caller: Caller) -> list[str]:
    """Answer who cannot be asked for any more; nobody is missing."""
    found = []
    for name in {reply.workflow_id for reply in caller.replies}:
        try:
            await caller.client.get(name)
        except ServerUnavailable:
            found.append(name)
    return found


def left_alone(server: OnAVolume, caller: Caller) -> set[str]:
    """Answer whom the server leaves as they are, by what it says."""
    started = [reply.workflow_id for reply in caller.replies if reply.kind == "started"]
    keys = [key for line in server.log if line["event"] == "workflow_unreadable" for key in line["keys"]]
    lost = [line["workflow_id"] for line in server.log if line["event"] == "workflow_lost"]
    return {started[key - 1] for key in keys} | set(lost)


async def finish_all(server: OnAVolume, caller: Caller) -> list[str]:
    """Let workflows that wait go on, as far as they can; answer who cannot."""
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
async def test_a_file_that_is_no_store_any_more_is_refused_and_left_alone(
    on_a_directory: OnAVolume, damage: str
) -> None:
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
async def test_of_a_file_with_a_hole_the_rest_is_served_and_health_says_so(
    on_a_directory: OnAVolume, damaged: str
) -> None:
    server = on_a_directory
    server.start()
    async with calling(server) as caller:
        await fill(server, caller)
        copy, effects = server.store.read_bytes(), server.effects.read_bytes()
        replies = list(caller.replies)
        if damaged == "while it serves":
            # Not what waits: when it was taken over, its pages were read, and written anew to the log.
            server.start()
            overwrite_events(server.store, SAID)
        else:
            overwrite_events(server.store, WAITS)
            server.start(wait=False)
            await server.says(503, ADVICE, reasons=1)
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
        # With the copy everybody goes on, from where it was made.
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


async def test_what_was_under_way_and_can_be_read_goes_on_in_a_damaged_file(on_a_directory: OnAVolume) -> None:
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
        await server.says(503, ADVICE, reasons=1)  # It has recovered all the same.
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
    server.environment["MENDFLOW_PROBE_INTERVAL"] = "60"  # So that nothing is written but by the callers.
    server.start()
    log = log_of(server.store)
    async with calling(server) as caller:
        for number in range(10):
            await caller.start("wait_for", f"{number}", f"wait-{number}")
            await caller.start("three", f"{number}", f"three-{number}")
            await caller.end(f"three-{number}")
        replies, size = list(caller.replies), log.stat().st_size
        # The loss of power takes this one while its commit is on its way: nobody is told of it.
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
