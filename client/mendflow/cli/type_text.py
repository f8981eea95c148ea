"""What a workflow type declares: its schemas in words, and the names of its signals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mendflow.cli.event_text import clean

if TYPE_CHECKING:
    from mendflow.client import Client
    from mendflow.v1 import workflow_service_pb2

__all__ = ["schema_text", "undeclared"]


def schema_text(schema: workflow_service_pb2.ValueSchema) -> str:
    """Return a schema as text."""
    text = schema.json_schema or schema.message_name or "nothing"
    return clean(f"{text}, or the message {schema.exported_message_name}" if schema.exported_message_name else text)


async def undeclared(client: Client, workflow_id: str, name: str) -> str:
    """Return why a signal is not declared, or "".

    It is "" too if the type declares no signals, or if this server does not serve it: there is nothing to compare with.
    """
    workflow_type = (await client.get(workflow_id)).workflow_type
    served = next((each for each in await client.types() if each.name == workflow_type), None)
    if served is None or not served.signals or name in served.signals:
        return ""
    declared = ", ".join(sorted(served.signals))
    return clean(f"the type {workflow_type} declares the signals {declared}, but not {name!r}; send it with --force")
