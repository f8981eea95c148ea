"""The check of plain English finds each rejected word, and accepts text without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.plain_english import FIRST_WORDS, ROOT, RULES, check, findings

#: One text for each rule, in the order of the rules.
REJECTED = (
    "The watcher is told.",
    "Whoever waits gets the reply.",
    "The caller hung up.",
    "The attempt is under way.",
    "The event is on disk.",
    "The file lies beside the module.",
    "The workflow goes on.",
    "The next driver takes up the workflow.",
    "The attempt was cut off.",
    "The engine lets go of it.",
    "A fault of our own.",
    "Ask again under the same id.",
    "It waits for ever.",
    "The caller shall retry.",
    "The field is at fault.",
    "The server died.",
)
CLEAN = """The server commits the event and notifies the watchers.

If the call fails, retry it with the same id. The workflow resumes after a crash, and an attempt that was interrupted
runs again. A skeleton, a believer, the deadline and a disk are no rejected words.
"""
PAGE = Path("docs/page.md")


def found_words(text: str, path: Path = PAGE) -> list[str]:
    return [finding.word.lower() for finding in findings(path, text)]


@pytest.mark.parametrize(("rule", "text"), list(zip(RULES, REJECTED, strict=True)), ids=REJECTED)
def test_a_rejected_word_is_found_by_its_rule_only(rule: object, text: str) -> None:
    matching = [each for each in RULES if each.pattern.search(text)]
    assert matching == [rule]
    assert len(found_words(text)) == 1


def test_a_finding_has_its_line_and_the_words_to_use() -> None:
    [finding] = findings(PAGE, f"{CLEAN}\nThe caller hung up.\n")
    assert str(finding) == "docs/page.md:6: 'hung up'; write: disconnect"


def test_a_clean_text_has_no_findings() -> None:
    assert found_words(CLEAN) == []


@pytest.mark.parametrize("name", ["_was_told", "on_tell(x)", "goes_on = True", "CUT_OFF"])
def test_a_rejected_word_in_a_name_is_found(name: str) -> None:
    assert len(found_words(name, Path("module.py"))) == 1


def test_a_process_may_die_in_a_test_only() -> None:
    text = "The process died."
    assert found_words(text, Path("tests/crash/notes.md")) == []
    assert found_words(text) == ["died"]


@pytest.mark.parametrize(
    "word", ["Answer", "Answers", "Tell", "Tells", "Let", "Say", "Whoever", "Nobody", "What is", "Who"]
)
def test_a_docstring_that_begins_with_a_rejected_word_is_found(word: str) -> None:
    assert FIRST_WORDS.match(f"{word} it.")
    text = f'def function():\n    """{word} it."""\n\n\nclass Thing:\n    """{word} it."""\n'
    lines = [finding.line for finding in findings(Path("module.py"), text) if "PEP 257" in finding.better]
    assert lines == [2, 6]


def test_a_docstring_that_begins_with_a_verb_has_no_findings() -> None:
    text = '"""The module."""\n\n\ndef function():\n    """Return the answer, letter by letter."""\n'
    assert found_words(text, Path("module.py")) == []


def test_lines_that_are_switched_off_are_skipped() -> None:
    text = "It is told.\n<!-- plain-english: off -->\nIt is told.\n<!-- plain-english: on -->\nIt is told.\n"
    assert [finding.line for finding in findings(PAGE, text)] == [1, 5]


def test_repository_has_no_rejected_word() -> None:
    found = check([ROOT])
    assert not found, "\n".join(map(str, found))
