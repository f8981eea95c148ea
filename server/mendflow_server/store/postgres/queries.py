"""The statements of ``queries.sql``, by name."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from mendflow_server.store.postgres.rows import fill_in

_NAME: Final = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def _read() -> dict[str, str]:
    text = files(__package__).joinpath("queries.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    return {name: _statement(body) for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def _statement(body: str) -> str:
    return fill_in("\n".join(line for line in body.splitlines() if not line.startswith("--")).strip())


#: The statements by name. ``listing.py`` inserts one of the fragments ``seen_by_…`` into the statements of lists.
QUERIES: Final = _read()
