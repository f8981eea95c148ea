"""Write docs/python-api.md from the docstrings of the public Python modules: `make reference`.

griffe reads the code without running it. A name is public if it is in its module's `__all__`, and a member of a public
class if its name has no leading underscore and it has a description.
"""

from __future__ import annotations

import argparse
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import griffe

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path(__file__).resolve().parent.parent
#: The modules, in the order of the page.
MODULES: Final = ("mendflow", "mendflow.errors", "mendflow.testing", "pytest_mendflow", "mendflow_server.embedding")
#: Classes that Mendflow makes, and not its users. Their constructors are private.
GIVEN: Final = {
    *("AsyncEnvironment", "AsyncHandle", "ByHand", "Environment", "Fake", "Handle", "SyncWorkflowHandle", "Workflow"),
    *("WorkflowHandle", "WorkflowHistory"),
}
HEAD: Final = """# Python API

Every public name of Mendflow's Python packages: its signature, what it does, and the errors that it raises.
`make reference` writes this page from the docstrings; change the docstrings, not the page.
[Writing workflows](writing-workflows.md), [Testing](testing.md) and [Embedding](embedding.md) show how the names work
together. [Errors](errors.md) says what to do about each refusal of a server.

In the signatures, `I` is the type of a workflow's input, `R` the type of a result, and `P` the parameters of a step.
Types such as `workflow_pb2.Workflow` and `event_pb2.Event` are the messages of `mendflow.v1`, which the
[reference](reference.md) describes.
"""
#: The longest line of a signature.
WIDTH: Final = 100
#: Separates signatures, so that one run of the formatter formats all of them.
MARK: Final = "# signature "
#: What stands for `class` until the code is formatted.
CLASS: Final = "def class_"
DOUBLE: Final = re.compile(r"``(.+?)``", re.DOTALL)
SINGLE: Final = re.compile(r"(?<![`\w])`([\w.]+)(?:\(\))?`(?!`)")


class Page:
    """The page. ``entries`` maps each public name, also in the form Class.member, to its anchor."""

    def __init__(self) -> None:
        loader = griffe.GriffeLoader(search_paths=[ROOT / "client", ROOT / "server"])
        for package in dict.fromkeys(module.partition(".")[0] for module in MODULES):
            loader.load(package)
        loader.resolve_aliases()
        self.sections = {name: loader.modules_collection[name] for name in MODULES}
        self.entries: dict[str, str] = {}
        self.signatures: list[str] = []
        for name in MODULES:
            for entry in self.own(name):
                self.entries[entry.name] = anchor(title(entry))
                for member in members(entry):
                    self.entries[f"{entry.name}.{member.name}"] = anchor(f"{entry.name}.{member.name}")
        if stale := GIVEN - self.entries.keys():
            sys.exit(f"GIVEN names {', '.join(sorted(stale))}, which no module exports; remove it")

    def own(self, module: str) -> Iterator[griffe.Object]:
        """Yield the public objects of a module that no later section describes, in alphabetical order."""
        later = {path for path in MODULES if path != module and path.startswith(f"{module}.")}
        for name in exported(self.sections[module]):
            found = target(self.sections[module].members[name])
            if not any(found.canonical_path == f"{path}.{found.name}" for path in later):
                yield found

    def text(self) -> str:
        """Return the page's text."""
        body = "\n".join(line for module in MODULES for line in self.section(module))
        formatted = iter(format_code(self.signatures))
        body = re.sub(rf"^{MARK}$", lambda _: next(formatted), body, flags=re.MULTILINE)
        return re.sub(r"\n{3,}", "\n\n", f"{HEAD}{body}").rstrip() + "\n"

    def section(self, module: str) -> Iterator[str]:
        """Yield the lines of one module."""
        yield f"\n## {module}\n"
        yield from self.prose(self.sections[module])
        own = list(self.own(module))
        moved = sorted(set(exported(self.sections[module])) - {entry.name for entry in own})
        if moved:
            yield f"It also has {', '.join(f'[`{name}`](#{self.entries[name]})' for name in moved)}, described below.\n"
        for entry in own:
            yield f"\n### {title(entry)}\n"
            yield from self.code(signatures(entry))
            yield from self.prose(entry)
            yield from self.bases(entry)
            for member in members(entry):
                yield f"\n#### `{entry.name}.{member.name}`\n"
                yield from self.code(signatures(member))
                yield from self.prose(member)

    def code(self, lines: list[str]) -> Iterator[str]:
        """Yield a block of code, whose text `text` fills in later."""
        if lines:
            self.signatures.append("\n".join(lines))
            yield f"```python\n{MARK}\n```\n"

    def bases(self, entry: griffe.Object) -> Iterator[str]:
        """Yield the sentence that names the public base classes of an error."""
        if isinstance(entry, griffe.Class):
            names = [str(base).rpartition(".")[2] for base in entry.bases]
            known = [f"[`{name}`](#{self.entries[name]})" for name in names if name in self.entries]
            if known:
                yield f"It is a {' and a '.join(known)}.\n"

    def prose(self, entry: griffe.Object) -> Iterator[str]:
        """Yield the lines of a description, with links to the names in it. Its indented lines stay as they are."""
        for paragraph in re.split(r"\n{2,}", description(entry)):
            if paragraph == "::":
                continue
            if all(line.startswith("    ") for line in paragraph.splitlines()):
                yield f"```\n{inspect.cleandoc(paragraph)}\n```\n"
            else:
                linked = SINGLE.sub(lambda match: self.link(match, entry), paragraph)
                yield DOUBLE.sub(r"`\1`", linked) + "\n"

    def link(self, match: re.Match[str], entry: griffe.Object) -> str:
        """Return a name as a link to its entry, or as it stands if it has none."""
        name = match[1]
        scope = entry if isinstance(entry, griffe.Class) else entry.parent
        candidates = [f"{scope.name}.{name}"] if scope is not None else []
        candidates += [name, *(name.removeprefix(f"{module}.") for module in MODULES)]
        found = next((candidate for candidate in candidates if candidate in self.entries), None)
        return match[0] if found is None else f"[{match[0]}](#{self.entries[found]})"


