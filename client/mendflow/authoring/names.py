"""Validation of the names of workflows, steps, calls and versions."""

from __future__ import annotations

import re

from mendflow.errors import DefinitionError

#: The name of a step, a workflow or a version.
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")
#: A signal's name, as the server accepts it.
SIGNAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}")
#: An explicit key. It may also contain a colon.
KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,99}")
#: The prefix of the keys that version() records.
VERSION = "version:"


def checked_name(kind: str, name: str, pattern: re.Pattern[str] = NAME) -> str:
    """Return ``name``. Raise `DefinitionError` if it does not match the pattern."""
    given: object = name
    if not isinstance(given, str) or not pattern.fullmatch(given):
        marks = "_ . : -" if pattern is KEY else "_ . -"
        msg = f"{kind} {name!r} must be a letter followed by up to 99 characters of A-Z a-z 0-9 {marks}"
        raise DefinitionError(msg)
    return name


def checked_signal(name: str) -> str:
    """Return a signal's name. Raise `DefinitionError` if the server would refuse a signal of this name."""
    given: object = name
    if not isinstance(given, str) or not SIGNAL.fullmatch(given):
        marks = ". _ : / @ + -"
        msg = f"signal name {name!r} must be a letter or a digit, then up to 99 characters of A-Z a-z 0-9 {marks}"
        raise DefinitionError(msg)
    return name


def checked_key(key: str | None) -> str:
    """Return a call's explicit key, or "" if there is none. Raise `DefinitionError` if the key is malformed."""
    if key is None:
        return ""
    given: object = key
    if isinstance(given, str) and given.startswith(VERSION):
        msg = f"key {key!r} must not begin with {VERSION!r}, which version() uses; choose another key"
        raise DefinitionError(msg)
    return checked_name("key", key, KEY)
