"""The command line's help pages, and its completion in shells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import run

if TYPE_CHECKING:
    from tests.support.servers import ServerProcess


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_complete_commands_and_states(shared: ServerProcess, shell: str) -> None:
    script = run(shared, _MENDFLOW_COMPLETE=f"{shell}_source")
    assert script.returncode == 0, script.stderr
    assert "_MENDFLOW_COMPLETE" in script.stdout
    words = {"COMP_WORDS": "mendflow list --state ", "COMP_CWORD": "qua" if shell == "fish" else "3"}
    found = run(shared, _MENDFLOW_COMPLETE=f"{shell}_complete", **words)
    assert "quarantined" in found.stdout


def test_help_lists_the_values_of_choices(shared: ServerProcess) -> None:
    page = " ".join(run(shared, "list", "--help").stdout.split())
    assert "pending, running, waiting, paused, quarantined" in page
    page = " ".join(run(shared, "watch", "--help").stdout.split())
    assert "attempt_failed" in page
