"""The progress bars of a watch on a terminal."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import pytest
from rich.cells import cell_len

from tests.support.event_samples import HOSTILE, event_of
from tests.support.terminal import run_on_terminal

#: Show events as a watch does, in a separate process with a terminal.
SHOW = """
import json
import sys
from mendflow.cli.progress_view import ProgressView
from mendflow.v1 import event_pb2

pause, how, *lines = sys.argv[1:]
try:
    with ProgressView(json=False) as view:
        for line in lines:
            view.show(event_pb2.Event.FromString(bytes.fromhex(line)))
            if pause:
                view._progress.refresh()
        if how == "lose":
            view.connection(False, "gone")
            view._progress.refresh()
            view.connection(True, "")
        view._progress.refresh()
        if how == "interrupt":
            raise KeyboardInterrupt
except KeyboardInterrupt:
    sys.exit(130)
"""


def on_terminal(
    *details: tuple[str, dict[str, Any]], pause: bool = False, how: str = "end", columns: int = 120
) -> tuple[int, str]:
    """Show events on a terminal. With ``pause``, draw the bars after each event."""
    events = [event_of(*detail).SerializeToString().hex() for detail in details]
    command = [sys.executable, "-c", SHOW, "pause" if pause else "", how, *events]
    return run_on_terminal(command, {**os.environ, "LINES": "40"}, columns)


def report(**content: Any) -> tuple[str, dict[str, Any]]:
    return "progress_reported", content


def last_screen(text: str) -> str:
    """Return what was written after the live display was erased for the last time."""
    return text[text.rindex("\x1b[2K") :]


def test_a_bar_shows_a_message_without_its_control_characters_and_markup() -> None:
    code, text = on_terminal(report(step_key="[/red]send", done="1", total="2", message=HOSTILE))
    assert code == 0, text
    assert "1/2" in text
    assert "[/bold][red]" in text
    assert "[/red]send" in text
    assert "\x1b]0;" not in text


def test_a_bar_of_unknown_length_does_not_look_done_and_learns_its_length() -> None:
    code, text = on_terminal(report(done="3", message="counting"))
    assert code == 0, text
    assert "3 counting" in text
    assert "3/3" not in text
    assert "3/9 known" in on_terminal(report(done="3"), report(done="3", total="9", message="known"))[1]


@pytest.mark.parametrize(
    "ending",
    [
        ("attempt_succeeded", {"step_key": "send", "attempt": 1}),
        ("attempt_failed", {"step_key": "send", "attempt": 1}),
        ("call_cancelled", {"key": "send"}),
        ("workflow_terminated", {}),
        ("workflow_paused", {}),
    ],
    ids=lambda ending: ending[0],
)
def test_a_bar_ends_with_its_step_and_leaves_a_line(ending: tuple[str, dict[str, Any]]) -> None:
    begun = report(step_key="send", attempt=1, done="3", message="mails")
    code, text = on_terminal(begun, ending, ("alert_raised", {"name": "later"}), pause=True)
    assert code == 0, text
    _, _, after = text.partition("send progress 3 mails")
    assert after, text
    assert "━" not in after
    assert "3 mails" not in after


def test_a_bar_of_another_step_stays() -> None:
    other = report(step_key="other", done="1", total="4")
    begun = report(step_key="send", done="3", total="4")
    _, text = on_terminal(begun, other, ("attempt_succeeded", {"step_key": "send"}), pause=True)
    _, _, after = text.partition("send progress 3 of 4")
    assert "1/4" in after


@pytest.mark.parametrize("how", ["end", "interrupt"])
def test_no_bar_is_left_on_the_screen_when_the_watch_ends(how: str) -> None:
    code, text = on_terminal(report(step_key="send", done="3", message="mails"), pause=True, how=how)
    assert code == (0 if how == "end" else 130), text
    assert "send progress 3 mails" in text
    assert "━" not in last_screen(text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is visible"


def test_bars_are_hidden_while_the_connection_is_lost() -> None:
    _, text = on_terminal(report(step_key="send", done="3", total="4"), pause=True, how="lose")
    _, _, lost = text.partition("connection lost; reconnecting: gone")
    lost, _, again = lost.partition("reconnected")
    assert "3/4" not in lost
    assert "3/4" in again


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize("text", ["customers-" * 20, "注文" * 60, HOSTILE * 10], ids=["long", "wide", "control"])
def test_a_bar_fits_on_one_line_of_the_screen(text: str, columns: int) -> None:
    reports = [report(step_key=text, done=str(done), total="20", message=text) for done in (3, 4)]
    _, written = on_terminal(*reports, pause=True, columns=columns)
    assert "4/20" in written
    plain = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", written).replace("\r", "\n")
    assert max(map(cell_len, plain.split("\n"))) <= columns


def test_many_steps_do_not_fill_the_screen_and_the_workflow_keeps_its_bar() -> None:
    steps = [report(step_key=f"gather[{index}]/send", done="1", total="5") for index in range(50)]
    code, text = on_terminal(report(done="7", total="50", message="whole"), *steps)
    assert code == 0, text
    last = text[text.rindex("7/50 whole") :]
    assert last.count("1/5") < 10
    assert "gather[49]/send" in last
    assert "gather[0]/send" not in last
