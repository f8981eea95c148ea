"""The hosts of a store's URL are those that asyncpg and libpq read in it."""

from __future__ import annotations

import pytest

from mendflow_server.store.postgres.hosts import Host, hosts_of, option
from mendflow_server.store.postgres.options import session_attributes

VARIABLES = ("PGHOST", "PGPORT", "PGTARGETSESSIONATTRS")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://a,b/db", [("a", 5432), ("b", 5432)]),
        ("postgresql://me:x%40y@a:1,b:2/db", [("a", 1), ("b", 2)]),
        ("postgresql://[::1]:1,[::2]/db", [("::1", 1), ("::2", 5432)]),
        ("postgresql:///db?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///db?host=a,b&port=7", [("a", 7), ("b", 7)]),
        ("postgresql:///db?host=/run/a,/run/b", [("/run/a", 5432), ("/run/b", 5432)]),
        ("postgresql://%2Frun%2Fa,b:3/db", [("/run/a", 5432), ("b", 3)]),
        # One host, none, and what asyncpg must refuse.
        ("postgresql://a:1/db", []),
        ("postgresql:///db", []),
        ("postgresql://a:x,b/db", []),
        ("postgresql://a,,b/db", []),
        ("postgresql:///db?host=a,b&port=1,2,3", []),
    ],
)
def test_several_hosts_are_read(url: str, hosts: list[tuple[str, int]]) -> None:
    assert hosts_of(url) == [Host(*each) for each in hosts]


def test_the_standard_variables_name_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", "a,b:4")
    monkeypatch.setenv("PGPORT", "3")
    assert hosts_of("postgresql:///db") == [Host("a", 3), Host("b", 4)]
    assert hosts_of("postgresql://c/db") == []
    assert option("postgresql:///db?host=d", "host", "PGHOST") == "d"


def test_several_hosts_lead_to_one_that_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_attributes("postgresql://a/db") is None
    assert session_attributes("postgresql://a,b/db") == "read-write"
    assert session_attributes("postgresql://a,b/db?target_session_attrs=any") == "any"
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "primary")
    assert session_attributes("postgresql://a,b/db") == "primary"
