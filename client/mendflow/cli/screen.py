"""Tables and trees on standard output: as wide as a terminal, in whole lines and without colour elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["indented", "on_terminal", "rendered", "show"]

#: The width in a pipe or a file, where programs read whole lines.
_UNLIMITED: Final = 1_000_000


def on_terminal() -> bool:
    """Return whether standard output is a terminal. Rich's own check is not used, because FORCE_COLOR changes it."""
    return sys.stdout.isatty()


def indented() -> int | None:
    """Return the indentation of JSON: 2 on a terminal; elsewhere None, which is one line for each object."""
    return 2 if on_terminal() else None


def show(item: RenderableType) -> None:
    """Print a table, a tree or a text."""
    live = on_terminal()
    console = Console(
        file=sys.stdout,
        highlight=False,
        force_terminal=live,
        color_system="auto" if live else None,
        width=None if live else _UNLIMITED,
    )
    click.echo(rendered(item, console), nl=False)


def rendered(item: RenderableType, console: Console) -> str:
    """Return what a console prints, without spaces at the ends of lines."""
    with console.capture() as captured:
        console.print(item, overflow="fold")
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())
