"""Context variables: each workflow has its own, and each branch of a gather begins with a copy of its owner's."""

from __future__ import annotations

import contextlib
import decimal
import gc
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING

from mendflow import gather, now, step, workflow
from tests.support.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Iterator

TENANT: ContextVar[str] = ContextVar("tenant", default="none")
KEEPSAKE: ContextVar[object] = ContextVar("keepsake")


@step
async def work(name: str) -> str:
    return name


@contextlib.contextmanager
def tenant(name: str) -> Iterator[None]:
    token = TENANT.set(name)
    try:
        yield
    finally:
        TENANT.reset(token)


async def branch(name: str) -> list[str]:
    found = [TENANT.get()]
    with tenant(name):
        await work(name)
        found.append(TENANT.get())
        await work(name)
        found.append(TENANT.get())
    return [*found, TENANT.get()]


def test_a_branch_sees_what_its_owner_set_and_no_other_branchs_values() -> None:
    @workflow
    async def shops() -> list[object]:
        TENANT.set("owner")
        found = await gather(branch("a"), branch("b"))
        return [*found, TENANT.get()]

    live = Simulation(shops).begin()
    for key in ("gather[0]/work", "gather[1]/work", "gather[1]/work#2", "gather[0]/work#2"):
        live.settle(key)
    expected = [["owner", "a", "a", "owner"], ["owner", "b", "b", "owner"], "owner"]
    assert live.run.value == expected
    again = Simulation(shops, events=live.all_events).begin()
    assert again.run.value == expected


def test_a_branch_of_a_branch_begins_with_the_values_of_that_branch() -> None:
    @workflow
    async def nested() -> list[object]:
        async def inner(name: str) -> str:
            before = TENANT.get()
            TENANT.set(name)
            await work(name)
            return f"{before}>{TENANT.get()}"

        async def outer(name: str) -> list[object]:
            TENANT.set(name)
            found = await gather(inner(f"{name}1"), inner(f"{name}2"))
            return [*found, TENANT.get()]

        return [await gather(outer("a"), outer("b")), TENANT.get()]

    live = Simulation(nested).begin()
    for key in list(live.history.open):
        live.settle(key)
    assert live.run.value == [[["a>a1", "a>a2", "a"], ["b>b1", "b>b2", "b"]], "none"]


def test_the_decimal_context_of_one_branch_is_not_that_of_another() -> None:
    @workflow
    async def divides() -> list[str]:
        async def divide(digits: int) -> str:
            with decimal.localcontext(prec=digits):
                await work("wait")
                return str(decimal.Decimal(1) / 3)

        return [*await gather(divide(2), divide(5))]

    live = Simulation(divides).begin()
    for key in ("gather[1]/work", "gather[0]/work"):
        live.settle(key)
    assert live.run.value == ["0.33", "0.33333"]


def test_the_clean_up_of_a_dropped_branch_sees_its_own_values() -> None:
    seen: list[str] = []

    @workflow
    async def held() -> None:
        async def hold(name: str) -> None:
            with tenant(name):
                try:
                    await work(name)
                finally:
                    seen.append(TENANT.get())

        await gather(hold("a"), hold("b"))

    Simulation(held).begin().run.close()
    assert sorted(seen) == ["a", "b"]


def test_workflow_functions_work_in_a_branch_that_has_changed_its_context() -> None:
    @workflow
    async def timed() -> list[float]:
        async def moment() -> float:
            TENANT.set("a")
            return now().timestamp()

        return [*await gather(moment(), moment())]

    assert Simulation(timed).begin().run.value == [1_000.0, 1_000.0]


def test_what_a_branch_set_is_freed_without_the_collector() -> None:
    class Keepsake:
        pass

    kept: list[weakref.ref[Keepsake]] = []

    @workflow
    async def keeps() -> None:
        async def keep(name: str) -> None:
            keepsake = Keepsake()
            kept.append(weakref.ref(keepsake))
            KEEPSAKE.set(keepsake)
            del keepsake
            await work(name)

        await gather(keep("a"), keep("b"))

    gc.collect()
    gc.disable()
    try:
        live = Simulation(keeps).begin()
        assert all(each() is not None for each in kept)
        live.settle("gather[0]/work")
        assert [each() is None for each in kept] == [True, False], "the values of a branch end with it"
        live.run.close()
        assert [each() is None for each in kept] == [True, True]
    finally:
        gc.enable()


def test_the_branches_of_a_gather_that_is_itself_a_branch_have_the_values_of_its_owner() -> None:
    @workflow
    async def directly() -> list[object]:
        async def inner() -> str:
            await work("wait")
            return TENANT.get()

        async def outer() -> list[object]:
            TENANT.set("owner")
            return [*await gather(gather(inner(), inner()), inner())]

        return [*await gather(outer()), TENANT.get()]

    live = Simulation(directly).begin()
    for key in list(live.history.open):
        live.settle(key)
    assert live.run.value == [[["owner", "owner"], "owner"], "none"]
