"""Faults of watches: frames that are lost or repeated."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from mendflow_server.engine.engine import Engine
from mendflow_server.engine.watch_hub import WatchHub

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow.v1.workflow_service_pb2 import WatchWorkflowResponse
    from tests.support.build import Build


def dropped_frame(build: Build) -> Build:
    """Each watch loses its first frame with events."""
    return _change_frames(build, 0)


def repeated_frame(build: Build) -> Build:
    """Each watch sends its first frame with events twice."""
    return _change_frames(build, 2)


def _change_frames(build: Build, times: int) -> Build:
    class Changed(WatchHub):
        async def watch(self, workflow_id: str, **options: Any) -> AsyncIterator[WatchWorkflowResponse]:
            first = True
            async for frame in super().watch(workflow_id, **options):
                for _ in range(times if first and frame.events else 1):
                    yield frame
                first = first and not frame.events

    return build.with_parts(engine=functools.partial(Engine, watch_hub=Changed))
