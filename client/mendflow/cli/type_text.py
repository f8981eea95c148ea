"""The schemas of a workflow type in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from mendflow.cli.event_text import clean

if TYPE_CHECKING:
    from mendflow.v1 import workflow_service_pb2

__all__ = ["schema_text"]

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
