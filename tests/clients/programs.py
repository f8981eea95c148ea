"""The example programs, one for each language, which are built with their language's tools."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Builds stay here, so that the next build is faster.
BUILT = ROOT / ".clients"


@dataclass(frozen=True)
class Program:
    """A program. ``build.sh`` builds it into a folder and writes ``run`` there."""

    language: str
    tools: tuple[str, ...]

    @property
    def lacks(self) -> str:
        """The missing build tools, or "" if all are installed."""
        return ", ".join(tool for tool in self.tools if not is_there(tool))

    @property
    def folder(self) -> Path:
        """The folder of the build."""
        return BUILT / self.language

    def build(self) -> None:
        """Build the program. Raise `AssertionError` with the output of its tools if that fails."""
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
        """Return the command that runs the program."""
        return [str(self.folder / "run"), *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the program, without this checkout's Python."""
        return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def is_there(tool: str) -> bool:
    """Return whether a program, or a module of this Python, is installed."""
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
