"""`mendflow serve` of what cannot be served: an exit code and an error that names the reason."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import as_text, run_command, serve
from tests.support.command_process import SECONDS, environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.servers import ServerProcess


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


def test_verify_names_them_too(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN + GLOBAL, encoding="utf-8")
    done = as_text(run_command(["verify", "hidden", "--store", "sqlite:///missing.db"], {}, directory=tmp_path))
    assert "missing.db does not exist" in done.stderr
    warned = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warned[0] == (
        "warning: workflow 'in_class' in hidden.Shop.checkout is not served; assign it to a global name of its module"
    )
    assert len(warned) == len(PLACES)


def test_a_module_whose_workflows_are_all_hidden_exits_2_and_names_one(tmp_path: Path) -> None:
    (tmp_path / "hidden.py").write_text(HIDDEN, encoding="utf-8")
    done = serve(tmp_path, "hidden")
    assert done.returncode == 2
    assert "workflow 'in_class' in hidden.Shop.checkout is not served; assign it to a global name" in done.stderr


def test_the_line_of_the_module_that_raised_is_named(tmp_path: Path) -> None:
    (tmp_path / "raises.py").write_text(MODULES["raises"][0], encoding="utf-8")
    assert re.search(r"raises\.py, line 2\)", serve(tmp_path, "raises").stderr)


PACKAGED = """
from mendflow import workflow
from .steps import charge

@workflow
async def checkout() -> None:
    await charge()
"""
STEPS_OF_PACKAGE = """
from mendflow import step

@step
async def charge() -> None: ...
"""
ALONE = "from mendflow import workflow\n@workflow\nasync def checkout() -> None: ...\n"


def make_files(folder: Path) -> None:
    """Make packages with and without an __init__.py, below and beside the working directory ``here``."""
    for name, parts in {
        "here/pkg": ("__init__", "flows", "steps"),
        "here/pkg/inner": ("__init__", "flows", "steps"),
        "here/bare/inner": ("flows", "steps"),
        "here/src/app": ("__init__", "flows", "steps"),
        "here/odd.name": (),
        "beside/other": ("__init__", "flows", "steps"),
    }.items():
        (folder / name).mkdir(parents=True)
        sources = {"__init__": "from .flows import checkout\n", "flows": PACKAGED, "steps": STEPS_OF_PACKAGE}
        for part in parts:
            (folder / name / f"{part}.py").write_text(sources[part], encoding="utf-8")
    for name in ("here/alone.py", "here/odd.name/alone_too.py", "here/with-dash.py", "beside/apart.py"):
        (folder / name).write_text(ALONE, encoding="utf-8")


PATHS = {
    "./alone.py": "alone",
    "alone.py": "alone",
    "with-dash.py": "with-dash",
    "odd.name/alone_too.py": "alone_too",
    "./pkg/flows.py": "pkg.flows",
    "pkg/flows.py": "pkg.flows",
    "pkg/../pkg//flows.py": "pkg.flows",
    "./pkg": "pkg.flows",
    "pkg/": "pkg.flows",
    "./pkg/__init__.py": "pkg.flows",
    "pkg/inner/flows.py": "pkg.inner.flows",
    "pkg/inner/": "pkg.inner.flows",
    "bare/inner/flows.py": "bare.inner.flows",
    "src/app/flows.py": "app.flows",
    "../beside/other/flows.py": "other.flows",
    "../beside/other/": "other.flows",
    "../beside/apart.py": "apart",
    "ABSOLUTE/here/pkg/flows.py": "pkg.flows",
    "ABSOLUTE/beside/other/flows.py": "other.flows",
}


@pytest.mark.parametrize("path", PATHS)
def test_a_module_is_served_by_the_path_of_its_file_or_package(tmp_path: Path, path: str) -> None:
    make_files(tmp_path)
    # Import in a new process: the modules of other cases have the same names.
    program = (
        "import sys; from mendflow_server.cli.workflow_modules import load_workflows;"
        "print(load_workflows(sys.argv[1:]).workflows['checkout'].function.__module__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, path.replace("ABSOLUTE", str(tmp_path))],
        env=environment(),
        cwd=tmp_path / "here",
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout.strip() == PATHS[path], done.stderr


def test_a_path_inside_a_package_works_from_that_folder(tmp_path: Path) -> None:
    make_files(tmp_path)
    done = serve(tmp_path / "here" / "pkg", "./flows.py", "--store", "mongodb://x")
    assert done.returncode == 1, done.stderr
    assert "unknown kind of store" in done.stderr, "the module was imported before"


BAD_PATHS = {
    "./missing.py": "there is no file",
    "missing/": "there is no file",
    "/nowhere/flows.py": "there is no file '/nowhere/flows.py'",
    "pkg/missing.py": "name a .py file, the folder of a package, or a module as in `import pkg.missing`",
    "./odd.name": "is not a package, because it has no __init__.py",
    "./": "is not a package",
    "./data.json": "is not a Python module",
    "./two.dots.py": "has a dot; rename the file",
    "./json.py": "rename the file",
    "./sys.py": "that name belongs to a module of Python",
    "./broken.py": "ValueError: on purpose",
    "./without.py": "no function decorated with @workflow",
}


@pytest.mark.parametrize("command", ["serve", "verify", "export-protos"])
@pytest.mark.parametrize("path", BAD_PATHS)
def test_a_path_that_cannot_be_served_exits_2_with_the_reason(tmp_path: Path, path: str, command: str) -> None:
    make_files(tmp_path)
    here = tmp_path / "here"
    for name in ("data.json", "two.dots.py", "json.py", "sys.py", "without.py"):
        (here / name).write_text("x = 1\n", encoding="utf-8")
    (here / "broken.py").write_text("raise ValueError('on purpose')\n", encoding="utf-8")
    more = {"serve": (), "verify": ("--store", "sqlite:///x.db"), "export-protos": ("--out", "out")}[command]
    done = as_text(run_command([command, path, *more], {}, directory=here))
    assert done.returncode == 2, done.stderr
    assert BAD_PATHS[path] in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


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


@pytest.mark.parametrize("taken", ["grpc", "http", "store"])
def test_a_place_that_another_server_uses_is_one_line_of_error(
    shared: ServerProcess, tmp_path: Path, taken: str
) -> None:
    places = {
        "--grpc-address": shared.grpc_address if taken == "grpc" else "127.0.0.1:0",
        "--http-address": shared.http_address if taken == "http" else "127.0.0.1:0",
        "--store": f"sqlite:///{shared.store if taken == 'store' else tmp_path / 'own.db'}",
    }
    done = serve(tmp_path, "workflows", *(part for pair in places.items() for part in pair))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("I", "E", "W"))]
    assert line.startswith("error: ")
    assert str(places[f"--{taken}-address" if taken != "store" else "--store"]).removeprefix("sqlite:///") in line
    assert "Traceback" not in done.stderr + done.stdout
