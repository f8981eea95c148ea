"""The user's frames of a recorded traceback."""

from __future__ import annotations

import traceback

import pytest

from mendflow.tracebacks import Frame, frames_of, place_of, users_frames

TEXT = """Traceback (most recent call last):
  File "/srv/server/mendflow_server/attempts/running_attempt.py", line 212, in _on_loop
    value = await self.request.step.function(*args, **kwargs)
  File "/srv/app/flows.py", line 12, in charge
    return httpx.post(url)
           ^^^^^^^^^^^^^^^
  File "/venv/lib/python3.11/site-packages/httpx/_api.py", line 5, in post
    raise ConnectError(message)
httpx.ConnectError: File "not a frame", line 3, in no
"""


def test_the_users_frames_are_those_outside_of_libraries_and_mendflow() -> None:
    assert users_frames(TEXT) == [Frame("/srv/app/flows.py", 12, "charge")]
    assert place_of(TEXT) == "/srv/app/flows.py:12 in charge"


def test_without_a_frame_of_the_user_all_frames_are_returned() -> None:
    text = TEXT.replace("/srv/app/", "/srv/mendflow_server/")
    assert [frame.line for frame in users_frames(text)] == [212, 12, 5]


@pytest.mark.parametrize("text", ["", "no traceback", "…\n    return 1\n"])
def test_a_text_without_frames_has_no_place(text: str) -> None:
    assert frames_of(text) == []
    assert place_of(text) == ""


def test_the_frames_of_a_group_are_found() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        _raise_group()
    found = frames_of("".join(traceback.format_exception(raised.value)))
    assert [frame.function for frame in found] == [
        "test_the_frames_of_a_group_are_found",
        "_raise_group",
        "_raise_group",
    ]


def _raise_group() -> None:
    try:
        int("inner")
    except ValueError as error:
        raise ExceptionGroup("outer", [error]) from None
