"""The hosts of a store's URL, and what it asks of them.

asyncpg takes several hosts too, but one time limit for all of them: behind a first host whose packets are lost it would
never try the second. So a URL with several hosts is tried one host at a time.
"""

from __future__ import annotations

import os
import re
from typing import Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["Host", "hosts_of", "option"]

_PORT: Final = 5432
#: A host of a list, with its port: a name, an address, an IPv6 address in brackets, or a directory.
_HOST: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+)(?::(\d+))?")


class Host(NamedTuple):
    """A host and its port. The directory of a socket is a host too."""

    name: str
    port: int


def hosts_of(url: str) -> list[Host]:
    """Return the hosts of a URL that has several; an empty list if it has one or none, or cannot be read."""
    place = urlsplit(url).netloc
    listed = place.partition("@")[2] if "@" in place else place
    ports = ""
    if not listed:
        listed, ports = option(url, "host", "PGHOST"), option(url, "port", "")
    if "," not in listed:
        return []
    names = listed.split(",")
    default = (ports or os.environ.get("PGPORT") or str(_PORT)).split(",")
    if len(default) == 1:
        default *= len(names)
    if len(default) != len(names):
        return []
    hosts = []
    for spec, usual in zip(names, default, strict=True):
        found = _HOST.fullmatch(unquote(spec))
        if found is None or not usual.isdecimal():
            return []
        hosts.append(Host(found[1].strip("[]"), int(usual if ports else found[2] or usual)))
    return hosts


def option(url: str, name: str, variable: str) -> str:
    """Return an option of a URL; without it the environment variable, and an empty text without both."""
    given = dict(parse_qsl(urlsplit(url).query)).get(name)
    return given or (os.environ.get(variable, "") if variable else "")
