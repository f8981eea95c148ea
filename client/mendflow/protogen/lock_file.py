"""The lock file: which number each field has, for good.

Numbers are what makes a message readable for a caller that was built long ago,
so they are given once. A field that goes leaves its number and name behind,
reserved; when it comes back as it was, it gets its number again. A field of
another type is another field: that is refused, or it gets a new number.
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

#: protobuf keeps these for itself.
_KEPT: Final = range(19_000, 20_000)
_LAST: Final = (1 << 29) - 1
_ABOUT: Final = (
    "The field numbers of the messages that `mendflow export-protos` writes for this module, for good. "
    "Commit it beside the module: the server reads it. Do not edit it."
)


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class LockedField(_Part):
    """A field; ``type`` is spelled as in the .proto, without ``optional``."""

    number: int = pydantic.Field(ge=1, le=_LAST)
    type: str


class Reserved(_Part):
    """A field that was."""

    number: int = pydantic.Field(ge=1, le=_LAST)
    name: str
    type: str = ""


class LockedMessage(_Part):
    """A message. ``source`` is what of the code it is made from."""

    source: str
    fields: dict[str, LockedField] = {}
    reserved: list[Reserved] = []
    #: The code no longer has it.
    removed: bool = False

    @pydantic.model_validator(mode="after")
    def _numbers(self) -> Self:
        _check_numbers([*(field.number for field in self.fields.values()), *(each.number for each in self.reserved)])
        return self


class LockedEnum(_Part):
    """An enum; its values without the prefix that they have in the .proto."""

    source: str
    values: dict[str, Annotated[int, pydantic.Field(ge=1, lt=1 << 31)]] = {}
    reserved: list[Reserved] = []
    removed: bool = False

    @pydantic.model_validator(mode="after")
    def _numbers(self) -> Self:
        _check_numbers([*self.values.values(), *(each.number for each in self.reserved)], kept=range(0))
        return self


def _check_numbers(numbers: list[int], *, kept: range = _KEPT) -> None:
    """Raise ValueError for a number that means two things, as after a merge, or that protobuf keeps for itself."""
    for index, number in enumerate(numbers):
        if number in numbers[:index]:
            raise ValueError(f"has the number {number} twice")
        if number in kept:
            raise ValueError(f"has the number {number}, which protobuf keeps for itself")


class LockedWorkflow(_Part):
    """The messages of a workflow type; empty where it takes a protobuf type of its author's."""

    input: str = ""
    output: str = ""
    signals: dict[str, str] = {}


class _Version(pydantic.BaseModel):
    """What every version of a lock file has."""

    version: int


class LockFile(_Part):
    """The content of a lock file."""

    about: str = _ABOUT
    version: int = 1
    package: str = pydantic.Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)+$")
    #: What the Go import path begins with.
    go_prefix: str = pydantic.Field("", pattern=r'^[^"\\\s]*$')
    workflows: dict[str, LockedWorkflow] = {}
    messages: dict[str, LockedMessage] = {}
    enums: dict[str, LockedEnum] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file. Raises `DefinitionError` for one that is no lock file, OSError."""
        content = path.read_bytes()
        with contextlib.suppress(ValueError):
            version = _Version.model_validate_json(content).version
            if version != 1:
                raise DefinitionError(f"{path} was written by a newer mendflow: its version is {version}, not 1")
        try:
            return cls.model_validate_json(content)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DefinitionError(
                f"{path} is no lock file of `mendflow export-protos`: {place} {first['msg']}"
            ) from None

    def text(self) -> str:
        """Answer the file's content."""
        return json.dumps(self.model_dump(exclude_defaults=False, mode="json"), indent=2, ensure_ascii=False) + "\n"


@dataclass
class WorkflowSchemas:
    """The messages of a workflow type, before the lock has named them. None: it is a protobuf type already."""

    name: str
    input: MessageSchema | None
    output: MessageSchema | None
    signals: dict[str, MessageSchema]

    @property
    def messages(self) -> list[MessageSchema]:
        """All of them."""
        return [each for each in (self.input, self.output, *self.signals.values()) if each is not None]


@dataclass
class MergeResult:
    """What came of bringing a lock and the code together."""

    lock: LockFile
    #: What the lock did not have, in words. Empty: it is up to date.
    changes: list[str] = field(default_factory=list)
    #: (path, what) for each field whose type is another one now.
    conflicts: list[tuple[str, str]] = field(default_factory=list)


def merge(lock: LockFile, workflows: Sequence[WorkflowSchemas], *, allow_type_changes: bool = False) -> MergeResult:
    """Answer the lock of these workflows, which keeps every number of ``lock``; each message gets its name."""
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
    """Name each: as the lock has it, else as it would like to be named."""
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
        # A name that only the past holds is free for the same kind of thing: perhaps its class was moved.
        while name in taken or kinds.get(name, type(part)) is not type(part):
            number += 1
            name = f"{part.preferred_name}{number}"
        part.name = name
        taken.add(name)


def _locked(lock: LockFile) -> list[tuple[type, str, str]]:
    """Answer the kind, name and source of all that the lock has."""
    messages: list[tuple[type, str, str]] = [(MessageSchema, name, each.source) for name, each in lock.messages.items()]
    return messages + [(EnumSchema, name, each.source) for name, each in lock.enums.items()]


def _merge_message(done: MergeResult, message: MessageSchema, *, allow_type_changes: bool) -> None:
    locked = done.lock.messages.get(message.name)
    is_new = locked is None
    if locked is None:
        locked = done.lock.messages[message.name] = LockedMessage(source=message.source)
        done.changes.append(f"{message.name}: added")
    if locked.removed or locked.source != message.source:
        done.changes.append(f"{message.name}: made from {message.source} now")
        locked.removed, locked.source = False, message.source
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
                    (f"{message.name}.{name}", f"was {now.type} (field {now.number}), is {type_} now")
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
    return _KEPT.stop if number in _KEPT else number


def _merge_enum(done: MergeResult, enum: EnumSchema) -> None:
    locked = done.lock.enums.get(enum.name)
    is_new = locked is None
    if locked is None:
        locked = done.lock.enums[enum.name] = LockedEnum(source=enum.source)
        done.changes.append(f"{enum.name}: added")
    if locked.removed or locked.source != enum.source:
        done.changes.append(f"{enum.name}: made from {enum.source} now")
        locked.removed, locked.source = False, enum.source
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
    """Answer a field's type as the .proto has it, without ``optional``."""
    name = field_.type.proto if isinstance(field_.type, Scalar) else field_.type.name
    if field_.label == "map":
        return f"map<{field_.key}, {name}>"
    return f"repeated {name}" if field_.label else name


def constant(enum: str, value: str) -> str:
    """Answer the name that an enum's value has in the .proto, where all values of a package share one space."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", enum))
    return f"{split.upper()}_{value}"
