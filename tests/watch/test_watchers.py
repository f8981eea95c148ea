"""The judge of frames must report each fault that a stream can have, and no faithful stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mendflow.v1 import event_pb2, workflow_service_pb2
from tests.support.watchers import RawWatch, Stream, unfaithful

if TYPE_CHECKING:
    from collections.abc import Sequence

STARTED = event_pb2.EVENT_KIND_ATTEMPT_STARTED


def event(sequence: int) -> event_pb2.Event:
    """Return an attempt's start for an odd sequence, and its success for an even one."""
    made = event_pb2.Event(sequence=sequence)
    (made.attempt_started if sequence % 2 else made.attempt_succeeded).step_key = str(sequence)
    return made


HISTORY = [event(sequence) for sequence in range(1, 9)]


def stream(after: int, *frames: tuple[Sequence[int], int], ended: bool = False) -> Stream:
    return Stream(
        after,
        [
            workflow_service_pb2.WatchWorkflowResponse(events=[event(each) for each in sequences], last_sequence=last)
            for sequences, last in frames
        ],
        ended,
    )


@pytest.mark.parametrize(
    "watch",
    [
        RawWatch("w", (), 0, [stream(0, ((1, 2, 3), 3)), stream(3, ((), 3), ((4, 5, 6, 7, 8), 8), ended=True)]),
        RawWatch("w", (STARTED,), 2, [stream(2, ((3,), 4)), stream(4), stream(4, ((5, 7), 7), ((), 8), ended=True)]),
        RawWatch("w", (), 8, [stream(8, ended=True)]),
    ],
)
def test_a_faithful_watch_is_not_blamed(watch: RawWatch) -> None:
    assert list(unfaithful(watch, HISTORY)) == []


@pytest.mark.parametrize(
    ("kinds", "streams", "fault"),
    [
        ((), [stream(0, ((1, 2, 4, 5, 6, 7, 8), 8), ended=True)], "sent [1, 2, 4, 5, 6, 7, 8] for the events between"),
        ((), [stream(0, ((1, 2, 3), 3), ((3, 4, 5, 6, 7, 8), 8), ended=True)], "stream 1 sent [3, 4"),
        ((), [stream(0, ((2, 1, 3, 4, 5, 6, 7, 8), 8), ended=True)], "stream 1 sent [2, 1"),
        ((), [stream(0, ((1, 2), 2), ((), 1), ((3, 4, 5, 6, 7, 8), 8), ended=True)], "went back from 2 to 1"),
        ((), [stream(0, ((1, 2), 5), ((6, 7, 8), 8), ended=True)], "sent [1, 2] for the events between 0 and 5"),
        ((), [stream(0, ((1, 2), 2), ended=True)], "ended after 2 of 8"),
        ((), [stream(0, ((1, 2, 3, 4, 5, 6, 7, 8), 8))], "it did not end"),
        ((), [stream(0, ((1, 2, 3, 4, 5, 6, 7, 8, 9), 9), ended=True)], "sent the cursor 9 of 8 events"),
        ((), [stream(0, ((1, 2), 2)), stream(1, ((2, 3, 4, 5, 6, 7, 8), 8), ended=True)], "began after 1, not 2"),
        ((STARTED,), [stream(0, ((1, 2, 3, 5, 7), 8), ended=True)], "stream 1 sent [1, 2, 3, 5, 7]"),
        ((STARTED,), [stream(0, ((1, 3), 5), ((7,), 8), ended=True)], "sent [1, 3] for the events between 0 and 5"),
        ((STARTED,), [stream(0, ((1, 3, 5, 7), 7), ended=True)], "ended after 7 of 8"),
    ],
)
def test_each_fault_is_reported(kinds: tuple[int, ...], streams: list[Stream], fault: str) -> None:
    assert any(fault in each for each in unfaithful(RawWatch("w", kinds, 0, streams), HISTORY))


def test_an_event_that_is_not_the_stored_one_is_reported() -> None:
    watch = RawWatch("w", (), 0, [stream(0, (range(1, 9), 8), ended=True)])
    watch.streams[0].frames[0].events[3].attempt_succeeded.step_key = "another"
    assert any("over all streams" in each for each in unfaithful(watch, HISTORY))
