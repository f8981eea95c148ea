"""Messages in payloads, made readable: the server's reflection says what they are made of."""

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

__all__ = ["PayloadDecoder"]

_METHOD: Final = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
#: A server that does not answer shall not keep anyone from seeing the rest, in seconds.
_PATIENCE: Final = 3.0
#: Stands between a type that is not known and the one that its bytes are shown as.
_UNKNOWN: Final = "?/google.protobuf.BytesValue"


class PayloadDecoder:
    """Shows messages of types that the server knows. What it learns it keeps."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._asked: set[str] = set()
        self._pool = descriptor_pool.DescriptorPool()
        self._known: Any = _Known(self._pool)
        self._files: set[str] = set()

    async def learn(self, message: Message) -> None:
        """Ask for the types of the messages in an rpc's own message; those that the server does not know stay so."""
        for payload in _payloads(message):
            name = payload.message.TypeName()
            if name and name not in self._asked:
                self._asked.add(name)
                for file in await self._ask(name):
                    self._add(file)

    def readable(self, message: Message) -> Any:
        """Answer a copy of an rpc's own message with JSON in place of each payload's message."""
        shown = type(message)()
        shown.CopyFrom(message)
        for payload in _payloads(shown):
            payload.json = json.dumps(self._members(payload.message), ensure_ascii=False)
        return shown

    def as_json(self, message: Message) -> str:
        """Answer an rpc's own message as protobuf JSON, on one line."""
        shown = type(message)()
        shown.CopyFrom(message)
        for payload in _payloads(shown):
            if not self._knows(payload.message):
                told = wrappers_pb2.BytesValue(value=payload.message.value)
                payload.message.type_url += _UNKNOWN
                payload.message.value = told.SerializeToString()
        text = json_format.MessageToJson(
            shown, preserving_proto_field_name=True, indent=None, descriptor_pool=self._known
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
            return  # It contradicts what is there; its messages are shown as bytes.

    async def _ask(self, name: str) -> list[descriptor_pb2.FileDescriptorProto]:
        """Answer the files that a message type needs, each after what it needs itself."""
        call = self._client.caller.channel.stream_stream(
            _METHOD, request_serializer=_REQUEST.SerializeToString, response_deserializer=_RESPONSE.FromString
        )
        try:
            replies = call(iter([_REQUEST(file_containing_symbol=name)]), timeout=_PATIENCE)
            async for reply in replies:
                found = reply.file_descriptor_response.file_descriptor_proto
                return _in_order([descriptor_pb2.FileDescriptorProto.FromString(each) for each in found])
        except grpc.aio.AioRpcError:
            pass  # A server without reflection.
        return []


class _Known:
    """What this process knows by itself, then what it learnt."""

    def __init__(self, learnt: descriptor_pool.DescriptorPool) -> None:
        self._pools = (learnt, descriptor_pool.Default())

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802 - as a DescriptorPool has it
        for pool in self._pools:
            try:
                return pool.FindMessageTypeByName(name)
            except KeyError:
                continue
        raise KeyError(name)


def _payloads(message: Any) -> Iterator[payload_pb2.Payload]:
    """Yield each payload in a message that holds a message itself."""
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

    def take(name: str) -> None:
        file = waiting.pop(name, None)
        if file is not None:
            for needed in file.dependency:
                take(needed)
            ordered.append(file)

    for file in files:
        take(file.name)
    return ordered


def _reflection() -> tuple[Any, Any]:
    """Answer the request and the response of server reflection, as far as they are needed here.

    Its own package comes with the server only.
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
