"""Conversion between an exported message and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, EncodeError

from mendflow.codec.problems import path_of, payload_error, strict_json
from mendflow.protogen.scalars import NotConvertible, Scalar
from mendflow.protogen.schema import EnumSchema, MessageSchema
from mendflow.v1 import payload_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf import any_pb2

    from mendflow.errors import PayloadError
    from mendflow.protogen.descriptors import Descriptors
    from mendflow.protogen.schema import FieldSchema

__all__ = ["JsonCodec"]

_TYPE_URL: Final = "type.googleapis.com/"
_ABSENT: Final = object()


class JsonCodec:
    """Converts values of one exported message. It is thread-safe."""

    def __init__(
        self, message: MessageSchema, descriptors: Descriptors, numbers: Mapping[str, Mapping[str, int]]
    ) -> None:
        self.name = f"{descriptors.file.package}.{message.name}"
        self._schema = message
        self._class = descriptors.message(message.name)
        #: The numbers of enum values, by the enum's name and the value's name.
        self._numbers = numbers

    def to_json(self, message: any_pb2.Any) -> str:
        """Return a message's value as JSON text. Raise `PayloadError` if it has none."""
        url = message.type_url
        if "/" not in url or url.rpartition("/")[2] != self.name:
            raise self._error("", f"must be JSON or the message {self.name}, not the message {url!r}")
        try:
            value = self._read(self._schema, self._class.FromString(message.value))
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except DecodeError as error:
            raise self._error("", f"its bytes are not a {self.name}: {error}") from error
        except NotConvertible as error:
            raise self._error(path_of(error.places), error.problem) from error
        except RecursionError as error:
            raise self._error("", "is nested too deeply") from error

    def to_message(self, text: str | bytes) -> payload_pb2.Payload:
        """Return a payload with the message for a JSON text. Raise `PayloadError` if there is none."""
        message = self._class()
        try:
            self._fill(self._schema, message, strict_json(text))
            value = message.SerializeToString(deterministic=True)
            # A receiver rejects a message that is nested more deeply than this can parse.
            self._class.FromString(value)
        except NotConvertible as error:
            raise self._error(path_of(error.places), error.problem) from error
        except (DecodeError, EncodeError, RecursionError) as error:
            raise self._error("", "is nested too deeply for a message") from error
        except (ValueError, TypeError) as error:
            raise self._error("", str(error)) from error
        payload = payload_pb2.Payload()
        payload.message.type_url = _TYPE_URL + self.name
        payload.message.value = value
        return payload

    def _error(self, path: str, problem: str) -> PayloadError:
        return payload_error(self.name, [(path, problem)])

    # From a message.

    def _read(self, schema: MessageSchema, message: Any) -> Any:
        if schema.form == "null":
            return None
        found = {}
        for part in schema.fields:
            if part.output_only:
                continue
            try:
                value = self._read_field(part, message)
            except NotConvertible as error:
                raise error.inside(part.member or part.name) from error
            if value is not _ABSENT:
                found[part.member] = value
        if schema.form == "record":
            return found
        if not found:
            raise NotConvertible("is required but not set").inside(schema.fields[0].name)
        return found[schema.fields[0].member]

    def _read_field(self, part: FieldSchema, message: Any) -> Any:
        if part.label:
            return self._read_many(part, getattr(message, part.name))
        if not message.HasField(part.name):
            return None if part.nullable else _ABSENT
        return self._value(part.type, getattr(message, part.name))

    def _read_many(self, part: FieldSchema, values: Any) -> list[Any] | dict[str, Any]:
        place: int | str = 0
        items: list[Any] = []
        entries: dict[str, Any] = {}
        try:
            if part.label == "repeated":
                for place, value in enumerate(values):  # noqa: B007 - used in the error
                    items.append(self._value(part.type, value))
                return items
            for key in values:
                place = str(key)
                entries[place] = self._value(part.type, values[key])
        except NotConvertible as error:
            raise error.inside(place) from error
        return entries

    def _value(self, type_: Scalar | MessageSchema | EnumSchema, value: Any) -> Any:
        if isinstance(type_, Scalar):
            return type_.read(value)
        if isinstance(type_, MessageSchema):
            return self._read(type_, value)
        for name, number in self._numbers[type_.name].items():
            if number == value:
                return type_.members[name]
        raise NotConvertible(
            f"{value} is not a value of {type_.name}" if value else f"must not be {type_.name}'s UNSPECIFIED"
        )

    # Into a message.

    def _fill(self, schema: MessageSchema, message: Any, value: Any) -> None:
        message.SetInParent()
        if schema.form == "null":
            if value is not None:
                raise NotConvertible("must be null")
            return
        if schema.form == "value":
            value = {schema.fields[0].member: value}
        elif not isinstance(value, dict):
            raise NotConvertible("must be a JSON object")
        parts = {part.member: part for part in schema.fields}
        for member, each in value.items():
            part = parts.get(member)
            try:
                if part is None:
                    raise NotConvertible(f"is not a field of {schema.name}")  # noqa: TRY301 - gets its place below
                self._fill_field(part, message, each)
            except NotConvertible as error:
                raise error.inside(member or "value") from error

    def _fill_field(self, part: FieldSchema, message: Any, value: Any) -> None:
        if value is None and part.nullable:
            return
        if part.label:
            self._fill_many(part, getattr(message, part.name), value)
        elif isinstance(part.type, MessageSchema):
            self._fill(part.type, getattr(message, part.name), value)
        elif isinstance(part.type, Scalar) and part.type.is_message:
            _set_time(getattr(message, part.name), part.type.write(value))
        else:
            setattr(message, part.name, self._scalar(part.type, value))

    def _fill_many(self, part: FieldSchema, many: Any, value: Any) -> None:
        kind = list if part.label == "repeated" else dict
        if not isinstance(value, kind):
            raise NotConvertible(f"must be a {kind.__name__} in JSON, not a {type(value).__name__}")
        place: int | str = 0
        try:
            for place, each in enumerate(value) if isinstance(value, list) else value.items():
                if part.label == "repeated":
                    self._append(part.type, many, each)
                else:
                    self._enter(part, many, str(place), each)
        except NotConvertible as error:
            raise error.inside(place) from error

    def _append(self, type_: Scalar | MessageSchema | EnumSchema, items: Any, value: Any) -> None:
        if isinstance(type_, MessageSchema):
            self._fill(type_, items.add(), value)
        elif isinstance(type_, Scalar) and type_.is_message:
            _set_time(items.add(), type_.write(value))
        else:
            items.append(self._scalar(type_, value))

    def _enter(self, part: FieldSchema, entries: Any, key: str, value: Any) -> None:
        place: str | int = int(key) if part.key == "int64" else key
        if isinstance(part.type, MessageSchema):
            self._fill(part.type, entries[place], value)
        elif isinstance(part.type, Scalar) and part.type.is_message:
            _set_time(entries[place], part.type.write(value))
        else:
            entries[place] = self._scalar(part.type, value)

    def _scalar(self, type_: Scalar | EnumSchema, value: Any) -> Any:
        if isinstance(type_, Scalar):
            return type_.write(value)
        for name, member in type_.members.items():
            if type(member) is type(value) and member == value:
                return self._numbers[type_.name][name]
        raise NotConvertible(f"{value!r:.100} is not a value of {type_.name}")


def _set_time(target: Any, source: Any) -> None:
    """Copy a Timestamp or a Duration by its fields, because each pool has its own class for it."""
    target.seconds, target.nanos = source.seconds, source.nanos
    target.SetInParent()
