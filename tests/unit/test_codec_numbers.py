"""Numbers from callers: the codec accepts no infinite number, however it is written."""

from __future__ import annotations

from typing import Any

import pytest

from mendflow.codec import ValueType
from mendflow.errors import PayloadError
from mendflow.v1 import payload_pb2
from tests.support.codec_classes import Open, Rounded

Payload = payload_pb2.Payload
INFINITE = ["1e999", "-1E+400", '"inf"', '"-Infinity"', '"nan"', '"1e309"', "1" * 400]
#: Other spellings of infinite numbers: a long number with a short exponent, digits with underscores, and escapes.
INFINITE += ["9" * 290 + "e60", "1" * 301 + "e9", '"1e9_99"', '"1e+_999"', f'"{"9_" * 160}9e300"', f'"1{"_111" * 110}"']
INFINITE += [r'"1\u0065999"', r'"i\u006ef"', r'"1e\u0039\u0039\u0039"']


@pytest.mark.parametrize("text", INFINITE)
def test_a_number_that_cannot_be_recorded_is_not_accepted(text: str) -> None:
    shapes: list[tuple[Any, str, str]] = [
        (float, text, ""),
        (list[float], f"[1.5,{text}]", "[1]"),
        (dict[str, list[float | None]], f'{{"a":[{text}]}}', "a[0]"),
        (Rounded, f'{{"x":{text}}}', "x"),
    ]
    for annotation, json, path in shapes:
        with pytest.raises(PayloadError, match="is not a JSON number") as caught:
            ValueType.of(annotation).accept(Payload(json=json))
        assert caught.value.problems[0][0] == path


def test_an_infinite_number_in_a_part_without_a_field_or_in_a_complex_one_is_not_accepted() -> None:
    for annotation, json in ((Open, '{"x":1,"y":1e999}'), (complex, '"1e999j"'), (list[complex], '["1", "infj"]')):
        with pytest.raises(PayloadError, match="is not a JSON number"):
            ValueType.of(annotation).accept(Payload(json=json))


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (float, "1e308", 1e308),
        (float, "9" * 290 + "e-60", float("9" * 290 + "e-60")),
        (float, "0.5e10", 5e9),
        (complex, '"1e10+2j"', 1e10 + 2j),
        (float, '"1.5"', 1.5),
        (Any, '{"inf":"nan"}', {"inf": "nan"}),
        (str, '"1e999"', "1e999"),
        (int, "1" * 400, int("1" * 400)),
        (list[str], '["inf"]', ["inf"]),
        (float | None, "null", None),
    ],
)
def test_other_numbers_and_texts_are_accepted(annotation: Any, text: str, value: Any) -> None:
    assert ValueType.of(annotation).accept(Payload(json=text)) == value
