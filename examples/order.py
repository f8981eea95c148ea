"""An order, which is reserved, charged and shipped. If a step fails, the completed steps are undone in reverse order.

The ledger is a small SQLite file. Each effect is a row with its step's
idempotency key, so that two attempts of a step have one effect.
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

#: The stock of the warehouse when the ledger is empty.
STOCK = {"lamp": 12, "chair": 8, "desk": 3, "piano": 1}
#: The heaviest parcel that the carrier accepts, in kilograms.
HEAVIEST = 60
#: Undoing must not stop half-way. If it keeps failing, the workflow pauses until an operator resumes it.
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
    """The order of a customer."""

    order_id: str
    items: list[Item]
    #: The SQLite file. A relative path starts at the server's working directory.
    ledger: str = "ledger.db"
    #: A more expensive order waits for the signal approve.
    approval_above_cents: int = 100_000
    #: How long the order waits for the signal, in seconds.
    approval_timeout: Annotated[float, Field(gt=0)] = 24 * 3600.0
    #: How long packing takes, in seconds.
    packing_time: Annotated[float, Field(ge=0)] = 2.0


@dataclass
class Approval:
    """The decision about an expensive order."""

    by: str
    approved: bool = True


@dataclass
class Receipt:
    """The confirmation of a shipped order."""

    order_id: str
    charged_cents: int
    parcels: list[str]


class Declined(Exception):
    """The order was not approved."""


@contextlib.contextmanager
def open_ledger(path: str) -> Iterator[sqlite3.Connection]:
    """Open the ledger for one transaction, which commits at the end of the block."""
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
    """Add an effect to the ledger, unless an earlier attempt of this step added it."""
    ledger.execute(
        "insert into entries (key, kind, reference, subject, amount) values (?, ?, ?, ?, ?)"
        " on conflict (key) do nothing",
        (attempt().idempotency_key, kind, reference, subject, amount),
    )


def balance(ledger: sqlite3.Connection, kinds: tuple[str, str], subject: str, reference: str | None = None) -> int:
    """Return the amount of the first kind minus the amount of the second, for one reference or for all."""
    (amount,) = ledger.execute(
        "select coalesce(sum(case kind when ? then amount when ? then -amount end), 0)"
        " from entries where subject = ? and reference = coalesce(?, reference)",
        (*kinds, subject, reference),
    ).fetchone()
    return int(amount)


def is_entered(ledger: sqlite3.Connection) -> bool:
    """Return True if an earlier attempt of this step had its effect."""
    return bool(ledger.execute("select 1 from entries where key = ?", (attempt().idempotency_key,)).fetchone())


def undo(path: str, kinds: tuple[str, str], reference: str, subject: str) -> None:
    """Undo the effects of a reference that are not undone yet, if there are any."""
    with open_ledger(path) as ledger:
        amount = balance(ledger, kinds, subject, reference)
        if amount:
            enter(ledger, kinds[1], reference, subject, amount)


@step
def reserve(ledger_path: str, reference: str, item: Item) -> None:
    """Reserve the item in the warehouse."""
    with open_ledger(ledger_path) as ledger:
        if is_entered(ledger):
            return
        left = STOCK.get(item.sku, 0) - balance(ledger, ("reserved", "released"), item.sku)
        if left < item.quantity:
            raise PermanentError(f"{item.quantity} of {item.sku} requested, {left} in stock")
        enter(ledger, "reserved", reference, item.sku, item.quantity)


@step(retry=UNDOING)
def release(ledger_path: str, reference: str, sku: str) -> None:
    """Release the reservation."""
    undo(ledger_path, ("reserved", "released"), reference, sku)


@step
def charge(ledger_path: str, reference: str, cents: int) -> None:
    """Charge the customer."""
    with open_ledger(ledger_path) as ledger:
        enter(ledger, "charged", reference, "money", cents)


@step(retry=UNDOING)
def refund(ledger_path: str, reference: str) -> None:
    """Refund the customer."""
    undo(ledger_path, ("charged", "refunded"), reference, "money")


@step
def ship(ledger_path: str, reference: str, item: Item) -> str:
    """Ship the item with the carrier, and return the parcel's number."""
    if item.weight_kg > HEAVIEST:
        raise PermanentError(
            f"{item.sku} weighs {item.weight_kg:g} kg, which exceeds the carrier's limit of {HEAVIEST} kg"
        )
    with open_ledger(ledger_path) as ledger:
        enter(ledger, "shipped", reference, item.sku, item.quantity)
    return f"parcel-{reference}"


@step(retry=UNDOING)
def recall(ledger_path: str, reference: str, sku: str) -> None:
    """Recall the parcel from the carrier."""
    undo(ledger_path, ("shipped", "recalled"), reference, sku)


@workflow(signals={"approve": Approval})
async def place_order(order: Order) -> Receipt:
    """Reserve, charge, pack and ship an order. If a step fails or the order is cancelled, undo the completed steps."""
    undoing: list[Callable[[], Awaitable[None]]] = []
    try:
        return await _fulfil(order, undoing)
    except (Exception, asyncio.CancelledError):
        # Do not catch BaseException: the engine raises some of those to evict a workflow that has not ended.
        for undo_step in reversed(undoing):
            await undo_step()
        raise


async def _fulfil(order: Order, undoing: list[Callable[[], Awaitable[None]]]) -> Receipt:
    """Run the steps. Add each undo step before its step starts, because a failed step may have had its effect."""
    ledger = order.ledger
    for item in order.items:
        reference = f"{order.order_id}-{item.sku}"
        undoing.append(partial(release, ledger, reference, item.sku))
        await reserve(ledger, reference, item)
    total = sum(item.price_cents * item.quantity for item in order.items)
    if total > order.approval_above_cents:
        await _wait_for_approval(order)
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


async def _wait_for_approval(order: Order) -> None:
    try:
        approval = await wait_signal("approve", Approval, timeout=order.approval_timeout)
    except SignalTimeout as error:
        raise Declined(f"the order was not approved within {order.approval_timeout:g} s") from error
    if not approval.approved:
        raise Declined(f"{approval.by} declined the order")


def entries(path: str | Path) -> list[tuple[str, str, int]]:
    """Return the ledger's rows as (kind, subject, amount), oldest first."""
    with open_ledger(str(path)) as ledger:
        return list(ledger.execute("select kind, subject, amount from entries order by number"))
