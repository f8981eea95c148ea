"""The lock file, which keeps the number of each field permanently.

A caller that was built long ago reads a message by its field numbers, so a number
never changes. When a field is removed, its number and name are reserved. When it
returns with the same type, it gets its old number. A field with another type is
a conflict, unless the user allows it to get a new number.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Final, Self

import pydantic

from mendflow.errors import DefinitionError
from mendflow.protogen.scalars import Scalar
from mendflow.protogen.schema import EnumSchema, MessageSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from mendflow.protogen.schema import FieldSchema

__all__ = ["LockFile", "LockedEnum", "LockedMessage", "LockedWorkflow", "MergeResult", "WorkflowSchemas", "merge"]

#: The numbers that protobuf reserves.
_PROTOBUF_NUMBERS: Final = range(19_000, 20_000)
_LAST: Final = (1 << 29) - 1
_ABOUT: Final = (
    "The field numbers of the messages that `mendflow export-protos` writes for this module, for good. "
    "Commit it beside the module: the server reads it. Do not edit it."
)


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class LockedField(_Part):
    """A field. ``type`` is its type in the .proto file, without ``optional``."""

    number: int = pydantic.Field(ge=1, le=_LAST)
    type: str


class Reserved(_Part):
    """A removed field."""

    number: int = pydantic.Field(ge=1, le=_LAST)
    name: str
    type: str = ""


class LockedMessage(_Part):
    """A message. ``source`` names the type in the code."""

    source: str
    fields: dict[str, LockedField] = {}
    reserved: list[Reserved] = []
    #: True if the code no longer has the message.
    removed: bool = False

    @pydantic.model_validator(mode="after")
    def _numbers(self) -> Self:
        _check_numbers([*(field.number for field in self.fields.values()), *(each.number for each in self.reserved)])
        return self


class LockedEnum(_Part):
    """An enum. Its values are without the prefix that they have in the .proto file."""

    source: str
    values: dict[str, Annotated[int, pydantic.Field(ge=1, lt=1 << 31)]] = {}
    reserved: list[Reserved] = []
    removed: bool = False

    @pydantic.model_validator(mode="after")
    def _numbers(self) -> Self:
        _check_numbers([*self.values.values(), *(each.number for each in self.reserved)], kept=range(0))
        return self


def _check_numbers(numbers: list[int], *, kept: range = _PROTOBUF_NUMBERS) -> None:
    """Raise ValueError for a number that is used twice, as after a bad merge, or that protobuf reserves."""
    for index, number in enumerate(numbers):
        if number in numbers[:index]:
            raise ValueError(f"must not have the number {number} twice")
        if number in kept:
            raise ValueError(f"must not have the number {number}, which protobuf reserves")


class LockedWorkflow(_Part):
    """The names of a workflow type's messages; "" where its type is already a protobuf message."""

    input: str = ""
    output: str = ""
    signals: dict[str, str] = {}


class _Version(pydantic.BaseModel):
    """The field that every version of a lock file has."""

    version: int


class LockFile(_Part):
    """The content of a lock file."""

    about: str = _ABOUT
    version: int = 1
    package: str = pydantic.Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)+$")
    #: The prefix of the Go import path.
    go_prefix: str = pydantic.Field("", pattern=r'^[^"\\\s]*$')
    workflows: dict[str, LockedWorkflow] = {}
    messages: dict[str, LockedMessage] = {}
    enums: dict[str, LockedEnum] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a lock file. Raise `DefinitionError` if the content is invalid, and OSError if it cannot be read."""
        content = path.read_bytes()
        with contextlib.suppress(ValueError):
            version = _Version.model_validate_json(content).version
            if version != 1:
                raise DefinitionError(
                    f"a newer mendflow wrote {path}: its version is {version}, not 1; upgrade mendflow"
                )
        try:
            return cls.model_validate_json(content)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DefinitionError(
                f"{path} is not a valid lock file of `mendflow export-protos`: {place} {first['msg']}"
            ) from None

    def text(self) -> str:
        """Return the file's content."""
        return json.dumps(self.model_dump(exclude_defaults=False, mode="json"), indent=2, ensure_ascii=False) + "\n"


