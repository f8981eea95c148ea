"""`mendflow export` writes a whole history to a file, and `mendflow.testing.replay` runs code against it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import any_pb2, struct_pb2

from mendflow import Client, gather, sleep, step, wait_signal, workflow
from mendflow.histories import BadHistory, history_text, read_history
from mendflow.testing import Replay, ReplayFailed, replay
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2
from tests.support.command_line import run_command
from tests.support.servers import free_port, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import ServerProcess

COMMAND = [sys.executable, "-m", "mendflow.cli"]
SECONDS = 60
MODULE = """
import os
from google.protobuf.struct_pb2 import Struct
from mendflow import PermanentError, now, random, sleep, step, wait_signal, workflow

@step
async def reserve(order: str) -> float:
    with open(os.environ["MENDFLOW_TEST_JOURNAL"], "a") as journal:
        journal.write("reserve\\n")
    return 0.1

@step
async def authorize(order: str) -> dict: return {"€": "Zoë\\u2028\\x00", "big": 2**60}

@step
async def refuse(): raise PermanentError("no")

@workflow
async def order(id: str) -> float:
    await reserve(id); await authorize(id)
    await wait_signal("approve"); random(); now()
    return await reserve(id)

@workflow
async def refused(id: str): await refuse()

@workflow
async def message(value: Struct) -> Struct: return value
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with a workflow that waits, one that has ended, one that failed, and one of messages."""
    directory = tmp_path_factory.mktemp("exported")
    (directory / "shop.py").write_text(MODULE, encoding="utf-8")
    with serving_process(directory, modules=("shop",)) as process:

        async def begin() -> None:
            async with Client(process.grpc_address) as client:
                for each in ("waits", "ends"):
                    await client.start("order", each, id=each)
                await client.signal("ends", "approve", {"by": "Zoë"})
                await client.get("ends", wait=20)
                await client.start("refused", "x", id="fails")
                await client.get("fails", wait=20)
                value = struct_pb2.Struct()
                value.update({"a": 1})
                await client.run("message", value, id="message")
                while (await client.get("waits")).state != workflow_pb2.WORKFLOW_STATE_WAITING:
                    await asyncio.sleep(0.01)

        asyncio.run(begin())
        yield process


def run(server: ServerProcess, *arguments: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    variables = {"MENDFLOW_SERVER": server.grpc_address, **variables}
    return run_command(["export", *arguments], variables, directory=server.directory)


def exported(server: ServerProcess, workflow_id: str) -> dict[str, Any]:
    done = run(server, workflow_id)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def stored(server: ServerProcess, workflow_id: str) -> list[bytes]:
    async def read() -> list[bytes]:
        async with Client(server.grpc_address) as client:
            events = client.handle(workflow_id).events()
            return [event.SerializeToString(deterministic=True) async for event in events]

    return asyncio.run(read())


@pytest.mark.parametrize("name", ["waits", "ends", "fails", "message"])
def test_an_exported_history_has_each_events_own_bytes(server: ServerProcess, name: str, tmp_path: Path) -> None:
    out = tmp_path / "histories" / f"{name}.json"
    done = run(server, name, "--out", str(out))
    assert done.returncode == 0, done.stderr
    history = read_history(out)
    assert history.workflow_id == name
    assert history.events == stored(server, name)
    assert [path.name for path in out.parent.iterdir()] == [f"{name}.json"]
    # Each export is the same, also on standard output and in any locale.
    assert run(server, name, PYTHONIOENCODING="ascii").stdout == out.read_bytes()
    assert read_history(json.loads(out.read_bytes())) == history


def test_payloads_are_readable_where_that_is_exact(server: ServerProcess) -> None:
    events = exported(server, "waits")["events"]
    assert events[0]["workflow_started"]["input"] == {"json": '"waits"'}
    assert all("bytes" not in event for event in events)
    assert "bytes" in exported(server, "message")["events"][0]


def test_what_protobuf_json_would_lose_is_kept_as_bytes() -> None:
    unknown = event_pb2.Event.FromString(b"\x08\x01\xfa\x3f\x00")
    message = event_pb2.Event(sequence=2)
    message.attempt_succeeded.output.message.CopyFrom(any_pb2.Any(type_url="x/not.Known", value=b"\xff\x00"))
    nested = event_pb2.Event(sequence=3)
    nested.attempt_failed.failure.CopyFrom(failure_pb2.Failure(message="a", cause=failure_pb2.Failure(message="b")))
    text = history_text("id", "type", [unknown, message, nested])
    found = json.loads(text)
    assert ["bytes" in event for event in found["events"]] == [True, True, False]
    assert read_history(found).events == [
        event.SerializeToString(deterministic=True) for event in (unknown, message, nested)
    ]


def test_an_export_that_is_refused_leaves_no_file_and_has_its_exit_code(server: ServerProcess, tmp_path: Path) -> None:
    out = tmp_path / "history.json"
    out.write_text("as it was", encoding="utf-8")
    missing = run(server, "no-such-id", "--out", str(out))
    assert missing.returncode == 1
    assert b"error: " in missing.stderr
    gone = run(server, "waits", "--out", str(out), "--server", f"127.0.0.1:{free_port()}")
    assert gone.returncode == 3
    (tmp_path / "file").touch()
    nowhere = run(server, "waits", "--out", str(tmp_path / "file" / "history.json"))
    assert nowhere.returncode == 1
    assert b"cannot be written" in nowhere.stderr
    assert run(server, "waits", "--out", str(tmp_path)).returncode == 2
    full = run(server, "waits", "--out", "/dev/full/x")
    assert full.returncode == 1
    assert out.read_text(encoding="utf-8") == "as it was"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "history.json"]


# Replaying.


@step
async def reserve(order: str) -> float:
    raise AssertionError("a replay runs no step")


@step
async def authorize(order: str) -> dict[str, Any]:
    raise AssertionError("a replay runs no step")


@step
async def authorise(order: str) -> dict[str, Any]:
    raise AssertionError("a replay runs no step")


def code(*steps: Any, ends: bool = True) -> Any:
    @workflow(name="order")
    async def order(id: str) -> float:
        for each in steps:
            await each(id)
        await wait_signal("approve")
        if not ends:
            await sleep(days=1)
        return await reserve(id)

    return order


@pytest.mark.parametrize("name", ["waits", "ends"])
def test_replay_of_code_that_fits_returns_how_far_it_got(server: ServerProcess, name: str) -> None:
    lines = list(server.journal)
    found = replay(code(reserve, authorize), exported(server, name))
    assert found == (Replay((), "") if name == "waits" else Replay((), "returned"))
    assert server.journal == lines


def test_replay_of_a_renamed_step_fails_with_the_servers_explanation(server: ServerProcess, tmp_path: Path) -> None:
    path = tmp_path / "order.json"
    run(server, "waits", "--out", str(path))
    with pytest.raises(ReplayFailed, match=r"step authorise, which is not recorded,.* step authorize \(event \d+\)"):
        replay(code(reserve, authorise), path)
    with pytest.raises(AssertionError):
        replay(code(reserve, authorise), str(path))
    assert replay(code(reserve, authorise.with_options(key="authorise", inserted=True), authorize), path).ending == ""


def test_replay_returns_removed_calls_and_fails_on_another_end_or_type(server: ServerProcess) -> None:
    waits, ends = exported(server, "waits"), exported(server, "ends")
    (unclaimed,) = replay(code(reserve), waits).unclaimed
    assert unclaimed.startswith("step authorize (event ")
    with pytest.raises(ReplayFailed):
        replay(code(reserve), ends)
    with pytest.raises(ReplayFailed):
        replay(code(reserve, authorize, ends=False), ends)

    @workflow
    async def renamed(id: str) -> None:
        await gather()

    with pytest.raises(ReplayFailed, match="has type 'order'"):
        replay(renamed, waits)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "not None"),
        ('{"format": "mendflow.history/1"}', "must have workflow_id"),
        ('{"format": "mendflow.history/1", "workflow_id": "a", "workflow_type": "b", "events": [1]}', "event 1"),
        (
            '{"format": "mendflow.history/1", "workflow_id": "a", "workflow_type": "b", "events": [{"bytes": "?"}]}',
            "event 1",
        ),
        (
            '{"format": "mendflow.history/1", "workflow_id": "a", "workflow_type": "b", "events": [{"sequence": 2}]}',
            "not 2",
        ),
    ],
)
def test_a_file_that_is_no_history_is_refused_with_its_name(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "history.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(BadHistory, match=words) as refused:
        replay(code(), path)
    assert str(path) in str(refused.value)


def test_without_the_server_extra_replay_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['mendflow_server'] = None\n"
        "from mendflow import workflow\nfrom mendflow.testing import replay\n"
        "@workflow\nasync def w(): ...\nreplay(w, {})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "replay needs the server" in done.stderr
    assert "pip install 'mendflow[server]'" in done.stderr
