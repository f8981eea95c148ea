"""Check the options of a store's URL for which asyncpg has no words that say what to do."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from mendflow_server.store.postgres.hosts import hosts_of, option

__all__ = ["OptionRefused", "check_options", "session_attributes"]

_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
#: What the server may ask of a host: it writes.
_WRITABLE: Final = ("read-write", "primary", "any")
_FILES: Final = {
    "sslrootcert": "PGSSLROOTCERT",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslcrl": "PGSSLCRL",
}
_AUTHORITY: Final = "the certificate of the authority that signed the database's certificate"


class OptionRefused(Exception):
    """An option of the URL, or its environment variable, cannot be used. The message says what to do."""


def session_attributes(url: str) -> str | None:
    """Return what a host must be: by default a URL of several hosts leads to one that can be written."""
    given = option(url, "target_session_attrs", "PGTARGETSESSIONATTRS")
    return given or ("read-write" if hosts_of(url) else None)


def check_options(url: str) -> None:
    """Raise `OptionRefused` for an option that cannot be used. The files may change at any time."""
    attributes = session_attributes(url)
    if attributes and attributes not in _WRITABLE:
        message = f"target_session_attrs={attributes!r}: this server writes; use {_listed(_WRITABLE)}"
        raise OptionRefused(message)
    mode = option(url, "sslmode", "PGSSLMODE")
    if mode and mode not in _MODES:
        message = f"sslmode={mode!r}: there is no such mode; use {_listed(_MODES)}"
        raise OptionRefused(message)
    if mode != "disable":
        _check_files(url, mode)
    _check_user(url)


def _check_files(url: str, mode: str) -> None:
    for name, variable in _FILES.items():
        if path := option(url, name, variable):
            _check_file(name, path)
    if mode.startswith("verify") and not option(url, "sslrootcert", "PGSSLROOTCERT"):
        try:
            usual = Path.home() / ".postgresql/root.crt"
            found = usual.exists()
        except (RuntimeError, OSError):  # This user has no home directory, or none that it can read.
            found = False
        if not found:
            message = (
                f"sslmode={mode} needs {_AUTHORITY}; set sslrootcert=FILE in the store's URL, or write "
                "~/.postgresql/root.crt"
            )
            raise OptionRefused(message)


def _check_user(url: str) -> None:
    """Check that there is a user: asyncpg takes the process's, which has no name in some containers."""
    login, at, _ = urlsplit(url).netloc.partition("@")
    in_login = at and login.partition(":")[0]
    if in_login or option(url, "user", "PGUSER") or option(url, "service", "PGSERVICE"):
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        message = (
            "the store's URL names no user, and the user of this process has no name; use postgresql://USER@HOST/…"
        )
        raise OptionRefused(message) from None


def _check_file(name: str, path: str) -> None:
    try:
        with Path(path).open("rb"):
            pass
    except OSError as error:
        where = f"{name} in the store's URL, or {_FILES[name]}"
        message = f"{name}={path!r}: the file cannot be read ({error.strerror}); correct {where}"
        if name == "sslrootcert":
            message += f". It must be {_AUTHORITY}, such as /etc/ssl/certs/ca-certificates.crt for a public one"
        raise OptionRefused(message) from None


def _listed(words: tuple[str, ...]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
