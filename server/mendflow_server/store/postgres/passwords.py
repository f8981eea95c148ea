"""Read the database's password from a file, as a mounted secret is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["VARIABLE", "PasswordUnreadable", "read_password"]

#: The variable that names the file.
VARIABLE: Final = "MENDFLOW_STORE_PASSWORD_FILE"
#: The largest file that is read, in bytes.
_MOST: Final = 10_000


class PasswordUnreadable(Exception):
    """The file has no password. The message says what to do, and repeats nothing of what the file has."""


def read_password(path: str) -> str:
    """Return the password in a file, without the line end after it. Raise `PasswordUnreadable`."""
    try:
        if Path(path).exists() and not Path(path).is_file():
            raise _unreadable(path, "is no file")
        with Path(path).open("rb") as file:
            found = file.read(_MOST + 1)
    except OSError as error:
        raise _unreadable(path, f"cannot be read ({error.strerror})") from None
    if len(found) > _MOST:
        raise _unreadable(path, f"is larger than {_MOST} bytes")
    try:
        password = found.decode()
    except UnicodeError:
        raise _unreadable(path, "is not UTF-8") from None
    password = password.rstrip("\r\n")
    if not password:
        raise _unreadable(path, "is empty")
    if any(character in password for character in "\0\r\n"):
        raise _unreadable(path, "has more than one line, or a NUL")
    return password


def _unreadable(path: str, problem: str) -> PasswordUnreadable:
    message = f"{VARIABLE}={path!r}: the file {problem}; name a file that the server can read and that has the password"
    return PasswordUnreadable(message)
