"""A value's message, to and from its JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.message import DecodeError, EncodeError

from mendflow.codec.faults import path_of, payload_error, strict_json
from mendflow.messages.leaves import Leaf, Untold
from mendflow.messages.shapes import Choice, Message
from mendflow.v1 import payload_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf import any_pb2

    from mendflow.errors import PayloadError
    from mendflow.messages.descriptors import Descriptors
    from mendflow.messages.shapes import Field

__all__ = ["Form"]

_TYPE_URL: Final = "type.googleapis.com/"
_ABSENT: Final = object()


class Form:
    """One exported message, and how its values are told in JSON. Thread-safe."""

    def __init__(self, message: Message, descriptors: Descriptors, numbers: Mapping[str, Mapping[str, int]]) -> None:
        self.name = f"{descriptors.file.package}.{message.name}"
        self._shape = message
        self._class = descriptors.message(message.name)
        #: Each enum's numbers, by its name and the names of its values.
        self._numbers = numbers

    def to_json(self, message: any_pb2.Any) -> str:
        """Answer the JSON text that says the same. Raises `PayloadError`."""
        url = message.type_url
        if "/" not in url or url.rpartition("/")[2] != self.name:
            raise self._error("", f"takes JSON or the message {self.name}, not the message {url!r}")
        try:
            value = self._read(self._shape, self._class.FromString(message.value))
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except DecodeError as error:
            raise self._error("", f"its bytes are not a {self.name}: {error}") from error
        except Untold as untold:
            raise self._error(path_of(untold.places), untold.problem) from untold
        except RecursionError as error:
            raise self._error("", "is nested too deep") from error

    def to_message(self, text: str | bytes) -> payload_pb2.Payload:
        """Answer the payload whose message says the same as a JSON text. Raises `PayloadError`."""
        message = self._class()
        try:
            self._fill(self._shape, message, strict_json(text))
            value = message.SerializeToString(deterministic=True)
            # Deeper than this a receiver does not read.
            self._class.FromString(value)
        except Untold as untold:
            raise self._error(path_of(untold.places), untold.problem) from untold
        except (DecodeError, EncodeError, RecursionError) as error:
            raise self._error("", "is nested too deep for a message") from error
        except (ValueError, TypeError) as error:
            raise self._error("", str(error)) from error
        payload = payload_pb2.Payload()
        payload.message.type_url = _TYPE_URL + self.name
        payload.message.value = value
        return payload

    def _error(self, path: str, problem: str) -> PayloadError:
        return payload_error(self.name, [(path, problem)])

    # From a message.

    def _read(self, shape: Message, message: Any) -> Any:
        if shape.form == "null":
            return None
        if shape.form == "value":
            part = shape.fields[0]
            value = _inside(part.name, lambda: self._read_field(part, message))
            if value is _ABSENT:
                raise _at(part.name, Untold("is required"))
            return value
        found = {}
        for part in shape.fields:
            if part.output_only:
                continue
            value = _inside(part.member, lambda part=part: self._read_field(part, message))  # type: ignore[misc]
            if value is not _ABSENT:
                found[part.member] = value
        return found

    def _read_field(self, part: Field, message: Any) -> Any:
        if part.label == "repeated":
            values = getattr(message, part.name)
            return [_inside(index, lambda v=value: self._value(part.type, v)) for index, value in enumerate(values)]  # type: ignore[misc]
        if part.label == "map":
            values = getattr(message, part.name)
            return {str(key): _inside(str(key), lambda k=key: self._value(part.type, values[k])) for key in values}  # type: ignore[misc]
        if not message.HasField(part.name):
            return None if part.nullable else _ABSENT
        return self._value(part.type, getattr(message, part.name))

    def _value(self, type_: Leaf | Message | Choice, value: Any) -> Any:
        if isinstance(type_, Leaf):
            return type_.read(value)
        if isinstance(type_, Message):
            return self._read(type_, value)
        for name, number in self._numbers[type_.name].items():
            if number == value:
                return type_.members[name]
        raise Untold(f"{value} is not a value of {type_.name}" if value else f"is {type_.name}'s UNSPECIFIED")

    # Into a message.

    def _fill(self, shape: Message, message: Any, value: Any) -> None:
        message.SetInParent()
        if shape.form == "null":
            if value is not None:
                raise Untold("is not null")
            return
        if shape.form == "value":
            part = shape.fields[0]
            _inside(part.name, lambda: self._fill_field(part, message, value))
            return
        if not isinstance(value, dict):
            raise Untold("is not an object")
        parts = {part.member: part for part in shape.fields}
        for member, each in value.items():
            part_ = parts.get(member)
            if part_ is None:
                raise _at(member, Untold(f"is no field of {shape.name}"))
            _inside(member, lambda part_=part_, each=each: self._fill_field(part_, message, each))  # type: ignore[misc]

    def _fill_field(self, part: Field, message: Any, value: Any) -> None:
        if value is None and part.nullable:
            return
        if part.label == "repeated":
            if not isinstance(value, list):
                raise Untold("is not an array")
            items = getattr(message, part.name)
            for index, each in enumerate(value):
                _inside(index, lambda each=each: self._append(part.type, items, each))  # type: ignore[misc]
        elif part.label == "map":
            if not isinstance(value, dict):
                raise Untold("is not an object")
            entries = getattr(message, part.name)
            for key, each in value.items():
                _inside(key, lambda key=key, each=each: self._enter(part, entries, key, each))  # type: ignore[misc]
        elif isinstance(part.type, Message):
            self._fill(part.type, getattr(message, part.name), value)
        elif isinstance(part.type, Leaf) and part.type.is_message:
            _set_time(getattr(message, part.name), part.type.write(value))
        else:
            setattr(message, part.name, self._scalar(part.type, value))

    def _append(self, type_: Leaf | Message | Choice, items: Any, value: Any) -> None:
        if isinstance(type_, Message):
            self._fill(type_, items.add(), value)
        elif isinstance(type_, Leaf) and type_.is_message:
            _set_time(items.add(), type_.write(value))
        else:
            items.append(self._scalar(type_, value))

    def _enter(self, part: Field, entries: Any, key: str, value: Any) -> None:
        place: str | int = int(key) if part.key == "int64" else key
        if isinstance(part.type, Message):
            self._fill(part.type, entries[place], value)
        elif isinstance(part.type, Leaf) and part.type.is_message:
            _set_time(entries[place], part.type.write(value))
        else:
            entries[place] = self._scalar(part.type, value)

    def _scalar(self, type_: Leaf | Choice, value: Any) -> Any:
        if isinstance(type_, Leaf):
            return type_.write(value)
        for name, told in type_.members.items():
            if type(told) is type(value) and told == value:
                return self._numbers[type_.name][name]
        raise Untold(f"{value!r:.100} is not a value of {type_.name}")


def _set_time(target: Any, told: Any) -> None:
    """Copy a Timestamp or a Duration, whose class is another one in each pool."""
    target.seconds, target.nanos = told.seconds, told.nanos
    target.SetInParent()


def _inside(place: int | str, work: Callable[[], Any]) -> Any:
    """Do ``work``; what it cannot tell is told with this place."""
    try:
        return work()
    except Untold as untold:
        raise _at(place, untold) from untold


def _at(place: int | str, untold: Untold) -> Untold:
    untold.places.insert(0, place)
    return untold
