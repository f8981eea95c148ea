"""What is wrong with a value, said in places and plain words."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NoReturn

from mendflow.errors import PayloadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic_core import ValidationError

#: As many problems are told; a hostile input may have a million.
MOST_PROBLEMS = 20
_NAME = re.compile(r"[^\W\d]\w*", re.ASCII)
_FIELD = re.compile(r"\[(?:field_name='(?P<field>[^']*)', )?input_value=.*\]$")

Problem = tuple[str, str]


def type_name(annotation: object) -> str:
    """Answer a type as its user wrote it, nearly."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation).removeprefix("typing.")


def path_of(places: Iterable[int | str]) -> str:
    """Answer the path to a place, as in ``items[3].price``."""
    path = ""
    for place in places:
        if isinstance(place, str) and _NAME.fullmatch(place):
            path += f".{place}" if path else place
        else:
            path += f"[{place}]" if isinstance(place, int) else f"[{json.dumps(place[:100])}]"
    return path


def payload_error(what: str, problems: Sequence[Problem]) -> PayloadError:
    """Answer the error for a value of type ``what``."""
    told = "; ".join(f"{path}: {problem}" if path else problem for path, problem in problems[:MOST_PROBLEMS])
    more = f"; and {len(problems) - MOST_PROBLEMS} more" if len(problems) > MOST_PROBLEMS else ""
    return PayloadError(f"not a value of type {what}: {told}{more}", problems[:MOST_PROBLEMS])


def validation_problems(error: ValidationError) -> list[Problem]:
    """Answer the problems that validation found."""
    return [
        (path_of(problem["loc"]), problem["msg"])
        for problem in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def foreign_problems(error: BaseException) -> list[Problem]:
    """Return the problem with a value whose class raised what no validator or serializer should.

    Pydantic passes on what is no ValueError, so the place inside the value is unknown. The code that raised is named.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" in {trace.tb_frame.f_code.co_qualname}"
    return [("", f"{type(error).__name__} was raised{where}: {text_of(error)}".removesuffix(": "))]


def text_of(error: BaseException) -> str:
    """Return what an exception says, or that it cannot be printed."""
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - the user's own __str__ may raise anything
        return f"(no message: {type(broken).__name__} in __str__)"


def serialization_problems(error: BaseException) -> list[Problem]:
    """Answer the problems that serialization met."""
    if isinstance(error, RecursionError):
        return [("", "is nested too deep")]
    problems = []
    said = text_of(error)
    for line in said.splitlines():
        # pydantic: Class(Expected `int` - serialized value may not be as expected [field_name='x', input_value=...])
        warning = line.strip().removeprefix("PydanticSerializationUnexpectedValue").strip("()")
        if not warning or warning.startswith("Pydantic serializer warnings"):
            continue
        found = _FIELD.search(warning)
        text = warning.replace(" - serialized value may not be as expected", "").replace(" [field_name", " [field")
        problems.append((path_of([found["field"]]) if found and found["field"] else "", text))
    if "invalid utf-8 sequence" in said:
        problems.append(("", "bytes that are not UTF-8 text need the annotation pydantic.Base64Bytes"))
    return problems or [("", type(error).__name__)]


def strict_json(text: str | bytes, *, unique: bool = False, **numbers: Any) -> Any:
    """Parse JSON, strictly; ``unique`` refuses an object that has a member twice.

    Raises ValueError (with the position, where it has one) or RecursionError.
    """
    return json.loads(text, parse_constant=_refuse, object_pairs_hook=_unique if unique else None, **numbers)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a member twice")
    return members
