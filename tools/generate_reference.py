"""Write docs/reference.md from the comments in protos/mendflow/v1: `make reference`.

The paragraphs of a comment stay paragraphs. Its indented lines, each a status and its meaning, become a table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = "mendflow/v1"
#: The order of the files on the page. A new file comes after these.
ORDER = ["workflow_service", "operator_service", "payload", "workflow", "event", "failure", "error_reason"]
HEAD = """# Reference

Every service, message, field and enum value of `mendflow.v1`. `make reference` writes this page from the comments in
[protos/](../protos/mendflow/v1); change the comments, not the page. [Status codes](clients/status-codes.md) says what a
client does on each status.

A field of a message type can be absent. Any other unset field reads as its zero value (`""`, `0`, `false` or no
entries), and its description says what the zero value means.
"""
#: One or more statuses and their meaning, indented. The following lines have a deeper indentation.
STATUS = re.compile(r"^ {2,3}([A-Z][A-Z_, ]*[A-Z])  ?\s*(\S.*)$")


class Page:
    """The part of the page for one file. It finds each comment by its path in the descriptor."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self.file = file
        self.comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}

    def lines(self) -> Iterator[str]:
        """Yield the lines for the file."""
        for index, service in enumerate(self.file.service):
            yield from self.service(service, (6, index))
        for index, message in enumerate(self.file.message_type):
            yield from self.message(message, (4, index))
        for index, enum in enumerate(self.file.enum_type):
            yield from self.enum(enum, (5, index))

    def service(self, service: ServiceDescriptorProto, at: tuple[int, ...]) -> Iterator[str]:
        """Yield the service's comment, and a section for each rpc."""
        yield f"\n## {service.name}\n"
        yield from prose(self.comments.get(at, ""))
        for index, rpc in enumerate(service.method):
            yield f"\n### {service.name}/{rpc.name}\n"
            response = ("a stream of " if rpc.server_streaming else "") + link(rpc.output_type)
            yield f"{link(rpc.input_type)} → {response}\n"
            yield from prose(self.comments.get((*at, 2, index), ""))

    def message(self, message: DescriptorProto, at: tuple[int, ...]) -> Iterator[str]:
        """Yield the message's comment, and a row for each field."""
        yield f"\n### {message.name}\n"
        yield from prose(self.comments.get(at, ""))
        if not message.field:
            yield "It has no fields."
            return
        for index, oneof in enumerate(message.oneof_decl):
            if oneof.name.startswith("_"):
                continue  # protoc adds such a oneof for each optional field.
            comment = flat(self.comments.get((*at, 8, index), ""))
            yield f"At most one field of `{oneof.name}` is set. {comment}\n"
        yield "| field | number | type | meaning |"
        yield "|---|---|---|---|"
        for index, field in enumerate(message.field):
            meaning = cell(flat(self.comments.get((*at, 2, index), "")))
            kind = kind_of(field, message)
            if field.proto3_optional:
                kind = f"optional {kind}"
            elif field.HasField("oneof_index"):
                kind += f", in `{message.oneof_decl[field.oneof_index].name}`"
            yield f"| `{field.name}` | {field.number} | {kind} | {meaning} |"

    def enum(self, enum: EnumDescriptorProto, at: tuple[int, ...]) -> Iterator[str]:
        """Yield the enum's comment, and a row for each value."""
        yield f"\n### {enum.name}\n"
        yield from prose(self.comments.get(at, ""))
        yield "| value | number | meaning |"
        yield "|---|---|---|"
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` | {value.number} | {cell(flat(self.comments.get((*at, 2, index), '')))} |"


def main() -> None:
    """Write docs/reference.md, or another file with --output."""
    parser = argparse.ArgumentParser(description="Write the reference from protos/.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/reference.md", help="the file to write")
    output: Path = parser.parse_args().output
    output.write_text(reference(), encoding="utf-8")


def reference() -> str:
    """Return the text of the page."""
    lines = [HEAD]
    mine = [file for file in compiled().file if file.name.startswith(PACKAGE)]
    names = [Path(file.name).stem for file in mine]
    order = {name: place for place, name in enumerate([*ORDER, *sorted(set(names) - set(ORDER))])}
    for file in sorted(mine, key=lambda file: order[Path(file.name).stem]):
        if not file.service:
            lines.append(f"\n## {Path(file.name).name}")
        lines.extend(Page(file).lines())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).rstrip() + "\n"


def compiled() -> FileDescriptorSet:
    """Return the descriptors of the protos with their comments. Exit with the compiler's status if it fails."""
    protos = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))
    well_known = files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set.binpb"
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{well_known}"]
        command += ["--include_source_info", f"--descriptor_set_out={output}", *protos]
        done = subprocess.run(command, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        return FileDescriptorSet.FromString(output.read_bytes())


def prose(comment: str) -> Iterator[str]:
    """Yield the lines of a comment, with a table in place of its indented lines."""
    rows: list[list[str]] = []
    for line in comment.splitlines():
        status = STATUS.match(line)
        if status:
            rows.append([status[1], status[2]])
        elif rows and line.startswith("   "):
            rows[-1][1] += f" {line.strip()}"
        else:
            yield from table(rows)
            rows = []
            yield line.strip()
    yield from table(rows)
    yield ""


def table(rows: list[list[str]]) -> Iterator[str]:
    """Yield the rows as a table, or nothing if there are none."""
    if rows:
        yield "\n| status | reasons, and when |"
        yield "|---|---|"
        yield from (f"| {code(status)} | {cell(meaning).rstrip(';')} |" for status, meaning in rows)


def code(names: str) -> str:
    """Return comma-separated names, each formatted as code."""
    return ", ".join(f"`{name.strip()}`" for name in names.split(","))


def flat(comment: str) -> str:
    """Return a comment as one line."""
    return " ".join(comment.split())


def cell(text: str) -> str:
    """Return text with the characters escaped that have a meaning in a table."""
    return text.replace("|", r"\|").replace("*", r"\*")


def link(type_name: str) -> str:
    """Return a link to a type on this page, or the name of another type."""
    name = type_name.removeprefix(".mendflow.v1.")
    return f"[{name}](#{name.lower()})" if "." not in name else f"`{type_name.removeprefix('.')}`"


def kind_of(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    """Return a field's type in the style of a proto file."""
    for nested in message.nested_type:
        if nested.options.map_entry and field.type_name.endswith(f".{message.name}.{nested.name}"):
            key, value = (kind_of(part, nested) for part in nested.field)
            return f"map of {key} to {value}"
    plain = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    kind = link(field.type_name) if field.type_name else plain
    return f"repeated {kind}" if field.label == FieldDescriptorProto.LABEL_REPEATED else kind


if __name__ == "__main__":
    main()
