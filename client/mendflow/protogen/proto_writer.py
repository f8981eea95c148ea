"""A lock's messages as the text of a .proto."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from mendflow.protogen.descriptors import options_of
from mendflow.protogen.lock_file import constant
from mendflow.protogen.schema import EnumSchema, MessageSchema

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from mendflow.protogen.lock_file import LockedEnum, LockedMessage, LockFile, Reserved

__all__ = ["OWNER_LINE", "proto_text"]

#: How a file begins, before the name of its module.
OWNER_LINE = "// The workflows of the Python module "

#: Where a type of protobuf's own is named.
_GOOGLE = re.compile(r"(?<![\w.])google\.")


def proto_text(
    lock: LockFile, parts: Iterable[MessageSchema | EnumSchema], module: str, dependencies: Iterable[str]
) -> str:
    """Answer the file; the comments come from ``parts``, the rest from the lock."""
    found = {part.name: part for part in parts}
    lines = [
        f"{OWNER_LINE}{module}, for callers in other languages.",
        "// Written by `mendflow export-protos`; do not edit it. A lock file beside the module keeps the numbers.",
        "//",
        "// Every field that stands alone has presence: one without a default in Python must be set.",
        "",
        'syntax = "proto3";',
        "",
        f"package {lock.package};",
        "",
    ]
    imports = [f'import "{name}";' for name in sorted(dependencies)]
    lines += [*imports, ""] if imports else []
    lines += [f"option {name} = {json.dumps(value)};" for name, value in sorted(options_of(lock).items())]
    for name in sorted(name for name, each in lock.messages.items() if not each.removed):
        part = found.get(name)
        lines += ["", *_message(lock, name, lock.messages[name], part if isinstance(part, MessageSchema) else None)]
    for name in sorted(name for name, each in lock.enums.items() if not each.removed):
        part = found.get(name)
        lines += ["", *_enum(name, lock.enums[name], part if isinstance(part, EnumSchema) else None)]
    return "\n".join(lines) + "\n"


def _message(lock: LockFile, name: str, locked: LockedMessage, message: MessageSchema | None) -> Iterator[str]:
    comments = {} if message is None else {each.name: each.comment for each in message.fields}
    yield from _comment("" if message is None else message.comment, "")
    if not locked.fields and not locked.reserved:
        yield f"message {name} {{}}"
        return
    yield f"message {name} {{"
    yield from _reserved(locked.reserved, {each.name: each.name for each in locked.reserved}, locked.fields)
    for field_name, field in locked.fields.items():
        yield from _comment(comments.get(field_name, ""), "  ")
        scalar = field.type in ("string", "int64", "double", "bool", "bytes") or field.type in lock.enums
        # From the root, where a part of the package has the same name.
        type_ = _GOOGLE.sub(".google.", field.type) if "google" in lock.package.split(".") else field.type
        yield f"  {'optional ' if scalar else ''}{type_} {field_name} = {field.number};"
    yield "}"


def _enum(name: str, locked: LockedEnum, enum: EnumSchema | None) -> Iterator[str]:
    yield from _comment("" if enum is None else enum.comment, "")
    yield f"enum {name} {{"
    yield from _reserved(locked.reserved, {each.name: constant(name, each.name) for each in locked.reserved}, {})
    yield "  // Not a value: refused."
    yield f"  {constant(name, 'UNSPECIFIED')} = 0;"
    for value, number in locked.values.items():
        told = None if enum is None else enum.members.get(value)
        if told is not None and told != value:
            yield from _comment(f"In JSON {json.dumps(told, ensure_ascii=False)}.", "  ")
        yield f"  {constant(name, value)} = {number};"
    yield "}"


def _reserved(reserved: Iterable[Reserved], names: Mapping[str, str], live: Mapping[str, object]) -> Iterator[str]:
    numbers = sorted({each.number for each in reserved})
    if numbers:
        yield f"  reserved {', '.join(map(str, numbers))};"
    free = sorted({told for name, told in names.items() if name not in live})
    if free:
        yield f"  reserved {', '.join(json.dumps(name) for name in free)};"


def _comment(text: str, indent: str) -> Iterator[str]:
    for line in text.splitlines():
        yield f"{indent}// {line}".rstrip()
