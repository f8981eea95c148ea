"""The messages of a module's workflows: found in the code, kept in the lock, used by whoever reads a payload."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from mendflow.codec.values import JsonType
from mendflow.errors import DefinitionError
from mendflow.protogen.descriptors import Descriptors
from mendflow.protogen.json_codec import Form
from mendflow.protogen.lock_file import Lock, WorkflowShapes, merge
from mendflow.protogen.lock_path import COMMAND
from mendflow.protogen.schema import Shaper, camel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from mendflow.codec import ValueType
    from mendflow.protogen.schema import Message

__all__ = ["ModuleMessages", "WorkflowMessages", "load_messages", "package_of", "shapes_of"]


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

    input: Form | None
    output: Form | None
    signals: dict[str, Form]
    module: ModuleMessages


@dataclass(frozen=True)
class ModuleMessages:
    """The exported messages of one module."""

    descriptors: Descriptors
    workflows: dict[str, WorkflowMessages]


def package_of(module: str) -> str:
    """Answer the protobuf package of a module: its own name, and a version."""
    parts = [re.sub(r"[^a-z0-9]+", "_", part.lower()).strip("_") for part in module.split(".")]
    return ".".join([part if part[:1].isalpha() else f"m{part}" for part in parts] + ["v1"])


def shapes_of(workflow: WorkflowType, shaper: Shaper) -> WorkflowShapes:
    """Answer a workflow type's messages; what cannot be told is in the shaper's problems."""
    base, what = camel(workflow.name), f"workflow {workflow.name}"
    about = workflow.description.partition("\n\n")[0]
    telling = f"\n{about}" if about else ""

    def whole(value_type: Any, kind: str, base: str, comment: str) -> Message | None:
        if value_type is not None and not isinstance(value_type, JsonType):
            return None  # A protobuf message says all itself.
        known = len(shaper.problems)
        message = shaper.whole(value_type, f"{what} {kind}", base, comment)
        shaper.problems[known:] = [(f"{workflow.name} {kind}: {path}", why) for path, why in shaper.problems[known:]]
        return message

    signals = {
        name: whole(each, f"signal {name}", f"{base}{camel(name)}Signal", f"The signal {name} of the {what}.")
        for name, each in workflow.signals.items()
    }
    return WorkflowShapes(
        workflow.name,
        whole(workflow.input_type, "input", f"{base}Input", f"What the {what} takes.{telling}"),
        whole(workflow.output_type, "output", f"{base}Output", f"What the {what} returns."),
        {name: message for name, message in signals.items() if message is not None},
    )


@functools.lru_cache(maxsize=256)
def load_messages(path: Path, stamp: int, module: str, workflows: Sequence[WorkflowType]) -> ModuleMessages:
    """Return the messages in a lock file as it is at this ``stamp``. Raises `DefinitionError`."""
    del stamp  # A part of the key: another file.
    lock = Lock.read(path)
    shaper = Shaper()
    shapes = [shapes_of(each, shaper) for each in workflows if each.name in lock.workflows]
    merged = merge(lock, shapes)
    behind = [f"{place}: {what}" for place, what in (*shaper.problems, *merged.conflicts)] + merged.changes
    if behind:
        raise DefinitionError(
            f"{path} is behind the code ({'; '.join(behind[:5])}): run {COMMAND.format(module=module)}"
        )
    descriptors = Descriptors(lock)
    numbers = {name: each.values for name, each in lock.enums.items()}
    messages = ModuleMessages(descriptors, {})

    def form(message: Message | None) -> Form | None:
        return None if message is None else Form(message, descriptors, numbers)

    for each in shapes:
        signals = {name: Form(message, descriptors, numbers) for name, message in each.signals.items()}
        messages.workflows[each.name] = WorkflowMessages(form(each.input), form(each.output), signals, messages)
    return messages
