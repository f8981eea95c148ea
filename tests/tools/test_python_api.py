"""docs/python-api.md is what the docstrings say, and no public name is left out."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/python-api.md").read_text(encoding="utf-8")
HEADINGS = set(re.findall(r"^#{3,4} (?:class )?`?([\w.]+)`?$", PAGE, re.MULTILINE))
MODULES = ["mendflow", "mendflow.errors", "mendflow.testing", "pytest_mendflow", "mendflow_server.embedding"]


def entry(heading: str) -> str:
    """Return the text under a heading."""
    return re.split(rf"^#+ `?{re.escape(heading)}`?$", PAGE, maxsplit=1, flags=re.MULTILINE)[1].partition("\n#")[0]


def test_the_committed_page_is_fresh(tmp_path: Path) -> None:
    output = tmp_path / "python-api.md"
    subprocess.run([sys.executable, str(ROOT / "tools/generate_python_api.py"), "--output", str(output)], check=True)
    assert output.read_text(encoding="utf-8") == PAGE, "make reference"


@pytest.mark.parametrize("module", MODULES)
def test_each_public_name_and_method_has_one_entry(module: str) -> None:
    public = importlib.import_module(module)
    for name in public.__all__:
        assert len(re.findall(rf"^### (?:class )?{name}$", PAGE, re.MULTILINE)) == 1, name
        thing = getattr(public, name)
        own = [] if not inspect.isclass(thing) else [each for each in vars(thing) if not each.startswith("_")]
        documented = {f"{name}.{each}" for each in own if inspect.isroutine(getattr(thing, each))}
        assert documented <= HEADINGS


def test_no_entry_has_two_places() -> None:
    """Check that the anchors differ: GitHub makes them of the headings in lower case."""
    anchors = [heading.lower() for heading in re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)]
    assert len(anchors) == len(set(anchors))


def test_an_entry_has_the_signature_with_types_and_the_errors() -> None:
    start = entry("Client.start")
    assert "async def start(\n    workflow: Workflow[I, R],\n    input: I,\n    *,\n    id: str | None = None," in start
    assert ") -> WorkflowHandle[R]\n" in start
    assert "[`AlreadyStarted`](#class-alreadystarted)" in start
    assert "max_attempts: int | None = 10," in entry("class RetryPolicy")
    assert entry("RetryPolicy.max_attempts").rstrip().endswith("including the first. None: no limit.")
    assert "class WorkflowHandle(" not in PAGE  # Client.start makes it.


def test_every_described_name_has_a_description() -> None:
    empty = [heading for heading in HEADINGS if not entry_text(heading)]
    assert empty == []


def entry_text(name: str) -> str:
    """Return the prose of an entry."""
    found = entry(f"class {name}") if f"\n### class {name}\n" in PAGE else entry(name)
    return re.sub(r"```.*?```", "", found, flags=re.DOTALL).strip()
