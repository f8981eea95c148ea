"""Every error can be copied and pickled, with its message, its type and its attributes."""

from __future__ import annotations

import copy
import importlib
import pickle
import pkgutil
from typing import TYPE_CHECKING

import pytest

import mendflow
import mendflow_server
from tests.support.error_samples import SAMPLES, USERS, facts

if TYPE_CHECKING:
    from collections.abc import Callable


def defined() -> set[type[BaseException]]:
    """Return every exception class that a module of Mendflow defines."""
    found: set[type[BaseException]] = set()
    for package in (mendflow, mendflow_server):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith(".__main__"):
                continue
            module = importlib.import_module(info.name)
            found |= {
                thing
                for thing in vars(module).values()
                if isinstance(thing, type) and issubclass(thing, BaseException) and thing.__module__ == info.name
            }
    return found


def by_pickle(protocol: int) -> Callable[[BaseException], BaseException]:
    def copied(error: BaseException) -> BaseException:
        result: BaseException = pickle.loads(pickle.dumps(error, protocol))
        return result

    return copied


WAYS: dict[str, Callable[[BaseException], BaseException]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {number}": by_pickle(number) for number in range(pickle.HIGHEST_PROTOCOL + 1)},
}


def test_every_exception_class_has_a_sample() -> None:
    assert {type(error) for error in SAMPLES} == defined()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [*SAMPLES, *USERS], ids=lambda error: type(error).__name__)
def test_an_error_survives_a_copy(error: BaseException, way: str) -> None:
    copied = WAYS[way](error)

    assert copied is not error
    assert facts(copied) == facts(error)
