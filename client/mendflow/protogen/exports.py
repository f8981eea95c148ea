"""The messages of a module's workflows: found in the code, kept in the lock, used by whoever reads a payload."""

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

#: What makes the messages of a module, for people to copy.
COMMAND: Final = "mendflow export-protos {module} --out protos"


class WorkflowType(Protocol):
    """What the messages of a workflow type are made of; `mendflow.Workflow` is one."""

    name: str

    @property
    def description(self) -> str:
        """The docstring of its function."""

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""

    @property
    def input_type(self) -> ValueType[Any] | None:
        """The type of its input; None: it takes none."""

    @property
    def output_type(self) -> ValueType[Any]:
        """The type of its output."""

    @property
    def signals(self) -> Mapping[str, ValueType[Any]]:
        """The types of its declared signals, by name."""


@dataclass(frozen=True)
class WorkflowMessages:
    """The exported messages of one workflow type. None: it is a protobuf type, which needs none."""

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
    """Answer where a module's lock file lies, be it there or not; None: the module has no file."""
    file = getattr(module, "__file__", None)
    return None if file is None else Path(file).with_suffix(".protos.lock.json")


def package_of(module: str) -> str:
    """Answer the protobuf package of a module: its own name, and a version."""
    parts = [re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in module.split(".")]
    return ".".join([part if part[:1].isalpha() else f"m{part}" for part in parts] + ["v1"])


def schemas_of(workflow: WorkflowType, builder: SchemaBuilder) -> WorkflowSchemas:
    """Answer a workflow type's messages; what cannot be told is in the builder's problems."""
    base, what = camel(workflow.name), f"workflow {workflow.name}"
    about = workflow.description.partition("\n\n")[0]
    telling = f"\n{about}" if about else ""

    def whole(value_type: Any, kind: str, base: str, comment: str) -> MessageSchema | None:
        if value_type is not None and not isinstance(value_type, JsonType):
            return None  # A protobuf message says all itself.
        known = len(builder.problems)
        message = builder.message_for(value_type, f"{what} {kind}", base, comment)
        builder.problems[known:] = [(f"{workflow.name} {kind}: {path}", why) for path, why in builder.problems[known:]]
        return message

    signals = {
        name: whole(each, f"signal {name}", f"{base}{camel(name)}Signal", f"The signal {name} of the {what}.")
        for name, each in workflow.signals.items()
    }
    return WorkflowSchemas(
        workflow.name,
        whole(workflow.input_type, "input", f"{base}Input", f"What the {what} takes.{telling}"),
        whole(workflow.output_type, "output", f"{base}Output", f"What the {what} returns."),
        {name: message for name, message in signals.items() if message is not None},
    )


def find_messages(workflow: WorkflowType, siblings: Iterable[WorkflowType]) -> WorkflowMessages | None:
    """Answer the messages of a workflow by the lock beside its module; None: it is not in one, or there is none.

    ``siblings`` are the module's workflows. Raises `DefinitionError` when the lock cannot be read, or is behind the
    code.
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
    del stamp  # A part of the key: another file.
    lock = LockFile.read(path)
    builder = SchemaBuilder()
    shapes = [schemas_of(each, builder) for each in workflows if each.name in lock.workflows]
    merged = merge(lock, shapes)
    behind = [f"{place}: {what}" for place, what in (*builder.problems, *merged.conflicts)] + merged.changes
    if behind:
        raise DefinitionError(
            f"{path} is behind the code ({'; '.join(behind[:5])}): run {COMMAND.format(module=module)}"
        )
    descriptors = Descriptors(lock)
    numbers = {name: each.values for name, each in lock.enums.items()}
    messages = ModuleMessages(descriptors, {})

    def form(message: MessageSchema | None) -> JsonCodec | None:
        return None if message is None else JsonCodec(message, descriptors, numbers)

    for each in shapes:
        signals = {name: JsonCodec(message, descriptors, numbers) for name, message in each.signals.items()}
        messages.workflows[each.name] = WorkflowMessages(form(each.input), form(each.output), signals, messages)
    return messages
