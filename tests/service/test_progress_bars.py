"""The progress bars of a watch on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from typing import Any

from tests.support.event_samples import HOSTILE, event_of

#: Show progress reports as a watch does, in a separate process with a terminal.
SHOW = """
import sys
from mendflow.cli.progress_view import ProgressView
from mendflow.v1 import event_pb2

with ProgressView(json=False) as view:
    for line in sys.argv[1:]:
        view.show(event_pb2.Event.FromString(bytes.fromhex(line)))
"""


def on_terminal(*reports: dict[str, Any]) -> tuple[int, str]:
    terminal, its_side = pty.openpty()
    events = [event_of("progress_reported", report).SerializeToString().hex() for report in reports]
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW, *events],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40"},
        stdout=its_side,
        stderr=its_side,
    )
    os.close(its_side)
    written = b""
    # OSError: the other side of the terminal is closed.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 65536):
            written += piece
    os.close(terminal)
    return process.wait(60), written.decode()


def test_a_bar_shows_a_message_without_its_control_characters_and_markup() -> None:
    code, text = on_terminal({"step_key": "[/red]send", "done": "1", "total": "2", "message": HOSTILE})
    assert code == 0, text
    assert "1/2" in text
    assert "[/bold][red]" in text
    assert "[/red]send" in text
    assert "\x1b]0;" not in text


def test_a_bar_of_unknown_length_does_not_look_done_and_learns_its_length() -> None:
    code, text = on_terminal({"done": "3", "message": "counting"})
    assert code == 0, text
    assert "3 counting" in text
    assert "3/3" not in text
    assert "3/9 known" in on_terminal({"done": "3"}, {"done": "3", "total": "9", "message": "known"})[1]


def test_many_steps_do_not_fill_the_screen_and_the_workflow_keeps_its_bar() -> None:
    steps = [{"step_key": f"gather[{index}]/send", "done": "1", "total": "5"} for index in range(50)]
    code, text = on_terminal({"done": "7", "total": "50", "message": "whole"}, *steps)
    assert code == 0, text
    last = text[text.rindex("7/50 whole") :]
    assert last.count("1/5") < 10
    assert "gather[49]/send" in last
    assert "gather[0]/send" not in last
