"""An order: reserve, charge, ship; and when one of these fails for good, undo the others in the reverse order.

The ledger is a small SQLite file in which every effect is a line under its
step's idempotency key, so that an attempt made twice has its effect once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mendflow import (
    PermanentError,
    RetryPolicy,
    SignalTimeout,
    attempt,
    progress,
    sleep,
    step,
    wait_signal,
    workflow,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

#: What lies in the warehouse when the ledger begins.
STOCK = {"lamp": 12, "chair": 8, "desk": 3, "piano": 1}
#: The heaviest parcel that the carrier takes, in kilograms.
HEAVIEST = 60
#: Undoing must not be given up: when it keeps failing, an operator looks at it and resumes the workflow.
UNDOING = RetryPolicy(initial_interval=0.2, on_exhaustion="pause")


@dataclass
class Item:
    """A line of an order."""

    sku: str
    price_cents: Annotated[int, Field(ge=0)]
    weight_kg: float
    quantity: Annotated[int, Field(ge=1)] = 1


@dataclass
class Order:
    """The input."""

    order_id: str
    items: list[Item]
    #: The SQLite file; relative to where the server was started.
    ledger: str = "ledger.db"
    #: What costs more waits for the signal approve.
    approval_above_cents: int = 100_000
    #: How long it waits, in seconds.
    approval_timeout: Annotated[float, Field(gt=0)] = 24 * 3600.0
    #: How long packing takes, in seconds.
    packing_time: Annotated[float, Field(ge=0)] = 2.0


@dataclass
class Approval:
    """The data of the signal approve."""

    by: str
    approved: bool = True


@dataclass
class Receipt:
    """The output."""

    order_id: str
    charged_cents: int
    parcels: list[str]


class Declined(Exception):
    """Nobody approved the order."""


@contextlib.contextmanager
def open_ledger(path: str) -> Iterator[sqlite3.Connection]:
    """Open the ledger for one transaction, which ends with the block."""
    with contextlib.closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as ledger:
        ledger.execute("begin immediate")
        ledger.execute(
            "create table if not exists entries ("
            "number integer primary key, key text unique not null, kind text not null, reference text not null,"
            " subject text not null, amount integer not null)"
        )
        try:
            yield ledger
        except BaseException:
            ledger.execute("rollback")
            raise
        ledger.execute("commit")


def enter(ledger: sqlite3.Connection, kind: str, reference: str, subject: str, amount: int) -> None:
    """Write an effect down, unless this step has done so in an earlier attempt."""
    ledger.execute(
        "insert into entries (key, kind, reference, subject, amount) values (?, ?, ?, ?, ?)"
        " on conflict (key) do nothing",
        (attempt().idempotency_key, kind, reference, subject, amount),
    )


def balance(ledger: sqlite3.Connection, kinds: tuple[str, str], subject: str, reference: str | None = None) -> int:
    """Answer how much of the first kind the second has not undone: under one reference, or under all."""
    (amount,) = ledger.execute(
        "select coalesce(sum(case kind when ? then amount when ? then -amount end), 0)"
        " from entries where subject = ? and reference = coalesce(?, reference)",
        (*kinds, subject, reference),
    ).fetchone()
    return int(amount)


def is_entered(ledger: sqlite3.Connection) -> bool:
    """Tell whether an earlier attempt of this step had its effect."""
    return bool(ledger.execute("select 1 from entries where key = ?", (attempt().idempotency_key,)).fetchone())


def undo(path: str, kinds: tuple[str, str], reference: str, subject: str) -> None:
    """Write down the opposite of what is still open under the reference, if anything is."""
    with open_ledger(path) as ledger:
        amount = balance(ledger, kinds, subject, reference)
        if amount:
            enter(ledger, kinds[1], reference, subject, amount)


@step
def reserve(ledger_path: str, reference: str, item: Item) -> None:
    """Set the item aside."""
    with open_ledger(ledger_path) as ledger:
        if is_entered(ledger):
            return
        left = STOCK.get(item.sku, 0) - balance(ledger, ("reserved", "released"), item.sku)
        if left < item.quantity:
            raise PermanentError(f"{item.quantity} of {item.sku} wanted, {left} left")
        enter(ledger, "reserved", reference, item.sku, item.quantity)


@step(retry=UNDOING)
def release(ledger_path: str, reference: str, sku: str) -> None:
    """Put it back."""
    undo(ledger_path, ("reserved", "released"), reference, sku)


@step
def charge(ledger_path: str, reference: str, cents: int) -> None:
    """Take the money."""
    with open_ledger(ledger_path) as ledger:
        enter(ledger, "charged", reference, "money", cents)


@step(retry=UNDOING)
def refund(ledger_path: str, reference: str) -> None:
    """Give it back."""
    undo(ledger_path, ("charged", "refunded"), reference, "money")


@step
def ship(ledger_path: str, reference: str, item: Item) -> str:
    """Hand the item to the carrier, and answer the parcel's number."""
    if item.weight_kg > HEAVIEST:
        raise PermanentError(f"{item.sku} weighs {item.weight_kg:g} kg; the carrier takes {HEAVIEST} kg")
    with open_ledger(ledger_path) as ledger:
        enter(ledger, "shipped", reference, item.sku, item.quantity)
    return f"parcel-{reference}"


@step(retry=UNDOING)
def recall(ledger_path: str, reference: str, sku: str) -> None:
    """Have the carrier bring it back."""
    undo(ledger_path, ("shipped", "recalled"), reference, sku)


@workflow(signals={"approve": Approval})
async def place_order(order: Order) -> Receipt:
    """Reserve, charge, pack, ship. If anything fails, times out or is cancelled, what was done is undone."""
    undoing: list[Callable[[], Awaitable[None]]] = []
    try:
        return await _fulfil(order, undoing)
    except (Exception, asyncio.CancelledError):
        # Not BaseException: by some of these the engine itself takes a workflow out of memory, which is no end.
        for step_back in reversed(undoing):
            await step_back()
        raise


async def _fulfil(order: Order, undoing: list[Callable[[], Awaitable[None]]]) -> Receipt:
    """Do it. How to undo a step is noted before it begins: one that failed may still have had its effect."""
    ledger = order.ledger
    for item in order.items:
        reference = f"{order.order_id}-{item.sku}"
        undoing.append(partial(release, ledger, reference, item.sku))
        await reserve(ledger, reference, item)
    total = sum(item.price_cents * item.quantity for item in order.items)
    if total > order.approval_above_cents:
        await _approved(order)
    undoing.append(partial(refund, ledger, order.order_id))
    await charge(ledger, order.order_id, total)
    await sleep(order.packing_time)
    parcels = []
    for number, item in enumerate(order.items, start=1):
        reference = f"{order.order_id}-{item.sku}"
        undoing.append(partial(recall, ledger, reference, item.sku))
        parcels.append(await ship(ledger, reference, item))
        progress(number, len(order.items), f"{item.sku} shipped")
    return Receipt(order.order_id, total, parcels)


async def _approved(order: Order) -> None:
    try:
        approval = await wait_signal("approve", Approval, timeout=order.approval_timeout)
    except SignalTimeout as error:
        raise Declined(f"nobody approved it in {order.approval_timeout:g} s") from error
    if not approval.approved:
        raise Declined(f"{approval.by} declined it")


def entries(path: str | Path) -> list[tuple[str, str, int]]:
    """Answer the ledger's lines as kind, subject and amount, in the order in which they were written."""
    with open_ledger(str(path)) as ledger:
        return list(ledger.execute("select kind, subject, amount from entries order by number"))
