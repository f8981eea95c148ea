"""One history, watched in pieces: whatever the pieces, the filter and the frames, together they are the history.

MENDFLOW_SEED=number tries other pieces. A failure names its seed and the pieces.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import grpc
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from mendflow.v1 import event_pb2, workflow_service_pb2
from mendflow_server.engine import watch_hub
from tests.support.load_workflows import Leg, errand
from tests.support.promises import Evidence, Promise, Watched, broken, read_store
from tests.support.scale import scaled
from tests.support.servers import serving
from tests.support.watchers import of_kinds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import Server

SEED = int(os.environ.get("MENDFLOW_SEED") or "1")
KINDS = [kind for kind in event_pb2.EventKind.values() if kind]
ROUND = [
    Leg("steps", 3),
    Leg("gather", 3),
    Leg("sleep", 2),
    Leg("signal", signal="never", seconds=0.01),
    Leg("values"),
    Leg("refused"),
]
LEGS = [Leg("signal", signal="go"), *ROUND, *ROUND]
#: How many of the newest events a topic keeps: few, so that watches switch from the store to it.
RING = 25


@dataclass(frozen=True)
class Piece:
    """A part of a watch: a number of frames, up to their last_sequence, or of sequences, also within a frame."""

    frames: int = 0
    sequences: int = 0


@dataclass(frozen=True)
class Subject:
    """A workflow, and its whole history."""

    workflow_id: str
    history: list[event_pb2.Event] = field(repr=False)
    ended: bool = False


PIECES = st.lists(
    st.builds(Piece, frames=st.integers(1, 4)) | st.builds(Piece, sequences=st.integers(0, 60)), max_size=12
)
FILTERS = st.just(()) | st.lists(st.sampled_from(KINDS), min_size=1, max_size=6, unique=True).map(tuple)


async def watched(server: Server, subject: Subject, after: int, kinds: tuple[int, ...], piece: Piece | None) -> Any:
    """Watch one piece, or the rest, and return its events and the cursor. Each frame must cover all between cursors."""
    end = len(subject.history)
    until = min(after + piece.sequences, end) if piece and not piece.frames else end
    request = workflow_service_pb2.WatchWorkflowRequest(
        workflow_id=subject.workflow_id,
        after_sequence=after,
        kinds=kinds,  # type: ignore[arg-type]  # an enum's numbers
    )
    call = server.stub.WatchWorkflow(request)
    found: list[event_pb2.Event] = []
    cursor, frames = after, 0
    try:
        # While the workflow has not ended, only signs of life follow its newest event.
        while (cursor < until or (piece is None and subject.ended)) and not (piece and 0 < piece.frames == frames):
            frame = await call.read()
            if frame is grpc.aio.EOF:
                assert cursor == end
                break
            assert list(frame.events) == of_kinds(subject.history[cursor : frame.last_sequence], kinds)
            assert cursor < frame.last_sequence <= end
            found += frame.events
            cursor = frame.last_sequence
            frames += 1
        else:
            assert piece is not None or not subject.ended, "the stream must report its end"
    finally:
        call.cancel()
    cut = cursor if piece is None or piece.frames else until
    return [event for event in found if event.sequence <= cut], cut


async def prepare(server: Server, workflow_id: str, legs: list[Leg], kind: str) -> Subject:
    """Run a workflow up to an event of this kind, with a watcher from its beginning that never reads."""
    handle = await server.client.start("errand", [asdict(leg) for leg in legs], id=workflow_id)
    idle = server.stub.WatchWorkflow(workflow_service_pb2.WatchWorkflowRequest(workflow_id=workflow_id))
    await idle.initial_metadata()
    await handle.signal("go", "x")
    async for event in handle.watch():
        if event.HasField(kind) and (kind != "signal_awaited" or event.signal_awaited.name == "over"):  # type: ignore[arg-type]  # a field's name
            break
    history = [event async for event in handle.events()]
    return Subject(workflow_id, history, ended=kind == "workflow_succeeded")


@contextlib.asynccontextmanager
async def subjects(directory: Path) -> Any:
    """Two histories: one that has ended, and one whose newest events are still in memory."""
    async with serving(directory, definitions={"errand": errand}) as server:
        ended = await prepare(server, "ended", [*LEGS, Leg("progress", 3)], "workflow_succeeded")
        # No progress reports here: the last one may come a second later, and this history must not grow.
        waiting = await prepare(server, "waiting", [*LEGS, Leg("signal", signal="over")], "signal_awaited")
        yield server, (ended, waiting)


@pytest.mark.timeout(scaled(60, 600))
def test_history_watched_in_any_pieces_is_complete(tmp_path: Path) -> None:
    tried = 0
    wholes: dict[tuple[int, ...], Watched] = {}
    with asyncio.Runner() as runner, mock.patch.object(watch_hub, "RING_EVENTS", RING):
        context = subjects(tmp_path)
        server, (ended, waiting) = runner.run(context.__aenter__())
        assert len(ended.history) > 100

        @seed(SEED)
        @settings(max_examples=scaled(150, 5_000), deadline=None, database=None, print_blob=True)
        @given(
            has_ended=st.booleans(),
            kinds=FILTERS,
            pieces=PIECES,
            frame_events=st.sampled_from((1, 3, 10, 200)),
            frame_bytes=st.sampled_from((1, 1_000, 1 << 20)),
        )
        def any_split(
            *, has_ended: bool, kinds: tuple[int, ...], pieces: list[Piece], frame_events: int, frame_bytes: int
        ) -> None:
            nonlocal tried
            tried += 1
            subject = ended if has_ended else waiting

            async def in_pieces() -> list[event_pb2.Event]:
                cursor = 0
                found: list[event_pb2.Event] = []
                async with asyncio.timeout(30):
                    for piece in (*pieces, None):
                        events, cursor = await watched(server, subject, cursor, kinds, piece)
                        found += events
                assert cursor == len(subject.history)
                return found

            with mock.patch.multiple(watch_hub, FRAME_EVENTS=frame_events, FRAME_BYTES=frame_bytes):
                found = runner.run(in_pieces())
            if has_ended:
                wholes[kinds] = Watched(subject.workflow_id, kinds, 0, found, ended=True)
            assert found == of_kinds(subject.history, kinds)

        try:
            any_split()
        except BaseException as error:
            error.add_note(f"{Promise.FAITHFUL_WATCH}: MENDFLOW_SEED={SEED}")
            raise
        finally:
            runner.run(context.__aexit__(None, None, None))
    # The reference for the pieces equals the stored history. One of the two workflows waits to the end.
    stored = read_store(tmp_path / "mendflow.db")
    wrong = broken(Evidence(stored, watched=list(wholes.values()), over=False))
    assert not wrong, "\n".join([f"MENDFLOW_SEED={SEED}", *map(str, wrong)])
    assert stored.histories["waiting"][: len(waiting.history)] == waiting.history
    assert tried >= 100
