"""Field numbers are permanent: however the classes change, a number never means another field."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mendflow.codec import ValueType
from mendflow.errors import DefinitionError
from mendflow.protogen.descriptors import Descriptors
from mendflow.protogen.lock_file import LockFile, MergeResult, WorkflowSchemas, merge
from mendflow.protogen.proto_writer import proto_text
from mendflow.protogen.schema import MessageSchema, SchemaBuilder
from tests.support.scale import scaled

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {"string": str, "int64": int, "double": float, "repeated string": list[str], "bool": bool}
versions = st.lists(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(sorted(TYPES)), max_size=4), max_size=6
)


def shapes(annotation: Any, name: str = "draw") -> WorkflowSchemas:
    builder = SchemaBuilder()
    message = builder.message_for(ValueType.of(annotation), f"workflow {name} input", f"{name.title()}Input", "")  # type: ignore[arg-type]
    assert builder.problems == []
    return WorkflowSchemas(name, message, None, {})


def record(fields: dict[str, str], name: str = "Record") -> Any:
    return dataclasses.make_dataclass(name, [(field, TYPES[type_]) for field, type_ in fields.items()])


def locked(lock: LockFile, annotation: Any, **options: Any) -> MergeResult:
    return merge(lock, [shapes(annotation)], **options)


def empty() -> LockFile:
    return LockFile(package="tests.drawn.v1")


@settings(max_examples=scaled(25, 2_000), deadline=None)
@given(history=versions)
def test_a_number_means_one_name_and_type_forever(history: list[dict[str, str]]) -> None:
    lock = empty()
    meanings: dict[int, tuple[str, str]] = {}
    for fields in history:
        merged = locked(lock, record(fields), allow_type_changes=True)
        assert merged.conflicts == []
        # As the next run reads it.
        lock = LockFile.model_validate_json(merged.lock.text())
        message = lock.messages["DrawInput"]
        assert {name: field.type for name, field in message.fields.items()} == fields
        for name, field in message.fields.items():
            assert meanings.setdefault(field.number, (name, field.type)) == (name, field.type)
        gone = {each.number: (each.name, each.type) for each in message.reserved}
        assert gone == {
            number: meaning
            for number, meaning in meanings.items()
            if number not in {f.number for f in message.fields.values()}
        }
        assert locked(lock, record(fields)).changes == []
        Descriptors(lock)


def test_a_removed_field_is_reserved_and_comes_back_under_its_number() -> None:
    lock = locked(empty(), record({"a": "string", "b": "int64"})).lock
    less = locked(lock, record({"a": "string"}))
    assert less.changes == ["DrawInput.b: removed; 2 is reserved"]
    text = proto_text(less.lock, [], "m", [])
    assert '  reserved 2;\n  reserved "b";\n' in text
    assert locked(less.lock, record({"a": "string", "c": "int64"})).lock.messages["DrawInput"].fields["c"].number == 3
    back = locked(less.lock, record({"a": "string", "b": "int64"})).lock.messages["DrawInput"]
    assert (back.fields["b"].number, back.reserved) == (2, [])


def test_a_type_change_is_refused_or_gets_a_new_number() -> None:
    lock = locked(empty(), record({"a": "string", "b": "int64"})).lock
    refused = locked(lock, record({"a": "string", "b": "double"}))
    assert refused.conflicts == [("DrawInput.b", "was int64 (field 2) and is now double")]
    allowed = locked(lock, record({"a": "string", "b": "double"}), allow_type_changes=True)
    assert allowed.conflicts == []
    assert allowed.lock.messages["DrawInput"].fields["b"].number == 3
    # The old number is reserved. The name is not, because a field has it.
    assert "  reserved 2;\n  optional string a = 1;\n  optional double b = 3;\n" in proto_text(
        allowed.lock, [], "m", []
    )


def test_a_default_or_none_is_no_type_change() -> None:
    lock = locked(empty(), record({"a": "int64"})).lock
    for annotation, default in ((int, 5), (int | None, None), (int | None, dataclasses.MISSING)):
        cls = dataclasses.make_dataclass("Record", [("a", annotation, dataclasses.field(default=default))])
        assert locked(lock, cls).changes == []


def test_order_does_not_matter() -> None:
    lock = locked(empty(), record({"a": "string", "b": "int64"})).lock
    assert locked(lock, record({"b": "int64", "a": "string"})).lock == lock


def test_an_enums_value_keeps_its_number_and_leaves_it_reserved() -> None:
    lock = locked(empty(), enum.Enum("Speed", {"SLOW": "s", "FAST": "f"})).lock
    without = locked(lock, enum.Enum("Speed", {"FAST": "f", "MIDDLE": "m"})).lock
    assert without.enums["Speed"].values == {"FAST": 2, "MIDDLE": 3}
    assert '  reserved 1;\n  reserved "SPEED_SLOW";\n' in proto_text(without, [], "m", [])
    again = locked(without, enum.Enum("Speed", {"SLOW": "s", "FAST": "f", "MIDDLE": "m"})).lock
    assert again.enums["Speed"].values == {"SLOW": 1, "FAST": 2, "MIDDLE": 3}
    for each in (lock, without, again):
        Descriptors(each)


def test_numbers_that_protobuf_keeps_for_itself_are_passed_over() -> None:
    lock = locked(empty(), record({"a": "string"})).lock
    lock.messages["DrawInput"].fields["a"].number = 18_999
    assert locked(lock, record({"a": "string", "b": "string"})).lock.messages["DrawInput"].fields["b"].number == 20_000


def in_module(cls: Any, module: str) -> Any:
    cls.__module__ = module
    return cls


def nested(*classes: Any) -> Any:
    return dataclasses.make_dataclass("Outer", [(f"part_{'abc'[index]}", cls) for index, cls in enumerate(classes)])


def test_two_classes_of_one_name_have_two_messages_and_keep_them() -> None:
    ours, theirs = (
        in_module(record({"a": kind}, "Part"), name) for kind, name in (("string", "ours"), ("bool", "theirs"))
    )
    lock = locked(empty(), nested(ours, theirs)).lock
    assert {name: each.source for name, each in lock.messages.items()} == {
        "DrawInput": "workflow draw input",
        "Part": "ours.Part",
        "Part2": "theirs.Part",
    }
    swapped = dataclasses.make_dataclass("Outer", [("part_b", theirs), ("part_a", ours)])
    assert locked(lock, swapped).changes == []
    # Only the second class remains, and it does not take the name of the first.
    assert locked(lock, nested(theirs), allow_type_changes=True).lock.messages["Part"].removed


def test_a_class_that_moved_keeps_its_message() -> None:
    lock = locked(empty(), nested(in_module(record({"a": "string"}, "Part"), "before"))).lock
    moved = locked(lock, nested(in_module(record({"a": "string"}, "Part"), "after")))
    assert moved.changes == ["Part: now made from after.Part"]
    assert moved.lock.messages["Part"].fields == lock.messages["Part"].fields


def test_a_message_that_went_keeps_its_numbers_for_when_it_comes_back() -> None:
    part = in_module(record({"a": "string", "b": "bool"}, "Part"), "here")
    lock = locked(empty(), nested(part)).lock
    gone = locked(lock, record({"x": "string"})).lock
    assert gone.messages["Part"].removed
    assert "message Part " not in proto_text(gone, [], "m", [])
    back = locked(gone, nested(in_module(record({"b": "bool", "a": "string"}, "Part"), "here"))).lock
    assert back.messages["Part"].fields == lock.messages["Part"].fields


def test_workflows_come_and_go() -> None:
    both = merge(empty(), [shapes(int, "one"), shapes(str, "two")])
    assert sorted(both.lock.workflows) == ["one", "two"]
    left = merge(both.lock, [shapes(str, "two")])
    assert left.changes == ["OneInput: removed", "workflow one: removed"]
    assert merge(left.lock, [shapes(int, "one"), shapes(str, "two")]).lock == both.lock


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "Invalid JSON"),
        ("{}", "package"),
        ('{"package": "a.v1", "other": 1}', "other"),
        (
            '{"package": "a.v1", "messages": {"A": {"source": "x", "fields": {"a": {"number": 0, "type": "bool"}}}}}',
            "number",
        ),
        ('{"package": "a.v1", "version": 2}', "newer"),
    ],
)
def test_a_file_that_is_no_lock_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "x.protos.lock.json"
    path.write_text(text)
    with pytest.raises(DefinitionError, match=words) as caught:
        LockFile.read(path)
    assert str(path) in str(caught.value)


def test_a_lock_that_contradicts_itself_is_refused() -> None:
    lock = locked(empty(), record({"a": "string", "b": "int64"})).lock
    lock.messages["DrawInput"].fields["b"].number = 1
    with pytest.raises(DefinitionError, match="conflict"):
        Descriptors(lock)


def test_messages_are_found_through_each_other() -> None:
    message = shapes(nested(record({"a": "string"}, "Part"))).input
    assert isinstance(message, MessageSchema)
    assert [each.preferred_name for each in message.reachable()] == ["DrawInput", "Part"]


def lock_text(**parts: Any) -> str:
    """Return the text of a lock file, with these parts replaced."""
    whole = {
        "version": 1,
        "package": "shop.v1",
        "messages": {"A": {"source": "A", "fields": {"x": {"number": 1, "type": "S"}}}},
        "enums": {"S": {"source": "S", "values": {"A": 1, "B": 2}}},
    }
    return json.dumps(whole | parts)


def test_a_lock_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.protos.lock.json"
    path.write_text(lock_text(), "utf-8")
    assert LockFile.read(path).enums["S"].values == {"A": 1, "B": 2}


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        (
            lock_text(enums={"S": {"source": "S", "values": {"A": 1, "B": 1}}}),
            "enums.S .*must not have the number 1 twice",
        ),
        (lock_text(enums={"S": {"source": "S", "values": {"A": 0}}}), "enums.S.values.A"),
        (lock_text(enums={"S": {"source": "S", "values": {"A": 1 << 40}}}), "enums.S.values.A"),
        (
            lock_text(enums={"S": {"source": "S", "values": {"A": 1}, "reserved": [{"number": 1, "name": "B"}]}}),
            "enums.S .*must not have the number 1 twice",
        ),
        (
            lock_text(messages={"A": {"source": "A", "fields": {"x": {"number": 19_500, "type": "S"}}}}),
            "messages.A .*19500, which protobuf reserves",
        ),
        (
            lock_text(
                messages={
                    "A": {
                        "source": "A",
                        "fields": {"x": {"number": 3, "type": "string"}},
                        "reserved": [{"number": 3, "name": "y"}],
                    }
                }
            ),
            "messages.A .*must not have the number 3 twice",
        ),
        (lock_text(package=""), "package"),
        (lock_text(package="shop"), "package"),
        (lock_text(go_prefix='x"\n'), "go_prefix"),
        (lock_text(version=2, new=True), "newer mendflow"),
        ("<<<<<<< ours", "not a valid lock file"),
    ],
)
def test_a_damaged_lock_is_refused_where_it_is_damaged(tmp_path: Path, damaged: str, says: str) -> None:
    path = tmp_path / "shop.protos.lock.json"
    path.write_text(damaged, "utf-8")
    with pytest.raises(DefinitionError, match=says):
        LockFile.read(path)


def test_a_type_of_protobufs_own_is_named_from_the_root_where_a_part_of_the_package_is_google() -> None:
    text = proto_text(
        LockFile.model_validate_json(
            lock_text(
                package="tools.google.v1",
                messages={
                    "A": {"source": "A", "fields": {"x": {"number": 1, "type": "repeated google.protobuf.Timestamp"}}}
                },
            )
        ),
        [],
        "tools.google",
        [],
    )
    assert "repeated .google.protobuf.Timestamp x = 1;" in text
