"""The tables that are moved, and how a value of SQLite becomes one of PostgreSQL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Every table of both schemas. The others of a file or a schema are not Mendflow's.
TABLES: Final = (
    "workflows",
    "events",
    "labels",
    "inbox",
    "signal_requests",
    "heartbeats",
    "suspects",
    "alerts",
    "purged",
    "replicas",
)
#: The tables whose rows get numbers from PostgreSQL, each with what is altered to set the next one.
NUMBERED: Final[Mapping[str, str]] = {
    "workflows": "SEQUENCE workflow_keys",
    **{name: f"TABLE {name} ALTER COLUMN id" for name in ("inbox", "alerts", "replicas")},
}
#: What a server leaves that was started and was given no workflow. It does not make a schema a used one.
NOT_WORK: Final = frozenset({"replicas"})
#: The columns that only SQLite needs.
NOT_MOVED: Final = frozenset({("replicas", "beats")})
#: The columns that only PostgreSQL needs, each as the query of its value.
COMPUTED: Final[Mapping[str, Mapping[str, str]]] = {
    "workflows": {"inbox_size": "(SELECT count(*) FROM inbox WHERE inbox.key = workflows.key)"},
    # Only the end of the last life is not judged yet, and the ledger is its own.
    "replicas": {"ended": "drained OR id < (SELECT max(id) FROM replicas)"},
    "suspects": {"replica_id": "coalesce((SELECT replica_id FROM replicas ORDER BY id DESC LIMIT 1), '')"},
}
#: Texts for people, which may have a NUL in SQLite. The history keeps the original.
_FOR_PEOPLE: Final = frozenset({"explanation", "message", "step_key"})
#: The columns that are numbers in SQLite and truth values in PostgreSQL.
_TRUTH: Final = frozenset({"held", "drained", "ended"})


@dataclass(frozen=True)
class Table:
    """A table of the file."""

    name: str
    #: The columns that are moved.
    columns: tuple[str, ...]
    #: The query of each column's value.
    values: tuple[str, ...]
    #: The columns of the primary key, by which both databases sort alike.
    key: tuple[str, ...]
    _conversions: tuple[tuple[int, Callable[[Any], Any]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find the columns whose values differ between the databases."""
        found: list[tuple[int, Callable[[Any], Any]]] = []
        for number, name in enumerate(self.columns):
            if name in _TRUTH:
                found.append((number, bool))
            elif name in _FOR_PEOPLE:
                found.append((number, _without_nul))
        object.__setattr__(self, "_conversions", tuple(found))

    def query(self, columns: Sequence[str]) -> str:
        """Return the query of these columns of all rows, in the order of the key."""
        # The names are those of the two schemas.
        return f"SELECT {', '.join(columns)} FROM {self.name} ORDER BY {', '.join(self.key)}"  # noqa: S608 - as above

    def converted(self, rows: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """Return rows of SQLite as PostgreSQL has them."""
        if not self._conversions:
            return rows
        return [self._converted(row) for row in rows]

    def _converted(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        values = list(row)
        for number, conversion in self._conversions:
            values[number] = conversion(values[number])
        return tuple(values)


def _without_nul(text: str) -> str:
    return text.replace("\0", "\N{SYMBOL FOR NULL}")
