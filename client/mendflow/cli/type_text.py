"""What a workflow type declares: its schemas in words, and the names of its signals."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from mendflow.cli.event_text import clean

if TYPE_CHECKING:
    from mendflow.client import Client
    from mendflow.v1 import workflow_service_pb2

__all__ = ["schema_text", "undeclared"]

#: The width of the names before the schemas.
_MARGIN: Final = " " * 10


def schema_text(schema: workflow_service_pb2.ValueSchema, indent: int | None) -> str:
    """Return a schema as text, in one line unless ``indent`` is given."""
    text = schema.json_schema or schema.message_name or "nothing"
    if indent is not None and schema.json_schema:
        # The lines continue below the first one.
        text = json.dumps(json.loads(text), ensure_ascii=False, indent=indent).replace("\n", f"\n{_MARGIN}")
    if schema.exported_message_name:
        text = f"{text}, or the message {schema.exported_message_name}"
    return "\n".join(map(clean, text.split("\n")))


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
