"""Move a store: copy every row, read every row back, compare, and commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mendflow_server.store.errors import StoreError
from mendflow_server.store.moving.source import locked_source
from mendflow_server.store.moving.target import carry_crash_marker, opened_target

if TYPE_CHECKING:
    from pathlib import Path

    from mendflow_server.store.access import DatabaseAccess
    from mendflow_server.store.moving.source import Source
    from mendflow_server.store.moving.tables import Table
    from mendflow_server.store.moving.target import Target


class Progress(Protocol):
    """Sees how far a move is."""

    def begin(self, phase: str, total: int | None) -> None:
        """Note that a phase begins: "checking", "copying" or "comparing". ``total`` is about its number of rows."""

    def advance(self, rows: int) -> None:
        """Note that some more rows of the phase are done."""


@dataclass(frozen=True)
class Moved:
    """A finished move."""

    #: The file, and the database without its password.
    source: str
    target: str
    workflows: int
    open_workflows: int
    #: The rows of all tables, each of which was read back and compared.
    rows: int


async def move(path: Path, url: str, progress: Progress, access: DatabaseAccess) -> Moved:
    """Move the store in a file to the empty schema at a URL, and leave the file as it is.

    No server can open the one or the other meanwhile. The move is one transaction, so however it ends, the schema has
    everything or nothing of it. Raise `StoreRefused` if one of them cannot be used, and `StoreError` if the move fails.
    """
    with locked_source(path) as source:
        async with opened_target(url, access) as target:
            progress.begin("checking", None)
            source.check()
            size, tables = source.size(), source.tables()
            number, marker = source.crash_marker()
            progress.begin("copying", size.rows)
            for table in tables:
                for rows in source.portions(table):
                    await target.copy(table, table.converted(rows))
                    progress.advance(len(rows))
            await target.finish(source.next_numbers())
            progress.begin("comparing", size.rows)
            total = 0
            for table in tables:
                total += await _compare(source, target, table, progress)
            source.check_unchanged()
        carry_crash_marker(target.place, number, marker)
    return Moved(str(source.path), target.place, size.workflows, size.open_workflows, total)


async def _compare(source: Source, target: Target, table: Table, progress: Progress) -> int:
    """Return the number of rows of a table. Raise `StoreError` unless the database returns the same as the file."""
    read = await target.read(table)
    total = 0
    for rows in source.portions(table):
        found = await read(len(rows))
        if found != table.converted(rows):
            raise _differs(target, table, rows, found)
        total += len(rows)
        progress.advance(len(rows))
    if found := await read(1):
        raise _differs(target, table, [], found)
    return total


def _differs(
    target: Target, table: Table, rows: list[tuple[object, ...]], found: list[tuple[object, ...]]
) -> StoreError:
    same = [expected == got for expected, got in zip(table.converted(rows), found, strict=False)]
    number = same.index(False) if False in same else len(same)
    row = rows[number] if number < len(rows) else found[number]
    names = ", ".join(f"{name} {row[table.columns.index(name)]!r}" for name in table.key)
    message = (
        f"store {target.place} returned a row of {table.name} ({names}) that is not as it was written; nothing was "
        "moved; check the database, and report this"
    )
    return StoreError(message)
