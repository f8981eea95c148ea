"""Readers skip a line that another process is still writing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import pytest

from tests.support.evidence import Effect, read_effects
from tests.support.servers import ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

EFFECT = Effect("order-17", "1", 1, "once")


@pytest.mark.parametrize(
    "half",
    [b"{", b'{"event": "serving", "path": "/srv', '{"event": "serving", "path": "/Köln'.encode()[:-3]],
    ids=["brace", "word", "character"],
)
def test_server_log_with_half_a_last_line_gives_the_whole_lines(tmp_path: Path, half: bytes) -> None:
    (tmp_path / "server.log").write_bytes(b'{"event": "listening"}\nnot JSON\n' + half)
    assert ServerProcess(tmp_path).log == [{"event": "listening"}]


def test_journal_with_half_a_last_line_gives_the_whole_lines(tmp_path: Path) -> None:
    (tmp_path / "journal.txt").write_text("note_down 1 1 key one\nnote_do", encoding="utf-8")
    assert ServerProcess(tmp_path).journal == ["note_down 1 1 key one"]


def test_effects_with_half_a_last_line_are_those_of_the_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "effects.jsonl"
    path.write_text(f'{json.dumps(asdict(EFFECT))}\n{{"workflow_id": "or', encoding="utf-8")
    assert read_effects(path) == [EFFECT]


def test_files_that_are_not_there_yet_have_no_lines(tmp_path: Path) -> None:
    assert ServerProcess(tmp_path).journal == []
    assert read_effects(tmp_path / "effects.jsonl") == []
    assert ServerProcess(tmp_path).log == []
