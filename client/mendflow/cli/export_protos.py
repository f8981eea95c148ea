"""The command `mendflow export-protos`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mendflow.authoring.workflow import Workflow, workflows_of
from mendflow.cli.atomic_file import write_atomically
from mendflow.cli.event_text import clean
from mendflow.cli.modules import import_module
from mendflow.errors import DefinitionError
from mendflow.protogen.descriptors import Descriptors, file_name
from mendflow.protogen.exports import package_of, schemas_of
from mendflow.protogen.lock_file import LockFile, merge
from mendflow.protogen.lock_path import lock_path
from mendflow.protogen.proto_writer import OWNER_LINE, proto_text
from mendflow.protogen.schema import SchemaBuilder

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

__all__ = ["export_protos"]


@click.command(name="export-protos")
@click.argument("modules", metavar="MODULE...", nargs=-1, required=True)
@click.option(
    "--out", metavar="DIR", required=True, type=click.Path(path_type=Path), help="The folder for .proto files."
)
@click.option("--skip", metavar="WORKFLOW", multiple=True, help="Leave out this workflow type. Repeatable.")
@click.option("--go-prefix", metavar="PATH", help="The prefix of Go import paths. The lock file keeps it.")
@click.option(
    "--allow-type-changes",
    is_flag=True,
    help="Give a field whose type changed a new number. Existing callers no longer set the field.",
)
@click.option("--check", is_flag=True, help="Write nothing. Exit with 1 if a file is out of date.")
def export_protos(modules: tuple[str, ...], **options: Any) -> None:
    """Write the types of workflows as protobuf messages, for callers in other languages.

    MODULE is a name as in `import`, or the path of a .py file or of a package's folder.
    Each module gets a .proto file below DIR, with a message for the input, output and signals of each workflow type.
    A lock file beside the module keeps the field numbers. Commit both files. With the lock file, the server accepts
    these messages in Payload.message. See docs/typed-messages.md.
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
        click.echo(f"{path} {'written' if path in stale else 'unchanged'}")


def _export(module: ModuleType, options: dict[str, Any], files: dict[Path, str], changes: list[str]) -> None:
    """Add a module's two files to ``files`` and their changes to ``changes``. Exit if a type has no message."""
    path = lock_path(module)
    if path is None:
        raise click.UsageError(f"module {module.__name__!r} has no source file for a lock file to be placed beside")
    builder = SchemaBuilder()
    try:
        lock = LockFile.read(path) if path.exists() else LockFile(package=package_of(module.__name__))
        if options["go_prefix"] is not None:
            lock.go_prefix = options["go_prefix"]
        mine = sorted(workflows_of(module.__name__), key=lambda each: each.name)
        schemas = [schemas_of(each, builder) for each in mine if each.name not in options["skip"]]
        merged = merge(lock, schemas, allow_type_changes=options["allow_type_changes"])
        if builder.problems or merged.conflicts:
            _refuse(module, builder.problems, merged.conflicts)
        descriptors = Descriptors(merged.lock)
    except DefinitionError as error:
        _fail([str(error)])
    parts = [each for schema in schemas for message in schema.messages for each in message.reachable()]
    text = proto_text(merged.lock, parts, module.__name__, descriptors.file.dependency)
    target = options["out"] / file_name(merged.lock)
    # The first line names the module, because two modules can map to the same package and so to the same file.
    before = files.get(target) or _content(target)
    if before and before.startswith(OWNER_LINE) and before.split("\n", 1)[0] != text.split("\n", 1)[0]:
        owner = before.removeprefix(OWNER_LINE).split(",", 1)[0]
        advice = "delete the file if that module no longer exists, or use another --out"
        _fail([f"{module.__name__}: {target} belongs to module {owner}; {advice}"])
    files[target] = text
    files[path] = merged.lock.text()
    changes += [f"{module.__name__}: {change}" for change in merged.changes]


def _refuse(module: ModuleType, problems: Iterable[tuple[str, str]], conflicts: list[tuple[str, str]]) -> NoReturn:
    lines = [f"{module.__name__}: {path}: {why}" for path, why in problems]
    if lines:
        lines.append("change the type, or leave the workflow type out with --skip WORKFLOW")
    lines += [f"{module.__name__}: {path} {what}" for path, what in conflicts]
    if conflicts:
        lines.append("rename the field, or give it a new number with --allow-type-changes; see docs/typed-messages.md")
    _fail(lines)


def _fail(lines: Iterable[str]) -> NoReturn:
    for line in lines:
        click.echo(f"error: {clean(line)}", err=True)
    sys.exit(1)


def _modules(names: Iterable[str]) -> list[ModuleType]:
    """Import modules by their names or paths, and return the modules that define their workflows."""
    found: dict[str, ModuleType] = {}
    for name in names:
        module = import_module(name)
        workflows = [thing for thing in vars(module).values() if isinstance(thing, Workflow)]
        if not workflows:
            raise click.UsageError(f"module {name!r} has no function decorated with @workflow")
        for each in workflows:
            home = each.function.__module__
            if each not in workflows_of(home):
                raise click.UsageError(
                    f"workflow {each.name!r} is defined in module {home!r} but is not one of its global names, so the "
                    "server would not find its lock file; assign it to a global name"
                )
            found[home] = sys.modules[home]
    return list(found.values())


def _content(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _write(path: Path, text: str) -> None:
    # A half-written lock file would lose numbers.
    try:
        write_atomically(path, text)
    except OSError as error:
        _fail([f"{path} cannot be written: {error.strerror or error}"])
