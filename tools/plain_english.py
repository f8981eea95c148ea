"""Find words that the project does not use: `python tools/plain_english.py [PATH ...]`.

docs/concepts.md has the words to use instead. Without a path the tool reads the whole repository.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
#: Files with text that people write.
SUFFIXES: Final = frozenset({".py", ".md", ".proto", ".toml", ".yml", ".yaml", ".sql", ".html", ".go", ".ts", ".java"})
#: Generated code, and the pages that may name a rejected word: this tool and the history of changes.
LEFT_OUT: Final = ("client/mendflow/v1/", "tools/plain_english.py", "CHANGELOG.md", "LICENSE")


class Rule(NamedTuple):
    """A rejected pattern, and what to write instead."""

    pattern: re.Pattern[str]
    better: str
    #: Rules about crashes do not hold where a test kills a process.
    in_tests: bool = True


def _words(pattern: str) -> re.Pattern[str]:
    """Return a pattern that also matches a word inside a name such as ``_was_told``."""
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
    Rule(_words("deaths?|died|dies|dying|dead"), "crash, crashed, stopped", in_tests=False),
)

#: The first words that no docstring has.
FIRST_WORDS: Final = re.compile(r"(?:Answers?|Tells?|Lets?|Says?|Whoever|Nobody|What is|Who)\b")


class Finding(NamedTuple):
    """A rejected word at its place."""

    path: Path
    line: int
    word: str
    better: str

    def __str__(self) -> str:
        place = self.path.relative_to(ROOT) if self.path.is_relative_to(ROOT) else self.path
        return f"{place}:{self.line}: {self.word!r}; write: {self.better}"


def findings(path: Path) -> Iterator[Finding]:
    """Yield what is wrong in one file."""
    text = path.read_text(encoding="utf-8")
    in_tests = "tests" in path.parts
    for number, line in enumerate(text.splitlines(), 1):
        for rule in RULES:
            if rule.in_tests or not in_tests:
                for found in rule.pattern.finditer(line):
                    yield Finding(path, number, found.group(), rule.better)
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                docstring = ast.get_docstring(node)
                first = FIRST_WORDS.match(docstring or "")
                if first:
                    better = "begin with a PEP 257 verb: Return, Raise, Yield, Wait"
                    yield Finding(path, node.body[0].lineno, first.group(), better)


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that git knows below these paths."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *map(str, paths)]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    for name in listed:
        path = ROOT / name
        if path.suffix in SUFFIXES and not name.startswith(LEFT_OUT) and path.exists():
            yield path


def main(arguments: list[str]) -> int:
    """Print what is wrong; return how the process ends."""
    found = [each for path in files([Path(name).resolve() for name in arguments] or [ROOT]) for each in findings(path)]
    for each in found:
        sys.stdout.write(f"{each}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
