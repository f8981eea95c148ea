"""The SQL that is part of a store's package: its statements and its migrations."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def read_statements(package: str, placeholders: Mapping[str, str]) -> dict[str, str]:
    """Return the statements of ``queries.sql`` by name. Each ``{placeholder}`` of the mapping is replaced."""
    text = files(package).joinpath("queries.sql").read_text(encoding="utf-8")
    for placeholder, replacement in placeholders.items():
        text = text.replace(f"{{{placeholder}}}", replacement)
    parts = _NAME.split(text)
    return {name: _without_comments(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _without_comments(body: str) -> str:
    return "\n".join(line for line in body.splitlines() if not line.startswith("--")).strip()


def read_migrations(package: str) -> dict[str, str]:
    """Return the scripts of the folder ``migrations`` by the names of their files, in order."""
    entries = [entry for entry in files(package).joinpath("migrations").iterdir() if entry.name.endswith(".sql")]
    return {entry.name: entry.read_text(encoding="utf-8") for entry in sorted(entries, key=lambda entry: entry.name)}
