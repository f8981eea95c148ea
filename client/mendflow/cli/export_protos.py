"""`mendflow export-protos`."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mendflow.authoring.workflow import Workflow, workflows_of
from mendflow.cli.event_text import clean
from mendflow.errors import DefinitionError
from mendflow.protogen.descriptors import Descriptors, file_name
from mendflow.protogen.exports import lock_path, package_of, schemas_of
from mendflow.protogen.lock_file import LockFile, merge
from mendflow.protogen.proto_writer import OWNER_LINE, proto_text
from mendflow.protogen.schema import SchemaBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

__all__ = ["export_protos"]


@click.command(name="export-protos")
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option("--out", metavar="DIR", required=True, type=click.Path(path_type=Path), help="Where the .proto files go.")
@click.option("--skip", metavar="WORKFLOW", multiple=True, help="Leave this workflow type out; repeatable.")
@click.option("--go-prefix", metavar="PATH", help="What Go import paths begin with; kept in the lock file.")
@click.option(
    "--allow-type-changes",
    is_flag=True,
    help="Give a field whose type changed a new number. Callers built before no longer set it.",
)
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when something would be written.")
def export_protos(modules: tuple[str, ...], **options: Any) -> None:
    """Write the types of workflows as protobuf messages, for callers in other languages.

    Each module gets a .proto below DIR, with a message for the input, output and signals of each of its workflow types,
    and beside the module a lock file that keeps the field numbers. Commit both. The server reads the lock file and then
    takes these messages in Payload.message; docs/typed-messages.md has more.
    """
    files: dict[Path, str] = {}
    changes: list[str] = []
    for module in _modules(modules):
        _export(module, options, files, changes)
    stale = {path: text for path, text in files.items() if _content(path) != text}
    if options["check"]:
        for change in changes:
            click.echo(clean(change))
        for path in stale:
            click.echo(f"{path} would be written")
        sys.exit(1 if stale else 0)
    for path, text in stale.items():
        _write(path, text)
    for change in changes:
        click.echo(clean(change))
    for path in files:
        click.echo(f"{path} {'written' if path in stale else 'is as it was'}")


def _export(module: ModuleType, options: dict[str, Any], files: dict[Path, str], changes: list[str]) -> None:
    """Add a module's two files and what is new in them. Exits when a type cannot be told."""
    path = lock_path(module)
    if path is None:
        raise click.UsageError(f"module {module.__name__!r} has no file that a lock file could lie beside")
    builder = SchemaBuilder()
    try:
        lock = LockFile.read(path) if path.exists() else LockFile(package=package_of(module.__name__))
        if options["go_prefix"] is not None:
            lock.go_prefix = options["go_prefix"]
        mine = sorted(workflows_of(module.__name__), key=lambda each: each.name)
        shapes = [schemas_of(each, builder) for each in mine if each.name not in options["skip"]]
        merged = merge(lock, shapes, allow_type_changes=options["allow_type_changes"])
        if builder.problems or merged.conflicts:
            _refuse(module, builder.problems, merged.conflicts)
        descriptors = Descriptors(merged.lock)
    except DefinitionError as error:
        _fail([str(error)])
    parts = [each for shape in shapes for message in shape.messages for each in message.reachable()]
    text = proto_text(merged.lock, parts, module.__name__, descriptors.file.dependency)
    target = options["out"] / file_name(merged.lock)
    # By its first line a file says whose it is: two modules may come to one package, and so to one file.
    before = files.get(target) or _content(target)
    if before and before.startswith(OWNER_LINE) and before.split("\n", 1)[0] != text.split("\n", 1)[0]:
        whose = before.removeprefix(OWNER_LINE).split(",", 1)[0]
        advice = "remove it if that one is no more, or give each an --out of its own"
        _fail([f"{module.__name__}: {target} is that of module {whose}: {advice}"])
    files[target] = text
    files[path] = merged.lock.text()
    changes += [f"{module.__name__}: {change}" for change in merged.changes]


def _refuse(module: ModuleType, problems: Iterable[tuple[str, str]], conflicts: list[tuple[str, str]]) -> NoReturn:
    lines = [f"{module.__name__}: {path}: {why}" for path, why in problems]
    if lines:
        lines.append("to leave a workflow type out, say --skip WORKFLOW")
    lines += [f"{module.__name__}: {path} {what}" for path, what in conflicts]
    if conflicts:
        lines.append(
            "name the field otherwise, or give it a new number with --allow-type-changes: see docs/typed-messages.md"
        )
    _fail(lines)


def _fail(lines: Iterable[str]) -> NoReturn:
    for line in lines:
        click.echo(f"error: {clean(line)}", err=True)
    sys.exit(1)


def _modules(names: Iterable[str]) -> list[ModuleType]:
    """Import modules (the working directory comes first); answer those that define their workflows, each once."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    found: dict[str, ModuleType] = {}
    for name in names:
        module = _import(name)
        workflows = [thing for thing in vars(module).values() if isinstance(thing, Workflow)]
        if not workflows:
            raise click.UsageError(f"module {name!r} has no function decorated with @workflow")
        for each in workflows:
            home = each.function.__module__
            if each not in workflows_of(home):
                raise click.UsageError(
                    f"workflow {each.name!r} is written in the module {home!r} and is none of its names: "
                    "its lock file would not be found"
                )
            found[home] = sys.modules[home]
    return list(found.values())


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the module is the user's: it may raise anything
        message = f"module {name!r} cannot be imported: {type(error).__name__}: {error}"
        raise click.UsageError(message) from None


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all: a lock file cut in half would lose numbers."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
        Path(file.name).chmod(mode)
        Path(file.name).replace(path)
    except OSError as error:
        _fail([f"{path} cannot be written: {error.strerror or error}"])
