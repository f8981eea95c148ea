"""Every link in the documentation has a target, and the index of decision records lists every record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob(".github/*.md"), *(ROOT / "docs").rglob("*.md")])
ADRS = ROOT / "docs/adr"
RECORDS = sorted(ADRS.glob("[0-9]*.md"))
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives considered"]

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
STATUS = re.compile(r"(proposed|accepted|superseded by \[\d+\]\(\d{4}-[a-z0-9-]+\.md\))")


def prose(page: Path) -> str:
    """Return the page without its code blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the page's headings."""
    plain = [re.sub(r"[`*]|\]\([^)]*\)", "", heading).lower() for heading in HEADING.findall(prose(page))]
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_has_a_target(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_index_lists_every_decision_record() -> None:
    listed = re.findall(r"^\| \[(\d+)\]\((\S+)\) \| (.+) \| (\S+) \| (.+) \|$", prose(ADRS / "README.md"), re.MULTILINE)
    found = []
    for path in RECORDS:
        number, title = re.findall(r"\A# (\d+)\. (.+)$", prose(path), re.MULTILINE)[0]
        date, status = re.findall(r"^- (?:Date|Status): (.+)$", prose(path), re.MULTILINE)
        found.append((number, path.name, title, date, status))
    assert listed == found
    assert [int(path.name[:4]) for path in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_decision_record_follows_the_template(record: Path) -> None:
    assert re.findall(r"^## (.+)$", prose(record), re.MULTILINE) == SECTIONS
    assert re.findall(r"^## (.+)$", prose(ADRS / "template.md"), re.MULTILINE) == SECTIONS
    assert re.search(r"^- Date: \d{4}-\d{2}-\d{2}$", prose(record), re.MULTILINE)
    assert re.search(rf"^- Status: {STATUS.pattern}$", prose(record), re.MULTILINE)
