"""The test kit: its pytest plugin, in runs of pytest of their own."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.proof

WORKFLOW = """
from mendflow import RetryPolicy, TransientError, sleep, step, workflow

@step(retry=RetryPolicy(max_attempts=3))
async def charge(order: int) -> str:
    raise TransientError("bank")

@workflow
async def place_order(order: int) -> str:
    return await charge(order)
"""


def run_pytest(folder: Path, *options: str, **files: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on these modules, without the plugins for asyncio."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:anyio"]
    if not importlib.metadata.entry_points(group="pytest11", name="mendflow"):
        command += ["-p", "pytest_mendflow"]  # This environment was installed before the plugin.
    return subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def test_the_fixture_works_without_any_plugin_for_asyncio(tmp_path: Path) -> None:
    test = "from shop import charge, place_order\n\ndef test_order(mendflow_env):\n"
    test += "    env = mendflow_env(place_order)\n    env.fake(charge, [OSError('x'), 'receipt'])\n"
    test += "    run = env.start(place_order, 1)\n    assert run.result() == 'receipt'\n"
    test += "    assert run.history.attempts(charge) == 2\n"
    done = run_pytest(tmp_path, shop=WORKFLOW, test_shop=test)
    assert done.returncode == 0, done.stdout


def test_a_failed_count_shows_the_history(tmp_path: Path) -> None:
    test = "from shop import charge, place_order\n\ndef test_order(mendflow_env):\n"
    test += "    env = mendflow_env(place_order)\n    env.fake(charge, [OSError('x'), 'receipt'])\n"
    test += "    run = env.start(place_order, 1)\n    run.result()\n"
    test += "    assert run.history.attempts(charge) == 3\n"
    done = run_pytest(tmp_path, shop=WORKFLOW, test_shop=test)
    assert done.returncode == 1, done.stdout
    assert "attempts of charge: 2 == 3" in done.stdout
    assert "charge attempt 1 failed: OSError: x (transient)" in done.stdout


def test_a_run_without_the_fixture_imports_nothing_of_mendflow(tmp_path: Path) -> None:
    test = "import sys\n\ndef test_other():\n"
    test += "    assert not {'mendflow', 'mendflow_server', 'grpc'} & set(sys.modules)\n    assert 2 == 2\n"
    done = run_pytest(tmp_path, test_other=test)
    assert done.returncode == 0, done.stdout


def test_mendflow_and_its_test_kit_import_without_pytest_and_without_the_server(tmp_path: Path) -> None:
    for missing in ("pytest", "mendflow_server"):
        (tmp_path / missing).mkdir()
        (tmp_path / missing / "__init__.py").write_text(f"raise ModuleNotFoundError(name={missing!r})")
    program = (
        "import mendflow, mendflow.testing as kit\n"
        "@mendflow.workflow\nasync def empty() -> None: ...\n"
        "try:\n    kit.WorkflowTest(empty).__enter__()\n"
        "except ModuleNotFoundError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT / "client")])}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment, timeout=60
    )
    assert done.stdout.strip() == (
        "WorkflowTest needs the server (mendflow_server is missing): pip install 'mendflow[server]'"
    ), done.stderr


def test_the_examples_of_the_page_run(tmp_path: Path) -> None:
    page = (ROOT / "docs/testing.md").read_text(encoding="utf-8")
    shop, *blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    tests = "import asyncio\nfrom mendflow.testing import WorkflowTest\n" + "\n\n".join(
        # The asynchronous one needs a plugin, which this run leaves out.
        re.sub(r"^async def (test_\w+)\(\):", r"def \1():\n    asyncio.run(a_\1())\n\nasync def a_\1():", block)
        for block in blocks
        if "def test_" in block
    )
    done = run_pytest(tmp_path, "-rA", shop=shop, test_shop=tests)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == tests.count("\ndef test_") == 6, done.stdout
