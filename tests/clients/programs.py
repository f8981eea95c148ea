"""The example programs, one a language: built with their language's own tools, and run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What is built stays here, so that building again is quick.
BUILT = ROOT / ".clients"


@dataclass(frozen=True)
class Program:
    """A program: ``build.sh`` builds it into a folder and leaves ``run`` there."""

    language: str
    tools: tuple[str, ...]

    @property
    def lacks(self) -> str:
        """What is not there to build it with; empty when all is."""
        return ", ".join(tool for tool in self.tools if not is_there(tool))

    @property
    def folder(self) -> Path:
        """Where it is built."""
        return BUILT / self.language

    def build(self) -> None:
        """Build it. Raises `AssertionError` with what its tools said."""
        script = Path(__file__).parent / self.language / "build.sh"
        done = subprocess.run(
            [str(script), str(self.folder)],
            env={**os.environ, "PYTHON": sys.executable},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{script}:\n{done.stdout}{done.stderr}"

    def command(self, *arguments: str) -> list[str]:
        """Answer how it is run."""
        return [str(self.folder / "run"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """What it is run with: nothing of this checkout's Python."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def is_there(tool: str) -> bool:
    """Tell whether a program, or a module of this Python, is there."""
    return shutil.which(tool) is not None or (tool == "grpc_tools" and importlib.util.find_spec(tool) is not None)


PROGRAMS = {
    program.language: program
    for program in (
        Program("python", ("grpc_tools",)),
        Program("go", ("go", "grpc_tools")),
        Program("typescript", ("node", "npm")),
        Program("java", ("java", "mvn")),
    )
}
