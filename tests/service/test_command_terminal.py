"""The command line on a terminal: its bars, its colours, its width, and its indented JSON."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from rich.cells import cell_len

from mendflow.v1 import event_pb2
from tests.support.command_line import parse, run
from tests.support.command_process import on_terminal

if TYPE_CHECKING:
    from tests.support.servers import ServerProcess


def test_a_terminal_gets_a_bar_and_colours(shared: ServerProcess) -> None:
    code, text = on_terminal(shared, "start", "heartbeats", "--input", "6", "--id", "bar", "--watch")
    assert code == 0
    assert "\x1b[" in text
    assert "━" in text
    # When the attempt ends, a line replaces its bar.
    assert "resumable progress 6 of 6 item 5" in text
    assert "attempt 1 failed: TransientError: half-way" in text
    assert "retries in" in text
    code, text = on_terminal(shared, "watch", "bar", "--json")
    assert code == 0
    assert "\x1b" not in text
    # Indented, because people read a terminal.
    assert '{\r\n  "sequence": "1",\r\n' in text
    one_line = text.replace("\r\n}\r\n", "}\n").replace("\r\n", "")
    assert len(parse(one_line, event_pb2.Event)) >= 6


@pytest.mark.parametrize("columns", [80, 160])
def test_a_terminal_gets_lines_of_its_width(shared: ServerProcess, columns: int) -> None:
    name = "wide-" + "customers-" * 18 + str(columns)
    run(shared, "start", "fails", "--input", json.dumps("注文 refused " * 30), "--id", name, "--wait", "30")
    for arguments in (("list", "--limit", "1"), ("show", name), ("watch", name)):
        text = on_terminal(shared, *arguments, columns=columns)[1]
        lines = [re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", line) for line in text.replace("\r", "\n").split("\n")]
        assert max(map(cell_len, lines)) <= columns, arguments
        assert "注文" in text or arguments[0] == "list"


def test_a_schema_on_a_terminal_is_indented(shared: ServerProcess) -> None:
    assert '  input   {"' in run(shared, "types", "typed").stdout
    _, text = on_terminal(shared, "types", "typed")
    assert '  input   {\r\n            "' in text
    assert on_terminal(shared, "types", "typed", "--json")[1].startswith('{\r\n  "name": "typed"')


def test_a_result_on_a_terminal_is_indented_and_keeps_its_digits(shared: ServerProcess) -> None:
    order = '{"id": "é", "amount": 12345678901234567890, "items": []}'
    run(shared, "start", "typed", "--input", order, "--id", "indented", "--wait", "30")
    code, text = on_terminal(shared, "result", "indented")
    assert code == 0
    assert text.startswith("{\r\n  ")
    assert json.loads(text) == json.loads(run(shared, "result", "indented").stdout)
    assert "12345678901234567890" in text


def test_control_characters_of_a_workflow_do_not_reach_a_terminal(shared: ServerProcess) -> None:
    text = "\x1b]0;owned\x07[/bold] [red]x"
    run(shared, "start", "fails", "--input", json.dumps(text), "--id", "hostile-tty", "--wait", "30")
    code, written = on_terminal(shared, "watch", "hostile-tty")
    assert code == 1
    assert "\x1b]0;" not in written
    assert "[/bold] [red]x" in written
