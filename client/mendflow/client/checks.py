"""Checks of a request's fields before a call is made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from mendflow.authoring.workflow import Workflow
from mendflow.errors import InvalidRequest

__all__ = ["checked", "checked_labels", "checked_text", "checked_workflow"]


def checked(field: str, value: str) -> str:
    """Return an id or a name. Raise `InvalidRequest` if it is not text, or is empty or only spaces."""
    if not checked_text(field, value).strip():
        _refuse(field, "must not be empty" if not value else f"must not be only spaces, as in {value!r}")
    return value


def checked_text(field: str, value: str) -> str:
    """Return a text, which may be empty. Raise `InvalidRequest` if it is not a string that can be sent."""
    given: object = value
    if not isinstance(given, str):
        _refuse(field, f"must be a string, not {given!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        _refuse(field, f"must be a string of valid characters; {given!r} is not valid UTF-8")
    return value


def checked_labels(labels: Mapping[str, str] | None) -> Mapping[str, str]:
    """Return the labels; none for None. Raise `InvalidRequest` if they are not a mapping of strings to strings."""
    if labels is None:
        return {}
    given: object = labels
    if not isinstance(given, Mapping):
        _refuse("labels", f"must be a mapping of names to values, not {given!r}")
    for name, value in labels.items():
        checked_text("the name of a label", name)
        checked_text(f'labels["{name}"]', value)
    return labels


def checked_workflow(workflow: Workflow[object, object] | str) -> str:
    """Return a workflow type's name. Raise `InvalidRequest` if this is neither a name nor a decorated function."""
    given: object = workflow
    if isinstance(given, Workflow):
        return given.name
    if not isinstance(given, str):
        _refuse("workflow_type", f"must be a function decorated with @workflow, or a type's name, not {given!r}")
    return checked("workflow_type", given)


def _refuse(field: str, problem: str) -> NoReturn:
    raise InvalidRequest(
        f"{field} {problem}; no call was made",
        code="INVALID_ARGUMENT",
        reason="INVALID_FIELD",
        violations=[(field, problem)],
    )
