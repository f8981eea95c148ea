"""`mendflow serve` of what cannot be served: an exit code and an error that names the reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.command_process import SECONDS, environment, serve

if TYPE_CHECKING:
    from pathlib import Path


MODULES = {
    "imports_nothing_there": ("import not_there_at_all\n", "not_there_at_all"),
    "wrong_syntax": ("def (:\n", "line 1"),
    "raises": ("x = 1\nraise ValueError('on purpose')\n", "ValueError: on purpose"),
    "ends_the_process": ("raise SystemExit(0)\n", "exits the process"),
    "without_workflows": ("x = 1\n", "no function decorated with @workflow"),
    "same_name_twice": (
        """
from mendflow import workflow


@workflow(name="same")
async def first() -> None: ...


@workflow(name="same")
async def second() -> None: ...
""",
        "first",
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_cannot_be_served_exits_2_with_the_reason(tmp_path: Path, name: str) -> None:
    source, words = MODULES[name]
    (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    done = serve(tmp_path, name)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "mendflow.db").exists()


#: A step that cannot be recorded, and what the line of its error must name.
STEPS = {
    "hidden_type": (
        """
from __future__ import annotations
from typing import TYPE_CHECKING
from mendflow import step, workflow
if TYPE_CHECKING:
    from decimal import Decimal

@step
async def charge(amount: Decimal) -> None: ...

@workflow
async def checkout() -> None: ...
""",
        "hidden_type.charge(): the type of parameter 'amount'",
    ),
    "hidden_result": (
        """
from mendflow import step, workflow

@step
async def charge() -> "Receipt": ...

@workflow
async def checkout() -> None: ...
""",
        "hidden_result.charge(): the type of the result",
    ),
    "variable_arguments": (
        """
from mendflow import step, workflow

@step
def charge(*amounts: int) -> None: ...

@workflow
async def checkout() -> None: ...
""",
        "variable_arguments.charge() must not have the parameter *amounts",
    ),
    "unknown_class": (
        """
from mendflow import step, workflow

class Amount: ...

@step
async def charge(amount: Amount) -> None: ...

@workflow
async def checkout() -> None: ...
""",
        "unknown_class.charge(): parameter 'amount'",
    ),
    "schema_raises": (
        """
from mendflow import step, workflow

class Amount:
    @classmethod
    def __get_pydantic_core_schema__(cls, source, handler):
        raise SystemExit(0)

@step
async def charge(amount: Amount) -> None: ...

@workflow
async def checkout() -> None: ...
""",
        "schema_raises.charge(): parameter 'amount'",
    ),
    "no_retry_policy": (
        """
from mendflow import step, workflow

@step(retry=3)
async def charge() -> None: ...

@workflow
async def checkout() -> None: ...
""",
        "retry must be a RetryPolicy",
    ),
}
BROKEN_STEPS = """
from mendflow import step

@step
async def charge(*amounts: int) -> None: ...
"""
#: How a workflow's module imports a step of another module.
IMPORTS = {
    "of_a_name": "from broken_steps import charge",
    "of_a_module": "import broken_steps",
    "renamed": "import broken_steps as steps",
}


@pytest.mark.parametrize("name", STEPS)
def test_serve_with_a_step_that_cannot_be_recorded_names_it_in_one_line(tmp_path: Path, name: str) -> None:
    source, words = STEPS[name]
    (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    done = serve(tmp_path, name)
    assert done.returncode in (1, 2), done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    if done.returncode == 1:
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
    assert not (tmp_path / "mendflow.db").exists()


@pytest.mark.parametrize("served", ["itself", "imported"])
@pytest.mark.parametrize("name", IMPORTS)
def test_serve_with_an_imported_step_that_cannot_be_recorded_names_its_module(
    tmp_path: Path, name: str, served: str
) -> None:
    (tmp_path / "broken_steps.py").write_text(BROKEN_STEPS, encoding="utf-8")
    source = f"from mendflow import workflow\n{IMPORTS[name]}\n\n@workflow\nasync def checkout() -> None: ...\n"
    (tmp_path / "flows.py").write_text(source, encoding="utf-8")
    (tmp_path / "front.py").write_text("from flows import checkout\n", encoding="utf-8")
    done = serve(tmp_path, "flows" if served == "itself" else "front")
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: broken_steps.charge() must not have the parameter *amounts")


HIDDEN = """
from mendflow import workflow

class Shop:
    @workflow(name="in_class")
    async def checkout() -> None: ...

    @staticmethod
    @workflow(name="in_static_method")
    async def refund() -> None: ...

def made(name):
    @workflow(name=name)
    async def run() -> None: ...
    return run

in_list = [made("in_list")]
in_tuple = (made("in_tuple"),)
in_set = {made("in_set")}
in_frozenset = frozenset([made("in_frozenset")])
in_dict = {"k": made("in_dict")}
"""
GLOBAL = """
front = made("front")
also_in_a_list = [front]
"""
PLACES = {
    "in_class": "hidden.Shop.checkout",
    "in_static_method": "hidden.Shop.refund",
    "in_list": "hidden.in_list[0]",
    "in_tuple": "hidden.in_tuple[0]",
    "in_set": "hidden.in_set",
    "in_frozenset": "hidden.in_frozenset",
    "in_dict": "hidden.in_dict['k']",
}


def test_serve_names_the_workflows_that_it_does_not_serve_and_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN + GLOBAL, encoding="utf-8")
    # The store is refused after the modules are loaded, so that the server ends.
    done = serve(tmp_path, "hidden", "--store", "mongodb://x", "--log-format", "json")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    warned = {line["workflow_type"]: line["place"] for line in lines if line["event"] == "workflow_not_served"}
    assert warned == PLACES
    assert all(line["level"] == "warning" and "global name" in line["advice"] for line in lines)


def test_a_module_whose_workflows_are_all_hidden_exits_2_and_names_one(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN, encoding="utf-8")
    done = serve(tmp_path, "hidden")
    assert done.returncode == 2
    assert "workflow 'in_class' in hidden.Shop.checkout is not served; assign it to a global name" in done.stderr


def test_the_line_of_the_module_that_raised_is_named(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(MODULES["raises"][0], encoding="utf-8")
    assert re.search(r"raises\.py, line 2\)", serve(tmp_path, "raises").stderr)


@pytest.mark.parametrize(("name", "hint"), [("not_there", "import not_there"), ("a/b.py", "import a.b"), (".x", ".x")])
def test_a_missing_module_exits_2_with_how_to_name_it(tmp_path: Path, name: str, hint: str) -> None:
    done = serve(tmp_path, name)
    assert done.returncode == 2
    assert hint in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--log-level", "loud"), 2, "MENDFLOW_LOG_LEVEL"),
        (("--grpc-address", "0.0.0.0:1"), 2, "--insecure"),
        (("--store", "mongodb://x"), 1, "sqlite:///relative.db"),
    ],
    ids=["level", "beyond loopback", "store"],
)
def test_a_bad_setting_exits_with_the_reason(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    done = serve(tmp_path, "workflows", *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_server_extra_serve_says_what_to_install() -> None:
    # As on a machine with only the client installed. The other commands do not need the server.
    program = "import sys; sys.modules['structlog'] = None; from mendflow.cli import main; main(sys.argv[1:])"
    for arguments, code in ((["serve", "workflows", "--store", "x"], 2), (["--help"], 0), (["start", "--help"], 0)):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment(),
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == code, done.stderr
        if code:
            assert "serve needs the server" in done.stderr
            assert "pip install 'mendflow[server]'" in done.stderr
