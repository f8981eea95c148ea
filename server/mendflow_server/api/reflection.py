"""Server reflection over several descriptor pools: the one of the API, and those of exported messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool

    from mendflow.authoring.workflow import Workflow

__all__ = ["Pools", "pools_of"]


def pools_of(definitions: Mapping[str, Workflow[Any, Any]]) -> list[DescriptorPool]:
    """Return the pools of the exported messages of these workflow types, each once."""
    found = [each.messages.module.descriptors.pool for each in definitions.values() if each.messages is not None]
    return list({id(pool): pool for pool in found}.values())


class Pools:
    """Looks a name up in several pools in order, the default pool first. Raises KeyError when no pool has it."""

    def __init__(self, others: Iterable[DescriptorPool]) -> None:
        self._default = descriptor_pool.Default()
        self._pools = [self._default, *others]

    def FindFileByName(self, name: str) -> FileDescriptor:
        """Return the file with this name."""
        found: FileDescriptor = self._first(name, lambda pool: pool.FindFileByName(name))
        return found

    def FindFileContainingSymbol(self, name: str) -> FileDescriptor:
        """Return the file that defines this symbol.

        A pool does not find an rpc by its name, so the rpc is looked up in its service.
        """
        try:
            found: FileDescriptor = self._first(name, lambda pool: pool.FindFileContainingSymbol(name))
        except KeyError:
            owner, _, rpc = name.rpartition(".")
            service = self._first(owner, lambda pool: pool.FindServiceByName(owner))
            if rpc not in service.methods_by_name:
                raise
            found = service.file
        return found

    def FindMessageTypeByName(self, name: str) -> Descriptor:
        """Return the message type with this name."""
        found: Descriptor = self._first(name, lambda pool: pool.FindMessageTypeByName(name))
        return found

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:
        """Return an extension of a message. Exported messages have none."""
        return self._default.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:
        """Return all extensions of a message. Exported messages have none."""
        return list(self._default.FindAllExtensions(message)) if message.file.pool is self._default else []

    def _first(self, name: str, find: Callable[[DescriptorPool], Any]) -> Any:
        for pool in self._pools:
            try:
                return find(pool)
            except KeyError:
                continue
        raise KeyError(name)
