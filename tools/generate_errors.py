"""Write docs/errors.md from the comments in protos/mendflow/v1/error_reason.proto: `make reference`.

The comment of a reason has two paragraphs: "CODE: cause." and "Retry: answer. What to do."
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tools.generate_reference import PACKAGE, ROOT, compiled

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX: Final = "ERROR_REASON_"
#: The path of an enum, of its values, and of no reason at all, in a file's source code info.
ENUM, VALUES, UNSPECIFIED = 5, 2, 0
COMMENT: Final = re.compile(r"(?P<code>[A-Z_]+): (?P<cause>.+)\n\nRetry: (?P<retry>yes|no|later|once)\. (?P<action>.+)")
HEAD: Final = """# Errors

Each reason that the server sends in `google.rpc.ErrorInfo` (domain `mendflow`). `make reference` writes this page from
the comments in [error_reason.proto](../protos/mendflow/v1/error_reason.proto); change the comments, not the page. For
the rules that make a retry safe, and for errors without a reason, see [status codes](clients/status-codes.md).

"Retry" says whether the same call can succeed later without a change.

| reason | status code | retry |
|---|---|---|
"""


class Reason(NamedTuple):
    """One value of ErrorReason, as its comment describes it."""

    name: str
    code: str
    cause: str
    retry: str
    action: str


def main() -> None:
    """Write docs/errors.md, or another file with --output."""
    parser = argparse.ArgumentParser(description="Write the page of errors from error_reason.proto.")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/errors.md", help="the file to write")
    output: Path = parser.parse_args().output
    output.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the page: a table of all reasons, then a section for each."""
    reasons = list(read_reasons())
    rows = [f"| [`{reason.name}`](#{reason.name.lower()}) | `{reason.code}` | {reason.retry} |\n" for reason in reasons]
    return HEAD + "".join(rows) + "".join(section(reason) for reason in reasons)


def section(reason: Reason) -> str:
    """Return the section of one reason."""
    return (
        f"\n## {reason.name}\n\n"
        f"- Status code: `{reason.code}`\n"
        f"- Cause: {sentence(reason.cause)}\n"
        f"- Retry: {reason.retry}\n"
        f"- What to do: {reason.action}\n"
    )


def sentence(text: str) -> str:
    """Return the text with a capital first letter, unless it starts with the name of a field."""
    return text if "_" in text.split(maxsplit=1)[0] else text[0].upper() + text[1:]


def read_reasons() -> Iterator[Reason]:
    """Yield each reason in the order of the proto. Exit if a comment does not have the two paragraphs."""
    [file] = [file for file in compiled().file if file.name == f"{PACKAGE}/error_reason.proto"]
    comments = {tuple(at.path): at.leading_comments for at in file.source_code_info.location}
    for index, value in enumerate(file.enum_type[0].value):
        if value.number == UNSPECIFIED:
            continue
        paragraphs = comments.get((ENUM, 0, VALUES, index), "").strip().split("\n\n")
        found = COMMENT.fullmatch("\n\n".join(" ".join(each.split()) for each in paragraphs))
        if found is None:
            sys.exit(
                f'{value.name}: its comment must be "CODE: cause.", an empty line, "Retry: yes|no|later|once. Action."'
            )
        yield Reason(value.name.removeprefix(PREFIX), *found.group("code", "cause", "retry", "action"))


if __name__ == "__main__":
    main()
