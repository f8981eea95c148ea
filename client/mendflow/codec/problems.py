"""Descriptions of the problems of a value: pairs of a path and a text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mendflow.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ValidationError

#: The most problems in one error. A hostile input can have a million.
MOST_PROBLEMS = 20
_NAME = re.compile(r"[^\W\d]\w*", re.ASCII)
_FIELD = re.compile(r"\[(?:field_name='(?P<field>[^']*)', )?input_value=.*\]$")

Problem = tuple[str, str]


def type_name(annotation: object) -> str:
    """Return a type's name for an error message, close to its spelling in the source."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).removeprefix("typing.")


def path_of(places: Iterable[int | str]) -> str:
    """Return the path to a place, such as ``items[3].price``."""
    path = ""
    for place in places:
        if isinstance(place, str) and _NAME.fullmatch(place):
            path += f".{place}" if path else place
        else:
            path += f"[{place}]" if isinstance(place, int) else f"[{json.dumps(place[:100])}]"
    return path


def payload_error(what: str, problems: Sequence[Problem]) -> PayloadError:
    """Return the error for a value that does not match the type ``what``."""
    text = "; ".join(f"{path}: {problem}" if path else problem for path, problem in problems[:MOST_PROBLEMS])
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return PayloadError(f"not a value of type {what}: {text}{more}", problems[:MOST_PROBLEMS])


def validation_problems(error: ValidationError) -> list[Problem]:
    """Return the problems in an error of pydantic's validation."""
    return [
        (path_of(problem["loc"]), problem["msg"])
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def foreign_problems(error: BaseException) -> list[Problem]:
    """Return the problem for a value whose class raised an unexpected exception.

    Pydantic does not catch it, so the place inside the value is unknown. The problem names the function that raised.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_qualname}"
    return [("", f"{type(error).__name__} was raised{where}: {text_of(error)}".removesuffix(": "))]


def text_of(error: BaseException) -> str:
    """Return an exception's message, or a note if its ``__str__`` raises."""
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"(no message: {type(broken).__name__} in __str__)"


def serialization_problems(error: BaseException) -> list[Problem]:
    """Return the problems in an error of pydantic's serialization."""
    if isinstance(error, RecursionError):
        return [("", "is nested too deeply")]
    problems = []
    message = text_of(error)
    for line in message.splitlines():
        # pydantic: Class(Expected `int` - serialized value may not be as expected [field_name='x', input_value=...])
        warning = line.strip().removeprefix("PydanticSerializationUnexpectedValue").strip("()")
        if not warning or warning.startswith("Pydantic serializer warnings"):
            continue
        found = _FIELD.search(warning)
        text = warning.replace(" - serialized value may not be as expected", "").replace(" [field_name", " [field")
        problems.append((path_of([found["field"]]) if found and found["field"] else "", text))
    if "invalid utf-8 sequence" in message:
        problems.append(("", "has bytes that are not UTF-8; annotate them as pydantic.Base64Bytes"))
    return problems or [("", type(error).__name__)]


def strict_json(text: str | bytes, *, unique: bool = False, **numbers: Any) -> Any:
    """Parse strict JSON. With ``unique``, reject an object that has a member twice.

    Raise ValueError if the text is not strict JSON, and RecursionError if it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique if unique else None, **numbers)


def check_unique(text: str) -> None:
    """Raise ValueError if an object in a JSON text has a member twice, RecursionError if it is too deep."""
    if text.count(":") > 1:
        _UNIQUE.decode(text)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object must not have a member twice, and one has {json.dumps(twice)} twice")
    return members


#: It is made once, because making it takes longer than reading a short text. A float has no limit of digits.
_UNIQUE: Final = json.JSONDecoder(parse_constant=_refuse, object_pairs_hook=_unique, parse_int=float)
