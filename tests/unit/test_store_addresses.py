"""URLs of stores as people see them: no password is in what is shown."""

from __future__ import annotations

import pytest

from mendflow_server.settings import load_settings
from mendflow_server.store.addresses import shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://user:secret@host:5432/db?sslmode=require", "postgresql://user:***@host:5432/db?sslmode=require"),
        ("postgres://user:secret@host/db", "postgres://user:***@host/db"),
        ("POSTGRESQL://user:secret@host/db", "POSTGRESQL://user:***@host/db"),
        ("postgresql://user:se:cr@e/t?@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user:secret#x@host/db", "postgresql://user:***@host/db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?PASSWORD=secret&user=me", "postgresql://host/db?PASSWORD=***&user=me"),
        ("postgresql://host/db?sslpassword=secret", "postgresql://host/db?sslpassword=***"),
        ("postgresql://host:1/db?password=sec@ret", "postgresql://host:1/db?password=***"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=/run/postgresql"),
        ("postgresql://:secret@host/db", "postgresql://:***@host/db"),
        ("postgresql://a:secret@one:1,two:2/db", "postgresql://a:***@one:1,two:2/db"),
        ("sqlite:////a/user:b@c.db", "sqlite:////a/user:b@c.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, expected: str) -> None:
    assert shown(url) == expected


def test_the_settings_as_text_have_no_password() -> None:
    settings = load_settings(store="postgresql://user:secret@host/db")
    assert settings.store == "postgresql://user:secret@host/db"
    assert "secret" not in repr(settings) + str(settings)
