"""The screens in docs/command-line.md are what the commands print."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.generate_screens import PAGE, filled, screens  # noqa: E402 - tools is beside the packages


def test_the_page_has_every_screen_as_the_code_prints_it() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page) == page, "run make screens"
    assert set(re.findall(r"<!-- screen: (.+?) -->", page)) == set(screens())


@pytest.mark.parametrize("name", [name for name in screens() if name[-1].isdigit()])
def test_a_screen_fits_its_width_and_its_colours_change_no_text(name: str) -> None:
    plain, coloured = screens()[name], screens()[f"{name} in colour"]
    assert max(map(cell_len, plain.splitlines())) <= int(name.split()[1])
    assert "\\e[" not in plain
    assert "\\e[" in coloured
    without = re.sub(r"\\e\[[\d;]*m", "", coloured)
    assert [line.rstrip() for line in without.splitlines()] == plain.splitlines()
