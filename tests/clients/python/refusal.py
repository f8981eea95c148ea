"""An error status with its details: messages of google.rpc for programs, and text for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import grpc
from google.rpc import status_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    M = TypeVar("M", bound=Message)


class Refusal:
    """The error of a refused call."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: str = error.code().name
        self._status = status_pb2.Status()
        for key, value in error.trailing_metadata():
            if key == "grpc-status-details-bin":
                self._status.ParseFromString(value)

    def detail(self, kind: type[M]) -> M:
        """Return the detail of this type. Raise LookupError if there is none."""
        message = kind()
        for packed in self._status.details:
            if packed.Unpack(message):
                return message
        raise LookupError(f"{self.code} without {kind.__name__}")


def refusal_of(call: Callable[[], object]) -> Refusal:
    """Make a call that the server must refuse, and return the error."""
    try:
        call()
    except grpc.RpcError as error:
        return Refusal(error)
    raise AssertionError("the call was not refused")
