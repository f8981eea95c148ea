"""The comparison of a value with what a reader of its JSON gets.

The rule: a value comes back with the same class and the same parts. What may differ is what the annotation leaves open:
an int for a float of the same size, a list for a tuple without names, a frozenset for a set.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, time, timezone, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from mendflow.codec.layout import MODEL_SLOTS, hidden_base, slots_of
from mendflow.codec.problems import Problem, path_of, type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Places = tuple[int | str, ...]
#: The pairs of parts to compare, with the name of each part's place.
Pairs = list[tuple[int | str, Any, Any]]

#: What may come back for a value of another class.
_STAND_INS = frozenset({(tuple, list), (set, frozenset)})
_CONVERT = "annotate it with its type, or convert it first"
_UNSET = object()
#: The classes whose values have nothing beside what == compares.
_SIMPLE = frozenset({str, int, bool, bytes, type(None)})


def difference(
    value: Any, back: Any, places: Places = (), *, is_named: Callable[[Places], bool] | None = None
) -> Problem | None:
    """Return the first place where ``back`` differs from ``value``, with both values, or None if they are the same.

    ``is_named`` returns whether the annotation names the type of the part at a place, so no other type stands in for
    it.
    """
    if is_named is not None and (type(value), type(back)) in _STAND_INS and is_named(places):
        name, other = type_name(type(value)), type_name(type(back))
        return path_of(places), (
            f"{value!r:.100} is of type {name} and {_changed(back)} of type {other}, because its annotation has both; "
            f"convert it to {other}, or annotate it with one of them"
        )
    parts = _parts(value, back)
    if isinstance(parts, str):
        return path_of(places), parts
    for place, a, b in parts:
        if type(a) in _SIMPLE and type(a) is type(b) and a == b:
            continue
        problem = difference(a, b, (*places, place), is_named=is_named)
        if problem is not None:
            return problem
    return None


def _parts(value: Any, back: Any) -> str | Pairs:
    """Return the pairs of parts to compare, or the problem with the whole value."""
    if value is back:
        return []
    if back is _UNSET:
        return f"{value!r:.100} would be lost"
    if value is _UNSET:
        return f"is not set and {_changed(back)}"
    kind: Any = type(value)
    other = type(back)
    if kind is not other and (kind, other) not in _STAND_INS:
        if kind is int and other is float and value == back:
            return []
        return (
            f"{value!r:.100} is of type {type_name(kind)} and {_changed(back)} of type {type_name(other)}; {_CONVERT}"
        )
    compare: Callable[[Any, Any], str | Pairs] = _comparison(kind)
    return compare(value, back)


@functools.lru_cache(maxsize=1024)
def _comparison(kind: Any) -> Callable[[Any, Any], str | Pairs]:
    """Return how values of a class are compared."""
    found = next((compare for kinds, compare in _COMPARISONS if issubclass(kind, kinds)), None)
    base, slots = hidden_base(kind), slots_of(kind)
    names: tuple[str, ...] = ()
    if dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
    elif found is None and getattr(kind, "__eq__", None) is not object.__eq__:
        return _single
    elif found is not None and (base is None or not (kind.__dictoffset__ or slots)) and found is not _model:
        return found  # Its items are all that it has, or all that it shows.
    fields = frozenset(names)
    # A class that says nothing about sameness is compared by its attributes.
    names = (*names, *(name for name in slots if name not in fields and name not in MODEL_SLOTS))

    def attributes(value: Any, back: Any) -> str | Pairs:
        return _attributes(value, back, fields, names)

    if found is _model:
        return _both(_model, lambda value, back: _named(value, back, names)) if names else _model
    if base is None:
        return attributes if found is None else _both(found, attributes)
    if found is None:
        problem = f"its class derives from {type_name(base)}, whose state would be lost; {_CONVERT}"
        return (lambda _value, _back: problem) if fields else attributes
    return _both(functools.partial(_same_base, base) if found is _single else found, attributes)


def _both(
    first: Callable[[Any, Any], str | Pairs], second: Callable[[Any, Any], str | Pairs]
) -> Callable[[Any, Any], str | Pairs]:
    """Return the comparison by both."""

    def compare(value: Any, back: Any) -> str | Pairs:
        parts = first(value, back)
        if isinstance(parts, str):
            return parts
        more = second(value, back)
        return more if isinstance(more, str) else [*parts, *more]

    return compare


def _changed(back: Any) -> str:
    return f"would be decoded as {back!r:.100}"


def _items(value: Any, back: Any) -> str | Pairs:
    if len(value) != len(back):
        return f"has {len(value)} items and {_changed(back)}"
    if isinstance(value, deque) and value.maxlen != back.maxlen:
        return f"its maxlen, {value.maxlen}, would be lost; use a list, and limit its length where you use it"
    if _SIMPLE.issuperset(map(type, value)) and list(map(type, value)) == list(map(type, back)):
        pairs = zip(value, back, strict=True)
        return [(index, a, b) for index, (a, b) in enumerate(pairs) if a != b]
    return [(index, a, b) for index, (a, b) in enumerate(zip(value, back, strict=True))]


def _members(value: Any, back: Any) -> str | Pairs:
    found = {key: key for key in back}
    pairs: Pairs = []
    for key, part in value.items():
        other = found.get(key, _UNSET)
        same = type(key) is str and type(other) is str
        if not same and (other is _UNSET or difference(key, other) is not None):
            return f"the key {key!r:.100} would be lost: {_lost_key(key)}"
        pairs.append((key if same else str(key), part, back[key]))
    if len(value) != len(back):
        return f"has {len(value)} members and {_changed(back)}"
    if isinstance(value, OrderedDict) and list(value) != list(back):
        return f"the order of its keys would be lost, and it {_changed(back)}"
    if isinstance(value, defaultdict) and value.default_factory is not back.default_factory:
        return f"its default_factory, {value.default_factory!r:.100}, would be lost; convert it with dict()"
    return pairs


def _lost_key(key: Any) -> str:
    if not isinstance(key, str):
        return "JSON's keys are strings; annotate the keys' type, or use strings"
    return "it has a lone surrogate, which is no text" if _has_surrogate(key) else _CONVERT


def _has_surrogate(key: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in key)


def _elements(value: Any, back: Any) -> str | Pairs:
    found = {element: element for element in back}
    pairs: Pairs = []
    for element in value:
        if element not in found:
            return f"its element {element!r:.100} would be lost: it {_changed(back)}"
        pairs.append((str(element), element, found[element]))
    return pairs if len(value) == len(back) else f"has {len(value)} elements and {_changed(back)}"


def _model(value: BaseModel, back: BaseModel) -> str | Pairs:
    names = type(value).model_fields.keys()
    extra = value.__pydantic_extra__ or {}
    for name in extra:
        if name not in (back.__pydantic_extra__ or ()):
            return f"its member {name!r} would be lost"
    return _attributes(value, back, names, (*names, *extra, *(value.__pydantic_private__ or ())))


def _named(value: Any, back: Any, names: Iterable[str]) -> Pairs:
    return [(name, getattr(value, name, _UNSET), getattr(back, name, _UNSET)) for name in names]


def _attributes(value: Any, back: Any, fields: AbstractSet[str], names: Iterable[str]) -> str | Pairs:
    """Return the pairs of these attributes, and of what an object carries beside its fields."""
    pairs = _named(value, back, names)
    carried = getattr(value, "__dict__", {})
    for name in () if carried.keys() <= fields else carried.keys() - fields:
        if isinstance(inspect.getattr_static(type(value), name, None), functools.cached_property):
            continue
        if name not in back.__dict__:
            return f"its attribute {name!r}, {carried[name]!r:.100}, is no field and would be lost"
        pairs.append((name, carried[name], back.__dict__[name]))
    return pairs


def _moment(value: Any, back: Any) -> str | Pairs:
    """Compare two datetimes or times by what arithmetic does with them, and by their zones' names."""
    if value.replace(tzinfo=None) != back.replace(tzinfo=None):
        return f"{value!r:.100} {_changed(back)}"
    if value.fold != back.fold:
        return f"{value!r:.100} {_changed(back)}, because JSON has no fold; convert it to UTC first"
    if value.tzinfo is None and back.tzinfo is None:
        return []
    if value.tzinfo is None or back.tzinfo is None or not _same_zone(value.tzinfo, back.tzinfo):
        return (
            f"its zone, {value.tzinfo!r:.100}, would be decoded as {back.tzinfo!r:.100}, because JSON has only an "
            "offset; convert it with astimezone(datetime.UTC), and keep the zone's name in a field of its own"
        )
    return []


