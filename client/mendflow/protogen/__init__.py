"""The types of workflows as protobuf messages, for callers in other languages.

`schema` derives messages from Python types, `lock_file` assigns permanent field
numbers, `proto_writer` writes a .proto file, `descriptors` builds the messages
at run time, and `json_codec` converts between a message and JSON. Every message
is converted to JSON first, so pydantic is the only decoder of values.
"""

from __future__ import annotations
