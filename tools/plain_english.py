"""Find words that the project does not use: `python tools/plain_english.py [PATH ...]`.

docs/concepts.md has the words to use instead. Without a path the tool reads the whole repository. It skips the lines
from one with "plain-english: off" to one with "plain-english: on".
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).resolve().parent.parent
#: The file types with text that people write.
SUFFIXES: Final = frozenset({".py", ".md", ".proto", ".toml", ".yml", ".yaml", ".sql", ".html", ".go", ".ts", ".java"})
#: Generated code, and the files that must contain rejected words: this tool, its test and the history of changes.
LEFT_OUT: Final = (
    "client/mendflow/v1/",
    # A migration that ran once never changes.
    "server/mendflow_server/store/sqlite/migrations/",
    "tools/plain_english.py",
    "tests/unit/test_plain_english.py",
    "CHANGELOG.md",
    "LICENSE",
)
OFF, ON = "plain-english: off", "plain-english: on"


class Rule(NamedTuple):
    """A rejected pattern, and the words to use instead."""

    pattern: re.Pattern[str]
    better: str
    #: False for a rule that does not apply to tests, which kill processes.
    in_tests: bool = True


def _words(pattern: str) -> re.Pattern[str]:
    """Return a pattern that matches a word in any case, also as a part of a name such as ``_was_told``."""
    return re.compile(rf"(?<![A-Za-z])(?:{pattern})(?![A-Za-z])", re.IGNORECASE)


RULES: Final = (
    Rule(_words("told|tells?|telling"), "say, report, notify, return, distinguish"),
    Rule(_words("whoever|nobody"), "name the actor"),
    Rule(_words("h[au]ngs? up|hanging up"), "disconnect"),
    Rule(_words("under[ _]way"), "in progress"),
    Rule(_words("on disk|way to the disk"), "committed, stored"),
    Rule(_words("lies"), "is, is stored"),
    Rule(_words("go(?:es)?[ _]on|going[ _]on|went[ _]on|gone[ _]on"), "continue, resume"),
    Rule(_words("take[ns]?[ _]up|taking[ _]up|took[ _]up"), "resume, load"),
    Rule(_words("cut[ _]off|cuts[ _]off|cutting[ _]off"), "interrupt, cancel"),
    Rule(_words("lets?[ _]go[ _]of"), "release, evict"),
    Rule(_words("of our own"), "internal"),
    Rule(_words("ask(?:s|ed|ing)?[ _](?:again|anew)"), "retry"),
    Rule(_words("for ever"), "forever, without limit"),
    Rule(_words("shall|ought to"), "must, will"),
    Rule(_words("at fault"), "malformed, invalid, failed"),
    Rule(_words("deaths?|died|dies|dying|dead"), "crash, crashed, stopped", in_tests=False),
)

#: The first words that a docstring must not have.
FIRST_WORDS: Final = re.compile(r"(?:Answers?|Tells?|Lets?|Says?|Whoever|Nobody|What is|Who)\b")


class Finding(NamedTuple):
    """A rejected word, its place, and the words to use instead. ``line`` counts from 1."""

    path: Path
    line: int
    word: str
    better: str

    def __str__(self) -> str:
        place = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{place}:{self.line}: {self.word!r}; write: {self.better}"


def findings(path: Path, text: str) -> Iterator[Finding]:
    """Yield the rejected words in the text of one file."""
    rules = [rule for rule in RULES if rule.in_tests or "tests" not in path.parts]
    for number, line in _checked_lines(text):
        for rule in rules:
            for found in rule.pattern.finditer(line):
                yield Finding(path, number, found.group(), rule.better)
    if path.suffix == ".py":
        for number, docstring in _docstrings(text):
            first = FIRST_WORDS.match(docstring)
            if first:
                yield Finding(path, number, first.group(), "begin with a PEP 257 verb: Return, Raise, Yield, Wait")


def _checked_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each line that is not switched off, with its number."""
    is_on = True
    for number, line in enumerate(text.splitlines(), 1):
        if OFF in line or ON in line:
            is_on = ON in line
        elif is_on:
            yield number, line


def _docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yield each docstring of a Python file, with the number of its line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            docstring = ast.get_docstring(node)
            if docstring is not None:
                yield node.body[0].lineno, docstring


def files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files with text below these paths; those that git ignores are left out where git is there."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *map(str, paths)]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        found = (each for path in paths for each in (path.rglob("*") if path.is_dir() else (path,)))
        listed = [str(each.relative_to(ROOT)) for each in found]
    for name in listed:
        path = ROOT / name
        hidden = any(part.startswith(".") and part != ".github" for part in Path(name).parts)
        if path.suffix in SUFFIXES and not hidden and not name.startswith(LEFT_OUT) and path.exists():
            yield path


def main(arguments: list[str]) -> int:
    """Print the findings, and return the exit code: 1 if there are any, else 0."""
    found = check([Path(name).resolve() for name in arguments] or [ROOT])
    for each in found:
        sys.stdout.write(f"{each}\n")
    return 1 if found else 0


def check(paths: Sequence[Path]) -> list[Finding]:
    """Return the findings in all files below these paths."""
    return [each for path in files(paths) for each in findings(path, path.read_text(encoding="utf-8"))]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
