"""Ids in time order."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

from mendflow.ids import new_id


def test_each_is_greater_than_the_one_before() -> None:
    ids = [new_id() for _ in range(5_000)]
    assert ids == sorted(set(ids))


def test_it_is_a_uuid_of_version_7_that_contains_the_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(new_id())
    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert before <= made.int >> 80 <= before + 5_000


def test_threads_make_no_two_alike() -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(), range(4_000)))
    assert len(set(ids)) == 4_000
