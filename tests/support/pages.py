"""The pages of docs/ as programs: their files and their commands, word for word."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: A block of code; before it, if it is a file, the file's name in a line of its own.
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
#: Ends a file in a script. No page has this line.
END = "END_OF_THE_FILE"


def split_at(page: Path, heading: str) -> tuple[str, str]:
    """Return the page before and after a heading."""
    before, found, after = page.read_text("utf-8").partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading!r}"
    return before, after


def commands(text: str) -> list[str]:
    """Return the commands of each block for a shell."""
    return [block["text"] for block in BLOCK.finditer(text) if block["kind"] == "sh" and not block["file"]]


def as_script(text: str) -> str:
    """Return a script that writes the files and runs the commands in their order, until one of them fails."""
    lines = ["set -e\n"]
    for block in BLOCK.finditer(text):
        if block["file"]:
            lines.append(f"cat > {shlex.quote(block['file'])} <<'{END}'\n{block['text']}{END}\n")
        elif block["kind"] == "sh":
            lines.append(block["text"])
    return "".join(lines)
