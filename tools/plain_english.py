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


def _words(words: str) -> re.Pattern[str]:
    """Return a pattern that matches a word in any case, also as a part of a name such as ``_was_told``."""
    return re.compile(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])", re.IGNORECASE)


class Rule:
    """A rejected regular expression, and the words to use instead.

    ``in_tests`` is false for a rule that does not apply to tests, which kill processes.
    """

    def __init__(self, words: str, better: str, *, in_tests: bool = True) -> None:
        self.words = words
        self.pattern = _words(words)
        self.better = better
        self.in_tests = in_tests


RULES: Final = (
    Rule("told|tells?|telling", "say, report, notify, return, distinguish"),
    Rule("whoever|nobody", "name the actor"),
    Rule("h[au]ngs? up|hanging up", "disconnect"),
    Rule("under[ _]way", "in progress"),
    Rule("on disk|way to the disk", "committed, stored"),
    Rule("lies", "is, is stored"),
    Rule("go(?:es)?[ _]on|going[ _]on|went[ _]on|gone[ _]on", "continue, resume"),
    Rule("take[ns]?[ _]up|taking[ _]up|took[ _]up", "resume, load"),
    Rule("cut[ _]off|cuts[ _]off|cutting[ _]off", "interrupt, cancel"),
    Rule("lets?[ _]go[ _]of", "release, evict"),
    Rule("of our own", "internal"),
    Rule("ask(?:s|ed|ing)?[ _](?:again|anew)", "retry"),
    Rule("for ever", "forever, without limit"),
    Rule("shall|ought to", "must, will"),
    Rule("at fault", "malformed, invalid, failed"),
    Rule("deaths?|died|dies|dying|dead", "crash, crashed, stopped", in_tests=False),
)

#: All rules in one pattern: one search is much faster than one for each rule and line.
_ANY: Final = _words("|".join(rule.words for rule in RULES))

#: The first words that a docstring must not have.
FIRST_WORDS: Final = re.compile(r"(?:Answers?|Tells?|Lets?|Says?|Whoever|Nobody|What is|Who)\b")
#: Whether a file may have such a docstring.
_MAY_BEGIN: Final = re.compile(rf"[\"\']\s*{FIRST_WORDS.pattern}")


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
    for number, line in _checked_lines(text) if _ANY.search(text) else ():
        for rule in rules:
            for found in rule.pattern.finditer(line):
                yield Finding(path, number, found.group(), rule.better)
    if path.suffix == ".py" and _MAY_BEGIN.search(text):
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
