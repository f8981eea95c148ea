"""The part of jq's command line that docs/json.md uses, on the package `jq`, for machines without the program.

python stand_in_jq.py [-r] [-s] [--arg NAME VALUE] PROGRAM
"""

from __future__ import annotations

import json
import sys

import jq


def main(arguments: list[str]) -> None:
    """Run the program on standard input."""
    flags = ""
    programs: list[str] = []
    values: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--arg":
            name, value = next(rest), next(rest)
            values[name] = value
        elif argument.startswith("-"):
            flags += argument[1:]
        else:
            programs.append(argument)
    (program,) = programs
    for output in jq.compile(program, args=values).input_text(sys.stdin.read(), slurp="s" in flags):
        print(output if "r" in flags and isinstance(output, str) else json.dumps(output, indent=2))  # noqa: T201 - its job


if __name__ == "__main__":
    main(sys.argv[1:])