@dataclass
class WorkflowSchemas:
    """The messages of a workflow type, before the lock file names them. None stands for a protobuf type."""

    name: str
    input: MessageSchema | None
    output: MessageSchema | None
    signals: dict[str, MessageSchema]

    @property
    def messages(self) -> list[MessageSchema]:
        """The messages of the input, the output and the signals."""
        return [each for each in (self.input, self.output, *self.signals.values()) if each is not None]


@dataclass
class MergeResult:
    """The result of merging a lock file with the code."""

    lock: LockFile
    #: Descriptions of the changes to the lock file. Empty: it is up to date.
    changes: list[str] = field(default_factory=list)
    #: A (path, description) pair for each field whose type changed.
    conflicts: list[tuple[str, str]] = field(default_factory=list)


def merge(lock: LockFile, workflows: Sequence[WorkflowSchemas], *, allow_type_changes: bool = False) -> MergeResult:
    """Return the lock file for these workflows, with every number of ``lock``. Set the name of each message."""
    done = MergeResult(lock.model_copy(deep=True))
    found: dict[int, MessageSchema | EnumSchema] = {}
    for workflow in workflows:
        for message in workflow.messages:
            found |= {id(each): each for each in message.reachable()}
    parts = list(found.values())
    _name(done.lock, parts)
    live = {part.name for part in parts}
    for kept in (done.lock.messages, done.lock.enums):
        for name, locked in kept.items():
            if name not in live and not locked.removed:
                done.changes.append(f"{name}: removed")
                locked.removed = True
    for part in parts:
        if isinstance(part, MessageSchema):
            _merge_message(done, part, allow_type_changes=allow_type_changes)
        else:
            _merge_enum(done, part)
    _merge_workflows(done, workflows)
    return done


def _merge_workflows(done: MergeResult, workflows: Sequence[WorkflowSchemas]) -> None:
    names = {
        each.name: LockedWorkflow(
            input=each.input.name if each.input else "",
            output=each.output.name if each.output else "",
            signals={name: message.name for name, message in sorted(each.signals.items())},
        )
        for each in sorted(workflows, key=lambda each: each.name)
    }
    before = done.lock.workflows
    for name in sorted(names.keys() | before.keys()):
        if names.get(name) != before.get(name):
            how = "added" if name not in before else "removed" if name not in names else "changed"
            done.changes.append(f"workflow {name}: {how}")
    done.lock.workflows = names


def _name(lock: LockFile, parts: Iterable[MessageSchema | EnumSchema]) -> None:
    """Set the name of each part to its name in the lock file, or else to its preferred name or a numbered one."""
    waiting, taken = [], set()
    by_source: dict[tuple[type, str], list[str]] = {}
    for type_, name, source in _locked(lock):
        by_source.setdefault((type_, source), []).append(name)
    for part in parts:
        names = by_source.get((type(part), part.source))
        if names:
            part.name = names.pop(0)
            taken.add(part.name)
        else:
            waiting.append(part)
    kinds = {name: type_ for type_, name, _ in _locked(lock)}
    for part in waiting:
        number = 1
        name = part.preferred_name
        # A removed part's name is free for a part of the same kind, because its class may have moved.
        while name in taken or kinds.get(name, type(part)) is not type(part):
            number += 1
            name = f"{part.preferred_name}{number}"
        part.name = name
        taken.add(name)


def _locked(lock: LockFile) -> list[tuple[type, str, str]]:
    """Return the kind, the name and the source of everything in the lock file."""
    messages: list[tuple[type, str, str]] = [(MessageSchema, name, each.source) for name, each in lock.messages.items()]
    return messages + [(EnumSchema, name, each.source) for name, each in lock.enums.items()]


