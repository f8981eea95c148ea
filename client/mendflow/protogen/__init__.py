"""The types of workflows as protobuf messages, for callers in other languages.

`shapes` makes messages of Python types, `lock` gives their fields numbers for
good, `render` writes them as a .proto, `descriptors` builds them at run time,
and `transcode` turns a message into the JSON that says the same, and back. So
whatever a message says, the workflow gets the value that this JSON would give
it: there is one reader of values, pydantic.
"""

from __future__ import annotations
