"""Files that the command writes: whole or not at all, and never in the place of something else."""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING

from mendflow.cli.atomic_file import write_atomically

if TYPE_CHECKING:
    from pathlib import Path


def test_a_link_stays_a_link_and_its_file_gets_the_text(tmp_path: Path) -> None:
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    dangling.symlink_to("made")
    write_atomically(link, "new")
    write_atomically(dangling, "new")
    assert link.is_symlink()
    assert dangling.is_symlink()
    assert (target.read_text(), (tmp_path / "made").read_text()) == ("new", "new")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dangling", "link", "made", "target"]


def test_a_pipe_stays_a_pipe_and_gets_the_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_atomically(pipe, "text")
    reader.join()
    assert read == ["text"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