def target(found: griffe.Object | griffe.Alias) -> griffe.Object:
    """Return the object that a name stands for."""
    return found.final_target if isinstance(found, griffe.Alias) else found


def exported(module: griffe.Object) -> list[str]:
    """Return the names in a module's `__all__`, in its order. Exit if it has none."""
    if not module.exports:
        sys.exit(f"{module.path} has no __all__, so its public names are not known; add one")
    return sorted((str(name) for name in module.exports), key=str.lower)


def title(entry: griffe.Object) -> str:
    """Return the title of an entry. It differs for `Step` and `step`, whose plain names would have one anchor."""
    if isinstance(entry, griffe.Class):
        return f"class {entry.name}"
    return entry.name


def anchor(heading: str) -> str:
    """Return the anchor that GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-")


def description(entry: griffe.Object) -> str:
    """Return the docstring, or the lines that begin with `#:` above an attribute."""
    if entry.docstring is not None:
        return inspect.cleandoc(entry.docstring.value)
    if not entry.is_attribute or entry.lineno is None:
        return ""
    lines = Path(str(entry.filepath)).read_text(encoding="utf-8").splitlines()
    comment: list[str] = []
    for line in reversed(lines[: entry.lineno - 1]):
        if not line.strip().startswith("#:"):
            break
        comment.insert(0, line.strip().removeprefix("#:").strip())
    return "\n".join(comment)


def members(entry: griffe.Object) -> list[griffe.Object]:
    """Return the public members of a class that have a description, in the order of the code."""
    if not isinstance(entry, griffe.Class):
        return []
    found = [target(member) for member in entry.members.values()]
    public = [member for member in found if not member.name.startswith("_") or member.name == "__call__"]
    return [member for member in public if description(member)]


def signatures(entry: griffe.Object) -> list[str]:
    """Return how an object is called or written, with one statement for each overload. Empty: only Mendflow does."""
    if isinstance(entry, griffe.Class):
        initializer = entry.members.get("__init__")
        if entry.name in GIVEN or not isinstance(initializer, griffe.Function):
            return []
        # A function to the formatter, because Python's own syntax for a class has no parameters with types.
        return [f"{CLASS}{entry.name}({_parameters(initializer.parameters, initializer.parameters)}): ..."]
    if isinstance(entry, griffe.Function):
        prefix = "async def" if "async" in entry.labels else "def"
        return [
            f"{prefix} {entry.name}({_parameters(each.parameters, entry.parameters)}) -> {each.returns}: ..."
            for each in (entry.overloads or [entry])
        ]
    if isinstance(entry, griffe.Attribute):
        annotation = f": {entry.annotation}" if entry.annotation else ""
        value = "" if "property" in entry.labels or entry.value is None else f" = {entry.value}"
        return [f"{entry.name}{annotation}{value}"] if annotation else []
    return []


def _parameters(parameters: griffe.Parameters, implemented: griffe.Parameters) -> str:
    """Return parameters as Python writes them, without self. The defaults of an overload are those implemented."""
    kind = griffe.ParameterKind
    written: list[str] = []
    star = False
    listed = [each for each in parameters if each.name not in ("self", "cls")]
    for index, each in enumerate(listed):
        if each.kind is kind.keyword_only and not star:
            written.append("*")
            star = True
        star = star or each.kind is kind.var_positional
        prefix = {kind.var_positional: "*", kind.var_keyword: "**"}.get(each.kind, "")
        annotation = f": {each.annotation}" if each.annotation is not None else ""
        value = _default(each, implemented)
        default = f" = {value}" if value is not None and not prefix else ""
        written.append(f"{prefix}{each.name}{annotation}{default}")
        following = listed[index + 1].kind if index + 1 < len(listed) else None
        if each.kind is kind.positional_only and following is not kind.positional_only:
            written.append("/")
    return ", ".join(written)


def _default(parameter: griffe.Parameter, implemented: griffe.Parameters) -> str | None:
    """Return a parameter's default as code. What is left open in an overload and private elsewhere stays `...`."""
    value = None if parameter.default is None else str(parameter.default)
    if value == "..." and parameter.name in implemented:
        found = str(implemented[parameter.name].default)
        return value if found.isupper() else found
    return value


def format_code(blocks: list[str]) -> list[str]:
    """Return the blocks as ruff formats them. Exit with its status if it fails."""
    source = "".join(f"{MARK}\n{block}\n" for block in blocks)
    command = [sys.executable, "-m", "ruff", "format", "--isolated", f"--line-length={WIDTH}", "-"]
    done = subprocess.run(command, input=source, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    formatted = re.split(rf"^{MARK.strip()}\n", done.stdout, flags=re.MULTILINE)[1:]
    tidied = (re.sub(r": \.\.\.$", "", block, flags=re.MULTILINE) for block in formatted)
    return [re.sub(r"\n{2,}", "\n", block).replace(CLASS, "class ").strip() for block in tidied]


def main() -> None:
    """Write docs/python-api.md, or another file with --output."""
    parser = argparse.ArgumentParser(description="Write the Python API from the docstrings.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/python-api.md", help="the file to write")
    output: Path = parser.parse_args().output
    output.write_text(Page().text(), encoding="utf-8")


if __name__ == "__main__":
    main()
