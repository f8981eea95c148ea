"""The public API as a type checker sees it. The tests never run this file; mypy checks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, assert_type

from mendflow import (
    Client,
    SyncClient,
    SyncWorkflowHandle,
    Workflow,
    WorkflowHandle,
    first_of,
    gather,
    sleep,
    step,
    version,
    wait_signal,
    workflow,
)
from mendflow.errors import RequestError
from mendflow.testing import AsyncHandle, Handle, WorkflowTest
from mendflow.v1 import event_pb2, workflow_pb2


@dataclass
class Order:
    """An input."""

    id: str


@dataclass
class Receipt:
    """An output."""

    total: int


@step
async def charge(order: Order, cents: int = 0) -> Receipt:
    """On the loop."""
    return Receipt(cents)


@step
def render(order: Order) -> str:
    """On a thread."""
    return order.id


@step(timeout=10)
async def ship(order: Order) -> int:
    """With options."""
    return 1


@step(name="pack")
def pack(order: Order) -> bytes:
    """With options, on a thread."""
    return b""


@workflow
async def checkout(order: Order) -> Receipt:
    """Await everything that can be awaited."""
    assert_type(await charge(order, cents=3), Receipt)
    assert_type(await render(order), str)
    assert_type(await ship(order), int)
    assert_type(await pack(order), bytes)
    assert_type(await charge.with_options(key="again", inserted=True)(order), Receipt)
    assert_type(await wait_signal("ok", str, timeout=5, key="second", inserted=True), str)
    assert_type(await gather(ship(order), ship(order), key="both"), tuple[int, int])
    assert_type(version("two-step-payment"), bool)
    await sleep(5, key="cooldown", inserted=True)
    assert_type(await gather(charge(order), render(order)), tuple[Receipt, str])
    assert_type(await gather(charge(order), render(order), ship(order)), tuple[Receipt, str, int])
    assert_type(await gather(*(ship(order) for _ in range(3))), list[int])
    assert_type(await wait_signal("go", str), str)
    assert_type(await wait_signal("go"), Any)
    # A type checker cannot infer the type of a union or an alias, so the variable says it.
    answer: str | int = await wait_signal("go", str | int, timeout=3)
    maybe: Order | None = await wait_signal("go", Order | None)
    assert_type((answer, maybe), tuple[str | int, Order | None])
    assert_type(await first_of(wait_signal("go", str), sleep(1)), tuple[int, str | None])
    assert_type(await first_of(*[ship(order)]), tuple[int, int])
    assert_type(await gather(*map(ship, [order]), limit=2), list[int])
    orders = [order, order]
    assert_type(await gather(*map(ship, orders), return_exceptions=True), list[int | BaseException])
    assert_type(
        await gather(charge(order), render(order), return_exceptions=True),
        tuple[Receipt | BaseException, str | BaseException],
    )
    assert_type(
        await gather(charge(order), sleep(1), ship(order), wait_signal("go", str), paid(order)),
        tuple[Receipt, None, int, str, bool],
    )
    assert_type(await gather(ship(order), ship(order), ship(order), ship(order), ship(order), ship(order)), list[int])
    await sleep(hours=1)
    return await charge(order)


async def paid(order: Order) -> bool:
    """Be a branch of a gather."""
    return await ship(order) > 0


@workflow(name="nightly", on_error="pause")
async def nightly() -> None:
    """Take no input, return no output."""


assert_type(checkout, Workflow[Order, Receipt])
assert_type(nightly, Workflow[None, None])


async def call(client: Client) -> None:
    """Make every call of a client."""
    assert_type(await client.run(checkout, Order("o"), id="o", timeout=3), Receipt)
    assert_type(await client.run(nightly), None)
    assert_type(await client.run("checkout", {"id": "o"}), Any)
    handle = await client.start(checkout, Order("o"), labels={"team": "a"})
    assert_type(handle, WorkflowHandle[Receipt])
    assert_type(await handle.result(), Receipt)
    assert_type(await client.start("checkout"), WorkflowHandle[Any])
    assert_type(await client.start_many(checkout, [Order("o")]), list[WorkflowHandle[Receipt] | RequestError])
    assert_type(await client.handle("o", result_type=Receipt).result(), Receipt)
    assert_type(await client.handle("o", result_type=list[int]).result(), list[int])
    assert_type(client.handle("o"), WorkflowHandle[Any])
    async for event in handle.watch():
        assert_type(event, event_pb2.Event)
    async for row in client.list():
        assert_type(row, workflow_pb2.Workflow)
    assert_type(await handle.signal("go", 1), bool)
    assert_type(await handle.signal("go", 1, allow_undeclared=True), bool)
    assert_type(await handle.cancel(), workflow_pb2.Workflow)


def call_synchronously(client: SyncClient) -> None:
    """Make every call of a synchronous client."""
    assert_type(client.run(checkout, Order("o"), id="o", timeout=3), Receipt)
    assert_type(client.run(nightly), None)
    assert_type(client.run("checkout", {"id": "o"}), Any)
    handle = client.start(checkout, Order("o"), labels={"team": "a"})
    assert_type(handle, SyncWorkflowHandle[Receipt])
    assert_type(handle.result(timeout=3), Receipt)
    assert_type(client.start_many(checkout, [Order("o")]), list[SyncWorkflowHandle[Receipt] | RequestError])
    assert_type(client.handle("o", result_type=checkout).result(), Receipt)
    for event in handle.watch():
        assert_type(event, event_pb2.Event)
    for row in client.list():
        assert_type(row, workflow_pb2.Workflow)


async def kit() -> None:
    """Make the calls of a test."""
    with WorkflowTest(checkout, nightly) as env:
        run = env.start(checkout, Order("o"), id="o")
        assert_type(run, Handle[Receipt])
        assert_type(run.result(), Receipt)
        assert_type(env.run(nightly), None)
        env.fake(charge, [OSError("bank"), Receipt(3)])
        assert run.history.attempts(charge) == 2
        env.run(checkout, "o-1")  # type: ignore[misc]
    async with WorkflowTest(checkout) as test:
        handle = await test.start(checkout, Order("o"))
        assert_type(handle, AsyncHandle[Receipt])
        assert_type(await handle.result(), Receipt)


async def refused(client: Client, blocking: SyncClient, order: Order) -> None:
    """Calls that must not pass. An ignore that is not needed is an error too."""
    await client.start(checkout)  # type: ignore[arg-type]
    await client.run(checkout)  # type: ignore[arg-type]
    await client.start(nightly, order)  # type: ignore[misc]
    blocking.start(checkout)  # type: ignore[arg-type]
    blocking.run(checkout, "o-1")  # type: ignore[misc]
    charge.retires = 3  # type: ignore[attr-defined]
    workflow(on_error="stop")  # type: ignore[call-overload]
    await client.start(checkout, "o-1")  # type: ignore[misc]
    await client.run(checkout, 17)  # type: ignore[misc]
    await client.start_many(checkout, ["o-1"])  # type: ignore[misc]
    charge("o-1")  # type: ignore[arg-type]
    charge(order, pounds=3)  # type: ignore[call-arg]
    render()  # type: ignore[call-arg]
