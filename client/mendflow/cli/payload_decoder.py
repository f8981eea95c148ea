"""Decoding of the protobuf messages in payloads, with descriptors from the server's reflection."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, json_format, message_factory, wrappers_pb2
from google.protobuf.message import DecodeError, Message

from mendflow.v1 import payload_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow.client import Client

__all__ = ["PayloadDecoder", "payload_json", "to_json"]

_METHOD: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
#: The timeout of a reflection call, in seconds. Without an answer the messages are shown as bytes.
_TIMEOUT: Final = 3.0
#: Appended to the URL of an unknown type, so that protobuf's JSON shows the message as bytes.
_UNKNOWN: Final = "?/google.protobuf.BytesValue"


def to_json(message: Message, indent: int | None = None) -> str:
    """Return a message of the API as protobuf JSON, in one line unless ``indent`` is given."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=indent)


def payload_json(payload: payload_pb2.Payload, indent: int | None) -> str:
    """Return a payload that `PayloadDecoder.readable` made as JSON, in one line unless ``indent`` is given.

    Without a value it is null. A text with a number that would lose digits stays as it is.
    """
    text = payload.json or "null"
    if indent is None:
        return text
    changed: list[str] = []

    def number(digits: str) -> float:
        value = float(digits)
        if repr(value) != digits:
            changed.append(digits)
        return value

    value = json.loads(text, parse_float=number)
    return text if changed else json.dumps(value, ensure_ascii=False, indent=indent)


class PayloadDecoder:
    """Converts messages of types that the server knows, and caches their descriptors."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._requested: set[str] = set()
        self._pool = descriptor_pool.DescriptorPool()
        self._known: Any = _KnownTypes(self._pool)
        self._files: set[str] = set()

    async def learn(self, message: Message) -> None:
        """Fetch the descriptors of the messages in the payloads of a message of the API."""
        for payload in _payloads(message):
            name = payload.message.TypeName()
            if name and name not in self._requested:
                self._requested.add(name)
                for file in await self._fetch(name):
                    self._add(file)

    def readable(self, message: Message) -> Any:
        """Return a copy of a message of the API, in which each payload has JSON in place of a message."""
        shown = type(message)()
        shown.CopyFrom(message)
        for payload in _payloads(shown):
            payload.json = json.dumps(self._members(payload.message), ensure_ascii=False)
        return shown

    def to_json(self, message: Message, indent: int | None = None) -> str:
        """Return a message of the API as `to_json` does, with its payloads decoded."""
        shown = type(message)()
        shown.CopyFrom(message)
        for payload in _payloads(shown):
            if not self._knows(payload.message):
                as_bytes = wrappers_pb2.BytesValue(value=payload.message.value)
                payload.message.type_url += _UNKNOWN
                payload.message.value = as_bytes.SerializeToString()
        text = json_format.MessageToJson(
            shown, preserving_proto_field_name=True, indent=indent, descriptor_pool=self._known
        )
        return text.replace(f'{_UNKNOWN}"', '"')

    def _members(self, message: any_pb2.Any) -> dict[str, Any]:
        if not self._knows(message):
            return {"@type": message.type_url, "value": base64.b64encode(message.value).decode()}
        return json_format.MessageToDict(message, preserving_proto_field_name=True, descriptor_pool=self._known)

    def _knows(self, message: any_pb2.Any) -> bool:
        try:
            descriptor = self._known.FindMessageTypeByName(message.TypeName())
            found = message_factory.GetMessageClass(descriptor).FromString(message.value)
            json_format.MessageToDict(found, descriptor_pool=self._known)
        except (KeyError, DecodeError, TypeError, ValueError, json_format.Error):
            return False
        return True

    def _add(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        if file.name in self._files:
            return
        self._files.add(file.name)
        try:
            self._pool.AddSerializedFile(file.SerializeToString())
        except TypeError:
            return  # The file conflicts with a known one, so its messages are shown as bytes.

    async def _fetch(self, name: str) -> list[descriptor_pb2.FileDescriptorProto]:
        """Return the files that a message type needs, each after its own dependencies."""
        call = self._client.caller.channel.stream_stream(
            _METHOD, request_serializer=_REQUEST.SerializeToString, response_deserializer=_RESPONSE.FromString
        )
        try:
            replies = call(iter([_REQUEST(file_containing_symbol=name)]), timeout=_TIMEOUT)
            async for reply in replies:
                found = reply.file_descriptor_response.file_descriptor_proto
                return _in_order([descriptor_pb2.FileDescriptorProto.FromString(each) for each in found])
        except grpc.aio.AioRpcError:
            pass  # The server has no reflection.
        return []


class _KnownTypes:
    """A pool that searches the fetched types first, and then the types of this process."""

    def __init__(self, fetched: descriptor_pool.DescriptorPool) -> None:
        self._pools = (fetched, descriptor_pool.Default())

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802 - the name in DescriptorPool
        for pool in self._pools:
            try:
                return pool.FindMessageTypeByName(name)
            except KeyError:
                continue
        raise KeyError(name)


def _payloads(message: Any) -> Iterator[payload_pb2.Payload]:
    """Yield each payload in ``message`` whose value is a protobuf message."""
    if isinstance(message, payload_pb2.Payload):
        if message.HasField("message"):
            yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for each in (value,) if isinstance(value, Message) else value:
            yield from _payloads(each)


def _in_order(files: list[descriptor_pb2.FileDescriptorProto]) -> list[descriptor_pb2.FileDescriptorProto]:
    waiting = {file.name: file for file in files}
    ordered: list[descriptor_pb2.FileDescriptorProto] = []

    def add(name: str) -> None:
        file = waiting.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            ordered.append(file)

    for file in files:
        add(file.name)
    return ordered


def _reflection() -> tuple[Any, Any]:
    """Return the request class and the response class of server reflection, with only the fields that this file uses.

    The package with the complete classes comes only with the server.
    """
    file = descriptor_pb2.FileDescriptorProto(name="mendflow/reflection.proto", package="mendflow.reflection")
    field = descriptor_pb2.FieldDescriptorProto
    request = file.message_type.add(name="Request")
    request.field.add(name="file_containing_symbol", number=4, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    files = file.message_type.add(name="Files")
    files.field.add(name="file_descriptor_proto", number=1, type=field.TYPE_BYTES, label=field.LABEL_REPEATED)
    response = file.message_type.add(name="Response")
    response.field.add(
        name="file_descriptor_response",
        number=4,
        type=field.TYPE_MESSAGE,
        type_name=".mendflow.reflection.Files",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    names = ("Request", "Response")
    request_, response_ = (pool.FindMessageTypeByName(f"mendflow.reflection.{name}") for name in names)
    return message_factory.GetMessageClass(request_), message_factory.GetMessageClass(response_)


_REQUEST, _RESPONSE = _reflection()
