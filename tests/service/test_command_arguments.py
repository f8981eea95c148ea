"""The command line's arguments: what each sends to the server, which server it calls, and what it refuses to send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mendflow.cli import commands
from mendflow.v1 import workflow_service_pb2 as ws

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from tests.support.scripted_server import Script


def test_the_input_is_sent_as_it_is_given(script: Script, mendflow: Callable[..., Result], tmp_path: Path) -> None:
    text = '{ "n": 12345678901234567890123.0, "e": 1e400, "same": 1.50, "é": "\\u00e9" }'
    file = tmp_path / "input.json"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    for argument in (text, f"@{file}", "-"):
        assert mendflow("start", "t", "--input", argument, stdin=text.encode()).exit_code == 0
    sent = [call.input.json for call in script.calls if isinstance(call, ws.StartWorkflowRequest)]
    assert sent == [text, text, text]


def test_without_an_input_none_is_sent(script: Script, mendflow: Callable[..., Result]) -> None:
    assert mendflow("start", "t").exit_code == 0
    assert not script.calls[0].HasField("input")
    assert mendflow("start", "t", "--input", "null").exit_code == 0
    assert script.calls[1].input.json == "null"


@pytest.mark.parametrize("option", [("--server", "127.0.0.1:1"), ("--server=127.0.0.1:1",)], ids=["apart", "in one"])
def test_the_option_overrides_the_variable(mendflow: Callable[..., Result], option: tuple[str, ...]) -> None:
    assert mendflow("list").exit_code == 0
    assert mendflow("list", *option).exit_code == 3


COMMANDS = [
    ("start", "t"),
    ("start", "t", "--watch"),
    ("start", "t", "--wait", "1"),
    ("watch", "w"),
    ("list",),
    ("show", "w"),
    ("signal", "w", "go"),
    ("cancel", "w"),
    ("resume", "w"),
    ("terminate", "w"),
    ("hold", "w"),
    ("release", "w"),
    ("delete", "w", "v"),
    ("types",),
    ("health",),
    ("info",),
    ("result", "w"),
]


def test_no_verb_is_missing_from_the_table() -> None:
    assert {arguments[0] for arguments in COMMANDS} == {command.name for command in commands.COMMANDS}


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_verb_exits_3_when_no_server_is_there(
    mendflow: Callable[..., Result], arguments: tuple[str, ...]
) -> None:
    result = mendflow(*arguments, server="127.0.0.1:1")
    assert result.exit_code == 3, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: the server at 127.0.0.1:1 cannot be reached")


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "not JSON": (("start", "t", "--input", '{"a": 1,\n "b" 2}'), "line 2 column 6"),
    "a bare text": (("start", "t", "--input", "hello"), "write a string as"),
    "NaN": (("start", "t", "--input", "[NaN]"), "NaN"),
    "a member twice": (("start", "t", "--input", '{"a": 1, "a": 2}'), 'has "a" twice'),
    "a member twice inside": (("start", "t", "--input", '[{"x": {"a": 1, "\\u0061": 1}}]'), 'has "a" twice'),
    "a member twice in a signal": (("signal", "w", "go", "--data", '{"a": 1, "b": 2, "a": 1}'), 'has "a" twice'),
    "too deep": (("start", "t", "--input", "[" * 100_000), "nested too deep"),
    "bytes": (("start", "t", "--input", "-"), "standard input cannot be read"),
    "no such file": (("start", "t", "--input", "@/nowhere/x.json"), "/nowhere/x.json"),
    "signal data": (("signal", "w", "go", "--data", "{"), "line 1 column 2"),
    "an id that is no text": (("start", "t", "--id", "\udcff"), "not valid UTF-8"),
    "a label without value": (("start", "t", "--label", "a"), "NAME=VALUE"),
    "a label twice": (("start", "t", "--label", "a=1", "--label", "a=2"), "must not be given twice"),
    "an unknown state": (("list", "--state", "done"), "succeeded"),
    "an unknown kind": (("watch", "w", "--kind", "nothing"), "attempt_failed"),
    "no kind at all": (("watch", "w", "--kind", "unspecified"), "attempt_failed"),
    "no time": (("list", "--since", "yesterday"), "2030-01-31T12:00:00"),
    "before the beginning": (("list", "--since", "0001-01-01T00:00:00+14:00"), "2030-01-31T12:00:00"),
    "attempts of none": (("list", "--min-attempts", "0"), "--min-attempts"),
    "a negative timeout": (("result", "w", "--timeout", "-1"), "--timeout"),
    "a limit of none": (("list", "--limit", "0"), "--limit"),
    "a negative wait": (("start", "t", "--wait", "-1"), "--wait"),
    "a negative sequence": (("watch", "w", "--after", "-1"), "--after"),
    "no such command": (("begin", "t"), "begin"),
    "no id": (("show",), "ID"),
    **{
        f"an empty argument: {' '.join(arguments)}": (arguments, "must not be empty")
        for arguments in [
            ("start", ""),
            ("start", "t", "--id", ""),
            ("start", "t", "--id", "  "),
            ("watch", ""),
            ("show", " "),
            ("result", ""),
            ("signal", "", "go"),
            ("signal", "w", ""),
            ("signal", "w", "go", "--request-id", ""),
            ("cancel", ""),
            ("resume", ""),
            ("terminate", "\t"),
            ("hold", ""),
            ("release", "w", " "),
            ("delete", "w", ""),
            ("export", ""),
            ("list", "--type", ""),
            ("types", ""),
        ]
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_exits_2_and_nothing_is_sent(script: Script, mendflow: Callable[..., Result], case: str) -> None:
    arguments, words = WRONG[case]
    result = mendflow(*arguments, stdin=b"\xff\xfe")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert "Traceback" not in result.output
    assert script.calls == []
