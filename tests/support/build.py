"""How tests build a server: of the shipped parts, with some of them replaced."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mendflow_server.app import App, Parts
from mendflow_server.store.factory import open_store
from mendflow_server.store.sqlite.store import SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.settings import Settings
    from mendflow_server.store.interface import Store


@dataclass(frozen=True)
class Build:
    """How a server is built: its parts, and what its store is made of."""

    parts: Parts = field(default_factory=Parts)
    app: Callable[..., App] = App
    #: Makes the store of a path.
    sqlite: Callable[..., SqliteStore] = SqliteStore
    #: Each gets the store and returns one around it.
    around_store: tuple[Callable[[Any], Any], ...] = ()

    def with_parts(self, **changed: Any) -> Build:
        """Return the build with other parts."""
        return replace(self, parts=replace(self.parts, **changed))

    def with_store(self, around: Callable[[Any], Any]) -> Build:
        """Return the build with another store around the present one."""
        return replace(self, around_store=(*self.around_store, around))

    def open_store(self, url: str, **options: Any) -> Store:
        """Make the store of a URL."""
        store: Any = open_store(url, sqlite=self.sqlite, **options)
        for around in self.around_store:
            store = around(store)
        made: Store = store
        return made

    def new_app(self, settings: Settings, definitions: Mapping[str, Workflow[Any, Any]]) -> App:
        """Make the server."""
        return self.app(settings, definitions, parts=replace(self.parts, open_store=self.open_store))


class Around:
    """A store around another one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
