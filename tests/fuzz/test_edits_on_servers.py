"""Code that changes between the lives of a real server: no effect runs under two keys, and a rollback continues."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from hypothesis import example, given
from hypothesis import strategies as st

from mendflow.v1 import workflow_pb2
from tests.fuzz.acting import PATIENCE, act
from tests.fuzz.deployed import Deployed
from tests.fuzz.edited_world import MANY
from tests.fuzz.edits import ALL_EDITS, DEPLOYED, RAN, SIGNALS, Leaf, Node, deployed_program, edited, edits_of, programs
from tests.fuzz.forms import fuzz
from tests.support.promises import read_store
from tests.support.servers import serving
from tests.support.workflow_states import at_rest

if TYPE_CHECKING:
    from collections import Counter

    import pytest

    from mendflow import WorkflowHandle
    from tests.fuzz.edits import Edit

_SERVED = {deployed_program.name: deployed_program}
_sent = st.lists(st.sampled_from([*SIGNALS, *SIGNALS, "pause", "pause", "cancel"]), max_size=4)


async def finish(handle: WorkflowHandle[Any], *, may_pause: bool) -> None:
    """Send what the workflow waits for until it has ended. Terminate it if it may pause and pauses again."""
    resumed = seen = 0
    async with asyncio.timeout(PATIENCE):
        while not (found := await handle.get()).HasField("end_time"):
            if found.state == workflow_pb2.WORKFLOW_STATE_PAUSED:
                await act(handle, ["terminate" if resumed and may_pause else "resume"])
                resumed += 1
                assert resumed < MANY, found.explanation
            elif found.last_sequence == seen:
                await act(handle, SIGNALS)
            seen = found.last_sequence
            await asyncio.sleep(0.005)


@fuzz(25, 1_000)
@given(
    crowd=st.lists(
        st.tuples(programs, st.lists(edits_of(*ALL_EDITS), max_size=1), _sent, _sent), min_size=4, max_size=4
    ),
    stop=st.sampled_from(["drain", "close"]),
)
@example(
    # Each is replayed when a signal comes. What the replay adds before it pauses is a wait, a value or a timer.
    crowd=[
        (Node("sequence", (Leaf("step", "a", 1), Leaf("signal", "s"), *after)), [edits], ["pause"] * 3, ["t"])
        for after, edits in [
            ((Leaf("step", "b", 2),), [("rename", 1, 0, 1)]),
            ((Leaf("step", "b", 2),), [("remove", 0, 0, 0), ("rename", 0, 0, 1)]),
            ((Leaf("sleep"),), [("swap", 1, 2, 0)]),
            ((Leaf("now"), Leaf("step", "b", 2)), [("swap", 1, 2, 0), ("swap", 2, 3, 0)]),
        ]
    ],
    stop="drain",
)
async def test_any_edits_on_a_real_server_run_no_effect_under_two_keys_and_a_rollback_continues(
    crowd: list[tuple[Node, list[list[Edit]], list[str], list[str]]],
    stop: str,
    tmp_path_factory: pytest.TempPathFactory,
    seen: Counter[str],
) -> None:
    directory = tmp_path_factory.mktemp("lives")
    RAN.clear()
    stories = [
        Deployed(f"w{index}", [program, edited(program, edits[0], 100) if edits else program, program])
        for index, (program, edits, _, _) in enumerate(crowd)
    ]
    for life in range(3):
        DEPLOYED.update({story.id: story.programs[life] for story in stories})
        async with serving(directory, definitions=_SERVED, evict_after=0.01, drain_timeout=0.2) as server:
            handles = [server.client.handle(story.id) for story in stories]
            if life == 0:
                for story in stories:
                    await server.client.start(deployed_program, story.id, id=story.id)
            if life == 1:
                await asyncio.gather(*(at_rest(server.client, story.id) for story in stories))
            if life == 2:
                ends = (finish(each, may_pause=bool(story.new)) for each, story in zip(handles, stories, strict=True))
                await asyncio.gather(*ends)
            else:
                sent = [acts[life] for _, _, *acts in crowd]
                await asyncio.gather(*map(act, handles, sent))
            if stop == "drain":
                await server.app.drain()
        stored = read_store(directory / "mendflow.db").histories
        for story in stories:
            story.histories.append(stored[story.id])
    for story in stories:
        story.check()
        seen.update(
            unedited=story.programs[0] == story.programs[1],
            paused=story.paused_from(0),
            rolled_back_from_pause=story.paused_from(0) and not story.new,
        )
