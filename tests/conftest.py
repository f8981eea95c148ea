"""What all tests have: their markers and workers, a figure for the end of the run, and servers."""

from __future__ import annotations

import compileall
import functools
import os
import re
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.support.postgres import Postgres, postgres_server
from tests.support.servers import ROOT, STORES, Server, ServerProcess, serving, serving_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

# Tests write modules, and write them anew within a second: compiled, the old ones would be taken for them.
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

#: Each folder of tests is a marker, so that `-m unit` runs one of them. With several workers the folders whose tests
#: take long come first, so that short ones fill up what is left of the time.
FOLDERS = ("clients", "container", "crash", "fuzz", "watch", "service", "store", "tools", "unit")
#: Tests that share a worker: they share what takes seconds to make (a language's program, the image, a module's
#: server), or are many processes at once by themselves.
TOGETHER = re.compile(
    r"""tests/ (?:
        clients/ test_(?!tools) .* \[ (?P<language> \w+ ) \]
        | (?P<module> clients/test_tools | container/test_image | crash/test_every_commit
            | service/test_(?: changed_code | cluster | command_ (?: help | streams | terminal | verbs | views | watch )
                       | examples | export | typed_messages | verify | verify_many )
        ) \.py::
    )""",
    re.VERBOSE,
)


# A machine that is busy makes a slow example of any.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_configure(config: pytest.Config) -> None:
    """Compile the sources once; each of the hundreds of servers would do that for itself, for 0.2 s."""
    if not hasattr(config, "workerinput"):
        for folder in ("client", "server", "examples", "tests"):
            compileall.compile_dir(ROOT / folder, quiet=2)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even read the other folders when one is asked for by its marker."""
    others = set(FOLDERS) - {config.getoption("markexpr")}
    if len(others) == len(FOLDERS):
        return None
    return True if collection_path.parent == ROOT / "tests" and collection_path.name in others else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its folder's marker."""
    places = {}
    for item in items:
        folder = item.path.relative_to(ROOT / "tests").parts[0]
        places[item] = FOLDERS.index(folder)
        item.add_marker(folder)
    if hasattr(config, "workerinput"):
        items.sort(key=places.__getitem__)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker the next test when it has done one, and what belongs together to one worker.

    `--dist loadgroup` would do, but pytest-xdist 3.8 does not see the groups with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415 - only where it is used

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            found = TOGETHER.match(nodeid)
            return (found["language"] or found["module"]) if found else nodeid

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures that tests recorded."""
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    called = [report for report in reports if getattr(report, "when", "") == "call"]
    figures = sorted(text for report in called for name, text in report.user_properties if name == "figure")
    if figures:
        terminalreporter.section("figures")
        for figure in figures:
            terminalreporter.line(figure)


@pytest.fixture
def record_figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Return a function that takes a line for the end of the run."""
    return functools.partial(record_property, "figure")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server that all tests of this worker share, each with a schema of its own."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session", autouse=True)
def all_on_postgres(request: pytest.FixtureRequest) -> None:
    """With MENDFLOW_TEST_STORE=postgres, give each server that names no store a schema of PostgreSQL."""
    if os.environ.get("MENDFLOW_TEST_STORE") == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        STORES.update(url=postgres.url_for, dump=postgres.dump)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A server in this process."""
    async with serving(tmp_path) as running:
        yield running


@pytest.fixture
def server_process(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server in a process of its own."""
    with serving_process(tmp_path) as server:
        yield server
