"""URLs of stores as people may see them: without passwords."""

from __future__ import annotations

import re
from typing import Final

#: The schemes of PostgreSQL's URLs.
POSTGRES_SCHEMES: Final = frozenset({"postgresql", "postgres"})
_HIDDEN: Final = "***"
#: A value in the query of a URL that is a secret.
_SECRET: Final = re.compile(r"(?i)([?&][^=&]*(?:password|secret|token)[^=&]*=)[^&]*")


def is_postgres(url: str) -> bool:
    """Return whether a URL names a PostgreSQL database."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme.lower() in POSTGRES_SCHEMES


def shown(url: str) -> str:
    """Return the URL with each password replaced by ***.

    A password that was not escaped may have any character, so all that could belong to it is replaced.
    """
    if not is_postgres(url):
        return url
    scheme, _, rest = url.partition("://")
    rest = _SECRET.sub(_hide, rest)
    # The last "@" of the URL: one before it is part of the password, and one in the query hides too much at worst.
    login, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = login.partition(":")
        rest = f"{user}{colon and ':' + _HIDDEN}@{place}"
    return f"{scheme}://{rest}"


def _hide(found: re.Match[str]) -> str:
    return f"{found[1]}{_HIDDEN}"
