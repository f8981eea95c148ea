"""Page tokens: the next page continues exactly where the last one ended, and only in the same list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mendflow_server.api import page_tokens
from mendflow_server.errors import InvalidPageToken
from mendflow_server.store.records import Cursor, Filter

FILTERS = [
    Filter(),
    Filter(workflow_type="a"),
    Filter(workflow_type="b"),
    Filter(states=(1,)),
    Filter(states=(1, 2)),
    Filter(labels=(("a", "b"),)),
    Filter(labels=(("a", "b"), ("c", "d"))),
    Filter(
        labels=(
            (
                "a",
                'b"], ["c',
            ),
        )
    ),
    Filter(create_time_from=1),
    Filter(create_time_until=1),
    Filter(create_time_from=0),
]
CURSOR = Cursor(1_700_000_000_000_000, 42)

Opener = Callable[[str], object]
OPENERS: list[Opener] = [
    lambda token: page_tokens.workflows_cursor(Filter(), token),
    lambda token: page_tokens.events_cursor("uid", token),
    page_tokens.types_cursor,
]
TOKENS = [
    page_tokens.workflows_token(Filter(), CURSOR),
    page_tokens.events_token("uid", 7),
    page_tokens.types_token("checkout"),
]


@given(create_time=st.integers(-(2**63), 2**63 - 1), key=st.integers(0, 2**63 - 1), condition=st.sampled_from(FILTERS))
def test_a_token_gives_back_its_cursor(create_time: int, key: int, condition: Filter) -> None:
    cursor = Cursor(create_time, key)
    assert page_tokens.workflows_cursor(condition, page_tokens.workflows_token(condition, cursor)) == cursor


def test_the_other_tokens_give_back_their_cursors() -> None:
    assert page_tokens.events_cursor("uid", page_tokens.events_token("uid", 50_000)) == 50_000
    assert page_tokens.types_cursor(page_tokens.types_token("checkout")) == "checkout"


@pytest.mark.parametrize("number", [-1, -(2**63)])
def test_a_forged_token_of_no_possible_place_is_refused(number: int) -> None:
    # The server once read its eight bytes as a number too large for the store, and the call failed with INTERNAL.
    with pytest.raises(InvalidPageToken):
        page_tokens.workflows_cursor(Filter(), page_tokens.workflows_token(Filter(), Cursor(0, number)))
    with pytest.raises(InvalidPageToken):
        page_tokens.events_cursor("uid", page_tokens.events_token("uid", number))


def test_no_token_is_the_beginning() -> None:
    assert page_tokens.workflows_cursor(Filter(), "") is None
    assert page_tokens.events_cursor("uid", "") == 0
    assert page_tokens.types_cursor("") == ""


def test_a_token_of_one_filter_is_refused_with_every_other() -> None:
    for given_out in FILTERS:
        token = page_tokens.workflows_token(given_out, CURSOR)
        for asked in FILTERS:
            if asked == given_out:
                assert page_tokens.workflows_cursor(asked, token) == CURSOR
            else:
                with pytest.raises(InvalidPageToken):
                    page_tokens.workflows_cursor(asked, token)


def test_a_filter_in_another_order_is_the_same_filter() -> None:
    token = page_tokens.workflows_token(Filter(states=(1, 2), labels=(("a", "1"), ("b", "2"))), CURSOR)
    assert page_tokens.workflows_cursor(Filter(states=(2, 1), labels=(("b", "2"), ("a", "1"))), token) == CURSOR


def test_a_token_of_another_execution_of_the_same_id_is_refused() -> None:
    with pytest.raises(InvalidPageToken):
        page_tokens.events_cursor("uid-2", page_tokens.events_token("uid-1", 7))


def test_a_token_of_one_list_is_refused_by_the_others() -> None:
    for i, opener in enumerate(OPENERS):
        for j, token in enumerate(TOKENS):
            if i == j:
                opener(token)
            else:
                with pytest.raises(InvalidPageToken):
                    opener(token)


@given(data=st.data(), number=st.integers(0, 2))
def test_a_token_with_one_letter_changed_is_refused(data: st.DataObject, number: int) -> None:
    token = TOKENS[number]
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.sampled_from("ABCxyz019-_=+/ \n").filter(lambda letter: letter != token[place]))
    with pytest.raises(InvalidPageToken):
        OPENERS[number](token[:place] + letter + token[place + 1 :])


@given(garbage=st.text(min_size=1, max_size=60))
def test_garbage_is_refused(garbage: str) -> None:
    for opener in OPENERS:
        with pytest.raises(InvalidPageToken):
            opener(garbage)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_cut_lengthened_and_padded_tokens_are_refused(number: int) -> None:
    token = TOKENS[number]
    for wrong in (token[:-1], token[1:], token + "A", token + "=", token + token, token * 100):
        with pytest.raises(InvalidPageToken):
            OPENERS[number](wrong)


def test_tokens_are_safe_in_a_url() -> None:
    for key in range(200):
        token = page_tokens.workflows_token(Filter(), Cursor(key * 7919, key))
        assert token.replace("-", "").replace("_", "").isalnum()
