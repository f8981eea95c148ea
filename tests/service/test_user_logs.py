"""What users' code logs: at the server's level, with its workflow and attempt, and once although code is replayed."""

from __future__ import annotations

import importlib
import logging
import sys
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from mendflow import Client, workflow_info
from mendflow.errors import NotInWorkflow
from mendflow_server.telemetry.user_logs import UserLogs
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODULES = ("tests.support.logging_workflows",)
WORKFLOW = {"workflow_id": "l", "workflow_type": "logs"}


def users_lines(server: ServerProcess) -> list[tuple[str, str, dict[str, Any]]]:
    """Return the event, the level and the code of each line that the workflow's module logged."""
    names = ("on the loop", "structured", "on a thread", "began", "between", "waits", "went", "too detailed")
    code = ("workflow_id", "workflow_type", "step_key", "attempt")
    return [
        (line["event"], line["level"], {name: line[name] for name in code if name in line})
        for line in server.log
        if str(line["event"]).startswith(names)
    ]


async def test_lines_of_users_code_have_their_code_and_are_not_repeated_by_a_replay(tmp_path: Path) -> None:
    with serving_process(tmp_path, modules=MODULES) as server:
        async with Client(server.grpc_address) as client:
            handle = await client.start("logs", 7, id="l", labels={"team": "a"})
            async for event in handle.watch():
                if event.HasField("signal_awaited"):
                    break
            server.kill()
            server.start()
            await handle.signal("go", "now")
            text = await handle.result(timeout=20)
            started = (await handle.get()).create_time
        workflow_id, workflow_type, team, start_time = str(text).split()
        lines = users_lines(server)
    assert (workflow_id, workflow_type, team) == ("l", "logs", "a")
    assert abs(datetime.fromisoformat(start_time).timestamp() - started.ToNanoseconds() / 1e9) < 1
    first, second = ({**WORKFLOW, "step_key": "on_the_loop", "attempt": number} for number in (1, 2))
    assert lines == [
        ("began", "info", WORKFLOW),
        ("on the loop 7", "info", first),
        ("structured", "info", first),
        ("on the loop 7", "info", second),
        ("structured", "info", second),
        ("between", "info", WORKFLOW),
        ("on a thread", "warning", {**WORKFLOW, "step_key": "on_a_thread", "attempt": 1}),
        ("waits", "info", WORKFLOW),
        ("went", "info", WORKFLOW),
    ]


@pytest.mark.parametrize(
    ("path", "level", "name", "passes"),
    [
        ("/srv/app/flows.py", logging.INFO, "flows", True),
        ("/v/lib/python3.11/site-packages/httpx/_client.py", logging.INFO, "httpx", False),
        ("/v/lib/python3.11/site-packages/httpx/_client.py", logging.WARNING, "httpx", True),
        ("/v/lib/python3.11/site-packages/shop/flows.py", logging.INFO, "shop.flows", True),
    ],
)
def test_lines_of_libraries_pass_from_warning_on(path: str, level: int, name: str, *, passes: bool) -> None:
    users = UserLogs(all_libraries=False)
    users.serve("shop.flows")
    record = logging.LogRecord(name, level, path, 1, "text", (), None)
    assert users.filter(record) is passes
    assert UserLogs(all_libraries=True).filter(record)


def test_workflow_info_is_refused_outside_a_workflow() -> None:
    with pytest.raises(NotInWorkflow, match="works only inside a workflow"):
        workflow_info()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder of installed code: a package, a package below a namespace, and single modules."""
    root = tmp_path / "lib/python3.11/site-packages"
    for name in ("acme/__init__.py", "acme/flows.py", "space/shop/__init__.py", "space/shop/flows.py", "alone.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("from mendflow import workflow\n\n\n@workflow\nasync def runs() -> None: ...\n")
    monkeypatch.syspath_prepend(str(root))
    before = set(sys.modules)
    yield root
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("served", "path", "passes"),
    [
        ("acme.flows", "acme/flows.py", True),
        ("acme.flows", "acme/deep/steps.py", True),
        ("acme.flows", "acme_other/steps.py", False),
        ("acme.flows", "acme/.venv/lib/python3.11/site-packages/httpx/_client.py", False),
        ("acme.flows", "httpx/_client.py", False),
        ("acme.flows", "alone.py", False),
        ("space.shop.flows", "space/shop/steps.py", True),
        ("space.shop.flows", "space/library/client.py", False),
        ("alone", "alone.py", True),
        ("alone", "six.py", False),
        ("alone", "acme/flows.py", False),
    ],
)
def test_lines_of_installed_code_of_served_workflows_pass_under_any_name(
    installed: Path, served: str, path: str, *, passes: bool
) -> None:
    users = UserLogs(all_libraries=False)
    users.serve(importlib.import_module(served).runs.function.__module__)
    for name in ("orders", "root"):
        record = logging.LogRecord(name, logging.INFO, str(installed / path), 1, "text", (), None)
        assert users.filter(record) is passes
