"""The exported messages of a module's workflows, built from the code and the lock file."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from mendflow.codec.values import JsonType
from mendflow.errors import DefinitionError
from mendflow.protogen.descriptors import Descriptors
from mendflow.protogen.json_codec import JsonCodec
from mendflow.protogen.lock_file import LockFile, WorkflowSchemas, merge
from mendflow.protogen.schema import SchemaBuilder, camel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType

    from mendflow.codec import ValueType
    from mendflow.protogen.schema import MessageSchema

__all__ = ["COMMAND", "ModuleMessages", "WorkflowMessages", "find_messages", "lock_path", "package_of", "schemas_of"]

#: The command that exports a module's messages, for error messages.
COMMAND: Final = "mendflow export-protos {module} --out protos"


class WorkflowType(Protocol):
    """The part of a workflow type that its messages are built from. `mendflow.Workflow` implements it."""

    name: str

    @property
    def description(self) -> str:
        """The docstring of the function."""

    @property
    def function(self) -> Callable[..., Any]:
        """The workflow function."""

    @property
    def input_type(self) -> ValueType[Any] | None:
        """The type of the input; None if the workflow takes none."""

    @property
    def output_type(self) -> ValueType[Any]:
        """The type of the output."""

    @property
    def signals(self) -> Mapping[str, ValueType[Any]]:
        """The types of the declared signals, by name."""


@dataclass(frozen=True)
class WorkflowMessages:
    """The exported messages of one workflow type. None stands for a protobuf type, which needs no export."""

    input: JsonCodec | None
    output: JsonCodec | None
    signals: dict[str, JsonCodec]
    module: ModuleMessages


@dataclass(frozen=True)
class ModuleMessages:
    """The exported messages of one module."""

    descriptors: Descriptors
    workflows: dict[str, WorkflowMessages]


def lock_path(module: ModuleType) -> Path | None:
    """Return the path of a module's lock file, which may not exist, or None if the module has no file."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).with_suffix(".protos.lock.json")


def package_of(module: str) -> str:
    """Return the protobuf package of a module: the module's name and a version."""
    parts = [re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in module.split(".")]
    return ".".join([part if part[:1].isalpha() else f"m{part}" for part in parts] + ["v1"])


def schemas_of(workflow: WorkflowType, builder: SchemaBuilder) -> WorkflowSchemas:
    """Return a workflow type's messages. Types without a message are added to ``builder.problems``."""
    base, what = camel(workflow.name), f"workflow {workflow.name}"
    summary = workflow.description.partition("\n\n")[0]
    about = f"\n{summary}" if summary else ""

    def schema(value_type: Any, kind: str, base: str, comment: str) -> MessageSchema | None:
        if value_type is not None and not isinstance(value_type, JsonType):
            return None  # A protobuf type needs no message.
        known = len(builder.problems)
        message = builder.message_for(value_type, f"{what} {kind}", base, comment)
        builder.problems[known:] = [(f"{workflow.name} {kind}: {path}", why) for path, why in builder.problems[known:]]
        return message

    signals = {
        name: schema(each, f"signal {name}", f"{base}{camel(name)}Signal", f"The signal {name} of the {what}.")
        for name, each in workflow.signals.items()
    }
    return WorkflowSchemas(
        workflow.name,
        schema(workflow.input_type, "input", f"{base}Input", f"The input of the {what}.{about}"),
        schema(workflow.output_type, "output", f"{base}Output", f"The output of the {what}."),
        {name: message for name, message in signals.items() if message is not None},
    )


def find_messages(workflow: WorkflowType, siblings: Iterable[WorkflowType]) -> WorkflowMessages | None:
    """Return the messages of a workflow, or None if the lock file beside its module is missing or does not have it.

    ``siblings`` are the module's workflows. Raise `DefinitionError` if the lock file cannot be read or is out of date.
    """
    module = sys.modules.get(workflow.function.__module__)
    path = None if module is None else lock_path(module)
    if module is None or path is None:
        return None
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        return None
    found = _load(path, stamp, module.__name__, tuple(siblings))
    return found.workflows.get(workflow.name)


@functools.lru_cache(maxsize=256)
def _load(path: Path, stamp: int, module: str, workflows: Sequence[WorkflowType]) -> ModuleMessages:
    del stamp  # Only a part of the cache key: a changed file is read again.
    lock = LockFile.read(path)
    builder = SchemaBuilder()
    schemas = [schemas_of(each, builder) for each in workflows if each.name in lock.workflows]
    merged = merge(lock, schemas)
    differences = [f"{place}: {what}" for place, what in (*builder.problems, *merged.conflicts)] + merged.changes
    if differences:
        raise DefinitionError(
            f"{path} is out of date ({'; '.join(differences[:5])}); run {COMMAND.format(module=module)}"
        )
    descriptors = Descriptors(lock)
    numbers = {name: each.values for name, each in lock.enums.items()}
    messages = ModuleMessages(descriptors, {})

    def codec(message: MessageSchema | None) -> JsonCodec | None:
        return None if message is None else JsonCodec(message, descriptors, numbers)

    for each in schemas:
        signals = {name: JsonCodec(message, descriptors, numbers) for name, message in each.signals.items()}
        messages.workflows[each.name] = WorkflowMessages(codec(each.input), codec(each.output), signals, messages)
    return messages
