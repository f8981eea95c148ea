"""Checks of a request's fields before a call is made."""

from __future__ import annotations

from mendflow.errors import InvalidRequest

__all__ = ["checked"]


def checked(field: str, value: str) -> str:
    """Return an id or a name. Raise `InvalidRequest` if it is empty or only spaces, as the server would."""
    given: object = value
    if isinstance(given, str) and not given.strip():
        problem = "must not be empty" if not given else f"must not be only spaces, as in {given!r}"
        raise InvalidRequest(
            f"{field} {problem}; no call was made",
            code="INVALID_ARGUMENT",
            reason="INVALID_FIELD",
            violations=[(field, problem)],
        )
    return value
