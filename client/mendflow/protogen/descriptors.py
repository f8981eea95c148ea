"""Protobuf descriptors of a lock file's messages. They are built at run time, so a server needs no compiler."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, message_factory, timestamp_pb2

from mendflow.errors import DefinitionError
from mendflow.protogen.lock_file import constant

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mendflow.protogen.lock_file import LockedEnum, LockedMessage, LockFile

__all__ = ["Descriptors", "file_name", "options_of"]

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "int64": _Field.TYPE_INT64,
    "double": _Field.TYPE_DOUBLE,
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
}
_WELL_KNOWN: Final = {
    "google.protobuf.Duration": duration_pb2.DESCRIPTOR,
    "google.protobuf.Timestamp": timestamp_pb2.DESCRIPTOR,
}
_is_map: Final = re.compile(r"map<(\w+), ([\w.]+)>").fullmatch


class Descriptors:
    """The descriptors of one lock file, in their own pool."""

    def __init__(self, lock: LockFile) -> None:
        """Build the descriptors. Raise `DefinitionError` if the lock file's messages conflict."""
        self.file = _file(lock)
        self.pool = descriptor_pool.DescriptorPool()
        try:
            for name in self.file.dependency:
                known = next(each for each in _WELL_KNOWN.values() if each.name == name)
                self.pool.AddSerializedFile(known.serialized_pb)
            self.pool.AddSerializedFile(self.file.SerializeToString())
        except TypeError as error:
            raise DefinitionError(f"the messages of {lock.package} conflict with each other: {error}") from error

    def message(self, name: str) -> type[Message]:
        """Return the class of a message of this package."""
        descriptor = self.pool.FindMessageTypeByName(f"{self.file.package}.{name}")
        return message_factory.GetMessageClass(descriptor)


def file_name(lock: LockFile) -> str:
    """Return the path of the .proto file, relative to the folder that compilers import from."""
    folder = lock.package.replace(".", "/")
    return f"{folder}/{lock.package.split('.')[-2]}.proto"


def options_of(lock: LockFile) -> dict[str, str | bool]:
    """Return the options of the .proto file, by name."""
    parts = lock.package.split(".")
    path = "/".join(part for part in (lock.go_prefix.strip("/"), *parts) if part)
    return {
        "go_package": f"{path};{parts[-2].replace('_', '')}{parts[-1]}",
        "java_multiple_files": True,
        "java_outer_classname": "".join(part.title() for part in parts[-2].split("_")) + "Proto",
        "java_package": lock.package,
    }


def _file(lock: LockFile) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name=file_name(lock), package=lock.package, syntax="proto3")
    for option, value in options_of(lock).items():
        setattr(file.options, option, value)
    types = [each.type for message in lock.messages.values() if not message.removed for each in message.fields.values()]
    file.dependency.extend(
        descriptor.name
        for name, descriptor in _WELL_KNOWN.items()
        if any(name in re.findall(r"[\w.]+", type_) for type_ in types)
    )
    for name, message in lock.messages.items():
        if not message.removed:
            _add_message(file.message_type.add(), lock, name, message)
    for name, enum in lock.enums.items():
        if not enum.removed:
            _add_enum(file.enum_type.add(), name, enum)
    return file


def _add_message(made: Any, lock: LockFile, name: str, message: LockedMessage) -> None:
    made.name = name
    singular = []
    for field_name, locked in message.fields.items():
        field = made.field.add(name=field_name, number=locked.number, label=_Field.LABEL_REPEATED)
        map_ = _is_map(locked.type)
        if map_:
            entry = made.nested_type.add(name=_entry_name(field_name))
            entry.options.map_entry = True
            key = entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL)
            value = entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL)
            _set_type(key, lock, map_[1])
            _set_type(value, lock, map_[2])
            field.type = _Field.TYPE_MESSAGE
            field.type_name = f".{lock.package}.{name}.{entry.name}"
        elif locked.type.startswith("repeated "):
            _set_type(field, lock, locked.type.removeprefix("repeated "))
        else:
            field.label = _Field.LABEL_OPTIONAL
            _set_type(field, lock, locked.type)
            if field.type != _Field.TYPE_MESSAGE:
                singular.append(field)
    # proto3 marks presence with a synthetic oneof for each field, after all other oneofs.
    for field in singular:
        field.proto3_optional = True
        field.oneof_index = len(made.oneof_decl)
        made.oneof_decl.add(name=f"_{field.name}")
    for each in message.reserved:
        made.reserved_range.add(start=each.number, end=each.number + 1)
    made.reserved_name.extend(sorted({each.name for each in message.reserved} - message.fields.keys()))


def _entry_name(field_name: str) -> str:
    # protoc uses the same name.
    return "".join(part[:1].upper() + part[1:] for part in field_name.split("_")) + "Entry"


def _set_type(field: Any, lock: LockFile, name: str) -> None:
    if name in _SCALARS:
        field.type = _SCALARS[name]
        return
    field.type = _Field.TYPE_ENUM if name in lock.enums else _Field.TYPE_MESSAGE
    field.type_name = f".{name}" if name in _WELL_KNOWN else f".{lock.package}.{name}"


def _add_enum(made: Any, name: str, enum: LockedEnum) -> None:
    made.name = name
    made.value.add(name=constant(name, "UNSPECIFIED"), number=0)
    for value, number in enum.values.items():
        made.value.add(name=constant(name, value), number=number)
    for each in enum.reserved:
        made.reserved_range.add(start=each.number, end=each.number)
        made.reserved_name.append(constant(name, each.name))