def _record_source(
    done: MergeResult, locked: LockedMessage | LockedEnum, part: MessageSchema | EnumSchema, *, is_new: bool
) -> None:
    """Note in `done.changes` that a part is new, is back, or is made from another class, and lock its source."""
    if is_new:
        done.changes.append(f"{part.name}: added")
    elif locked.removed or locked.source != part.source:
        done.changes.append(f"{part.name}: now made from {part.source}")
        locked.removed, locked.source = False, part.source


def _merge_message(done: MergeResult, message: MessageSchema, *, allow_type_changes: bool) -> None:
    is_new = message.name not in done.lock.messages
    locked = done.lock.messages.setdefault(message.name, LockedMessage(source=message.source))
    _record_source(done, locked, message, is_new=is_new)
    wanted = {each.name: spell(each) for each in message.fields}
    for name in [name for name in locked.fields if name not in wanted]:
        was = locked.fields.pop(name)
        locked.reserved.append(Reserved(number=was.number, name=name, type=was.type))
        done.changes.append(f"{message.name}.{name}: removed; {was.number} is reserved")
    for name, type_ in wanted.items():
        now = locked.fields.get(name)
        if now is not None and now.type == type_:
            continue
        if now is not None:
            if not allow_type_changes:
                done.conflicts.append(
                    (f"{message.name}.{name}", f"was {now.type} (field {now.number}) and is now {type_}")
                )
                continue
            locked.reserved.append(Reserved(number=now.number, name=name, type=now.type))
        number = _number(locked, name, type_)
        locked.fields[name] = LockedField(number=number, type=type_)
        if not is_new:
            done.changes.append(f"{message.name}.{name}: {type_} = {number}")
    locked.fields = dict(sorted(locked.fields.items(), key=lambda item: item[1].number))
    locked.reserved.sort(key=lambda each: each.number)


def _number(locked: LockedMessage, name: str, type_: str) -> int:
    for each in locked.reserved:
        if (each.name, each.type) == (name, type_):
            locked.reserved.remove(each)
            return each.number
    used = [*(each.number for each in locked.fields.values()), *(each.number for each in locked.reserved)]
    number = max(used, default=0) + 1
    return _PROTOBUF_NUMBERS.stop if number in _PROTOBUF_NUMBERS else number


def _merge_enum(done: MergeResult, enum: EnumSchema) -> None:
    is_new = enum.name not in done.lock.enums
    locked = done.lock.enums.setdefault(enum.name, LockedEnum(source=enum.source))
    _record_source(done, locked, enum, is_new=is_new)
    for name in [name for name in locked.values if name not in enum.members]:
        number = locked.values.pop(name)
        locked.reserved.append(Reserved(number=number, name=name))
        done.changes.append(f"{enum.name}.{name}: removed; {number} is reserved")
    for name in enum.members:
        if name not in locked.values:
            back = next((each for each in locked.reserved if each.name == name), None)
            if back is not None:
                locked.reserved.remove(back)
            used = [*locked.values.values(), *(each.number for each in locked.reserved)]
            locked.values[name] = back.number if back is not None else max(used, default=0) + 1
            if not is_new:
                done.changes.append(f"{enum.name}.{name}: {locked.values[name]}")
    locked.values = dict(sorted(locked.values.items(), key=lambda item: item[1]))
    locked.reserved.sort(key=lambda each: each.number)


def spell(field_: FieldSchema) -> str:
    """Return a field's type in the .proto file, without ``optional``."""
    name = field_.type.proto if isinstance(field_.type, Scalar) else field_.type.name
    if field_.label == "map":
        return f"map<{field_.key}, {name}>"
    return f"repeated {name}" if field_.label else name


def constant(enum: str, value: str) -> str:
    """Return an enum value's name in the .proto file. It is prefixed, because the values of a package share a scope."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", enum))
    return f"{split.upper()}_{value}"
