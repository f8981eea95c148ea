"""A watch from each language over a network that disconnects and stalls sees every event once, in order."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from tests.clients.programs import Program
    from tests.support.servers import ServerProcess

pytestmark = pytest.mark.proof

ITEMS = [{"sku": sku, "price_cents": 1, "weight_kg": 1} for sku in ["lamp"] * 12 + ["chair"] * 8 + ["desk"] * 3]
#: Half of its events come before the approval, and half after the packing.
ORDER = {"order_id": "o", "items": ITEMS, "approval_above_cents": 0, "packing_time": 2.0}


#: How often the network fails before it works.
TROUBLES = 10


@pytest.mark.timeout(120)
async def test_a_watch_over_a_bad_network_sees_every_event_once(program: Program, order_server: ServerProcess) -> None:
    async with Proxy(order_server.grpc_port) as proxy, Client(order_server.grpc_address) as client:
        await client.start("place_order", ORDER, id="o")
        running = await asyncio.create_subprocess_exec(
            *program.command("watch", f"127.0.0.1:{proxy.port}", "o"),
            env=program.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            await _fail(proxy, client, Random(program.language))
            said, complaints = await asyncio.wait_for(running.communicate(), 60)
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
        events = [event async for event in client.handle("o").events()]
    expected = [f"watch: {event.sequence} {event.WhichOneof('detail')}" for event in events]
    assert (said.decode().splitlines(), running.returncode) == (expected, 0), complaints.decode()
    assert len(events) > 2 * len(ITEMS)
    assert proxy.connections > TROUBLES / 2


async def _fail(proxy: Proxy, client: Client, rng: Random) -> None:
    """Disconnect after each transfer, sometimes after a silence. The approval arrives between the disconnects."""
    for trouble in range(TROUBLES):
        before = proxy.bytes_to_client
        while proxy.bytes_to_client == before:
            await asyncio.sleep(0.001)
        if trouble == TROUBLES // 3:
            await client.signal("o", "approve", {"by": "ann"})
        await asyncio.sleep(rng.choice((0.0, 0.0, 0.01, 0.1)))
        if rng.random() < 0.3:
            proxy.stall()
            await asyncio.sleep(rng.uniform(0, 0.2))
            proxy.flow()
        proxy.cut()
