"""The foreign variables that this process ignored."""

from __future__ import annotations

from mendflow.foreign_variables import take_ignored


def ignored() -> list[tuple[str, str, str]]:
    """Return what is reported since the last call: variables, their values, and what is done instead."""
    return [(each.variable, each.value, each.instead) for each in take_ignored()]
