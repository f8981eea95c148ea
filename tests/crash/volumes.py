"""A server whose store is on a disk that a test makes fail, and callers that keep their replies."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mendflow import Client
from mendflow.errors import ServerUnavailable
from mendflow_server.history.state import FINAL_STATES
from tests.support.load_workflows import EFFECTS
from tests.support.mounting import fill, mount, unmount
from tests.support.promises import Broken, Evidence, Reply, broken, read_effects, read_store
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

#: Low limits, so that health and callers learn of a problem in less than a second.
SOON = {
    "MENDFLOW_COMMIT_AGE_LIMIT": "0.5",
    "MENDFLOW_PROBE_INTERVAL": "0.2",
    "MENDFLOW_COMMIT_PATIENCE": "0.5",
    "MENDFLOW_GOOD_PROBES": "1",
}


@dataclass
class OnAVolume(ServerProcess):
    """A server with its store in a directory of its own. Its log and the steps' effects are beside that directory."""

    modules: tuple[str, ...] = ("tests.support.load_workflows",)
    environment: dict[str, str] = field(default_factory=lambda: dict(SOON))

    @property
    def volume(self) -> Path:
        """The store's directory. No advice contains this word."""
        return self.directory / "volume"

    @property
    def store(self) -> Path:
        """The SQLite file."""
        return self.volume / "mendflow.db"

    @property
    def effects(self) -> Path:
        """The journal of the steps' real executions, one line for each."""
        return self.directory / EFFECTS

    @property
    def words(self) -> str:
        """Everything that the server has printed."""
        return (self.directory / "server.log").read_text("utf-8", errors="replace")

    def errors(self, event: str) -> list[str]:
        """Return the errors in the log lines of one event."""
        return [line["error"] for line in self.log if line["event"] == event]

    async def says(self, status: int, *texts: str, path: str = "/health", reasons: int | None = None) -> list[str]:
        """Wait until the health has this status, and these texts in its reasons, of which there are ``reasons``."""
        for _ in range(1_000):
            code, body = await asyncio.to_thread(self.health, path)
            found: list[str] = body.get("reasons", [])
            enough = reasons is None or len(found) == reasons
            if code == status and enough and all(any(text in reason for reason in found) for text in texts):
                return found
            assert self.process is None or self.process.poll() is None, self.words[-4_000:]
            await asyncio.sleep(0.02)
        raise AssertionError(f"{path} does not return {status} {texts}: {self.health(path)}")

    def refused(self) -> str:
        """Start the server, which must end with the exit code of a refusal, and return its last output: one line."""
        before = len(self.words) if self.process else 0
        self.start(wait=False)
        assert self.wait_died() == 1
        words = self.words[before:].strip()
        assert words.startswith("error: "), words
        assert "\n" not in words, words
        return words


@dataclass
class Caller:
    """A client that does not retry by itself, and its replies."""

    client: Client
    replies: list[Reply] = field(default_factory=list)

    async def start(self, workflow_type: str, value: Any, workflow_id: str) -> None:
        """Start a workflow."""
        handle = await self.client.start(workflow_type, value, id=workflow_id)
        self.replies.append(Reply("started", workflow_id, (await handle.get()).uid))

    async def signal(self, workflow_id: str) -> None:
        """Send the signal go."""
        await self.client.signal(workflow_id, "go", "on", request_id=f"go-{workflow_id}")
        self.replies.append(Reply("signalled", workflow_id, f"go-{workflow_id}"))

    async def end(self, workflow_id: str) -> int:
        """Wait for a workflow's end, and return its state."""
        while (workflow := await self.client.get(workflow_id, wait=5.0)).state not in FINAL_STATES:
            pass
        self.replies.append(Reply("result", workflow_id, workflow))
        return workflow.state

    async def all_end(self) -> list[str]:
        """Wait for the end of all workflows, including those without a reply, and return their ids."""
        there = [workflow.workflow_id async for workflow in self.client.list()]
        for workflow_id in there:
            await self.end(workflow_id)
        return there

    async def start_until_refused(self, value: Any, times: int = 2) -> None:
        """Start workflows until this many starts were refused."""
        refused = 0
        for number in range(200):
            try:
                await self.start("three", value, f"during-{number}")
            except ServerUnavailable:
                refused += 1
            if refused == times:
                return
        raise AssertionError("the disk accepted everything")


@contextlib.asynccontextmanager
async def calling(server: ServerProcess) -> AsyncIterator[Caller]:
    """Call a server."""
    async with Client(server.grpc_address, timeout=8.0, retry_for=0.0) as client:
        yield Caller(client)


def breaches(server: OnAVolume, replies: list[Reply], *, over: bool = True) -> list[Broken]:
    """Return the promises that the checker finds broken in what a server left."""
    return broken(Evidence(read_store(server.store), read_effects(server.effects), replies, over=over))


# --- troubles -------------------------------------------------------------------------------------


@contextlib.contextmanager
def full(server: OnAVolume) -> Iterator[None]:
    """Fill the disk."""
    ballast = fill(server.volume)
    yield
    ballast.unlink()


@contextlib.contextmanager
def refuses_to_grow(server: OnAVolume) -> Iterator[None]:
    """Make the kernel refuse every write that would make a file longer than the log is now, as an I/O error."""
    assert server.process is not None
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    size = server.store.with_name(f"{server.store.name}-wal").stat().st_size
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
    try:
        yield
    finally:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)


@contextlib.contextmanager
def locked(server: OnAVolume) -> Iterator[None]:
    """Hold the write lock as another program does. To the server the disk takes forever."""
    with contextlib.closing(sqlite3.connect(server.store, isolation_level=None)) as other:
        other.execute("begin immediate")
        yield
        other.execute("rollback")


@contextlib.contextmanager
def read_only(server: OnAVolume) -> Iterator[None]:
    """Mount the directory read-only.

    The kernel does not make a file system read-only while files on it are open for writing, except after a disk error.
    So the server meets an error first, on the files that it has open, and read-only files when it opens them again.
    """
    with refuses_to_grow(server):
        mount(server.volume, "--bind", str(server.volume))
        try:
            mount(server.volume, "-o", "remount,bind,ro")
            yield
        finally:
            unmount(server.volume)
