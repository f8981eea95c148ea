"""The names that authors give to workflows, steps, calls and versions."""

from __future__ import annotations

import re

from mendflow.errors import DefinitionError

#: A step's or workflow's registered name, and a version's.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
#: An explicit key may also be numbered.
KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")
#: What the keys of versions begin with.
VERSION = "version:"


def checked_name(kind: str, name: str, pattern: re.Pattern[str] = NAME) -> str:
    """Return ``name``. Raise `DefinitionError`, which says what is allowed, for any other text."""
    if not pattern.fullmatch(name):
        msg = f"{kind} {name!r}: a letter, then up to 99 of A-Z a-z 0-9 _ . -"
        raise DefinitionError(msg)
    return name


def checked_key(key: str | None) -> str:
    """Return a call's explicit key, empty for none. Raise `DefinitionError` for one that is not allowed."""
    if key is None:
        return ""
    if key.startswith(VERSION):
        msg = f"key {key!r}: {VERSION} begins the keys of version(); choose another"
        raise DefinitionError(msg)
    return checked_name("key", key, KEY)