def _same_zone(zone: tzinfo, back: tzinfo) -> bool:
    offset = zone.utcoffset(None)  # It is None for a zone whose offset changes with the date.
    if offset is None or offset != back.utcoffset(None):
        return False
    if type(zone) is timezone:
        return zone.tzname(None) == timezone(offset).tzname(None)
    return type(zone) is type(back) or zone.tzname(None) == back.tzname(None)


def _single(value: Any, back: Any) -> str | Pairs:
    same = value == back
    if isinstance(value, float | complex | Decimal):
        same = same and repr(value) == repr(back)  # -0.0 equals 0.0, and Decimal("1.0") equals Decimal("1").
    return [] if _is_true(same) else f"{value!r:.100} {_changed(back)}"


def _same_base(base: Any, value: Any, back: Any) -> str | Pairs:
    """Compare what the builtin that a class derives from compares, since the class may compare other things."""
    if base.__eq__(value, back) is True:
        return []
    return f"its {type_name(base)}, {base.__repr__(value):.100}, would be decoded as {base.__repr__(back):.100}"


def _exception(value: BaseException, back: BaseException) -> str | Pairs:
    return [("args", value.args, back.args), ("__cause__", value.__cause__, back.__cause__)]


def _is_true(same: Any) -> bool:
    """Return the result of a comparison. An array has many, and a class whose result is no truth value is trusted."""
    if isinstance(same, bool):
        return same
    try:
        return bool(same.all() if hasattr(same, "all") else same)
    except (TypeError, ValueError):
        return True


#: The first that fits compares a value of a class.
_COMPARISONS: tuple[tuple[Any, Callable[[Any, Any], str | Pairs]], ...] = (
    ((str, int, bytes), _single),
    ((list, tuple, deque), _items),
    (Mapping, _members),
    (AbstractSet, _elements),
    (BaseModel, _model),
    (BaseException, _exception),
    ((datetime, time), _moment),
)
