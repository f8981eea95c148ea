"""Replicas of two builds at once: a workflow is continued by code that fits, and stops only when there is none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mendflow import Client
from mendflow.v1 import workflow_pb2
from tests.support.deploying import events_of, module_of, wait_event
from tests.support.replicas import clients, deployed, logged
from tests.support.servers import until
from tests.support.workflow_states import in_state

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Postgres

pytestmark = pytest.mark.proof

OLD = {"order": "await a()\nawait wait_signal('s')\nawait b()"}
NEW = {"order": "await n()\nawait a()\nawait wait_signal('s')\nawait b()"}


async def kinds_of(client: Client, workflow_id: str) -> list[str]:
    return [event.WhichOneof("detail") or "" for event in await events_of(client, workflow_id)]


async def test_a_workflow_moves_to_the_code_that_fits(tmp_path: Path, postgres: Postgres) -> None:
    sources = [module_of(OLD), module_of(OLD), module_of(NEW)]
    async with deployed(tmp_path, postgres, sources) as servers, clients(servers) as (first, second, third):
        names = [f"o{number}" for number in range(20)]
        for name in names:
            await first.start("order", id=name)
            await wait_event(first, name, "signal_awaited")
        servers[0].kill()
        for name in names:
            await third.handle(name).signal("s")
        for name in names:
            await asyncio.wait_for(third.handle(name).result(), 40)
            assert "workflow_paused" not in await kinds_of(second, name), name
        # The new step does not run in the middle of an old history.
        effects = [line.split()[1] for server in servers for line in server.journal]
        assert "n" not in effects
        assert effects.count("b") == len(names)
        assert logged(servers[2], "workflow_left_to_other_build") or logged(servers[1], "workflow_recovered")


async def test_a_workflow_without_code_that_fits_pauses_until_that_joins(tmp_path: Path, postgres: Postgres) -> None:
    sources = [module_of(OLD), module_of(NEW), module_of(OLD)]
    async with deployed(tmp_path, postgres, sources, start=2) as servers:
        async with Client(servers[0].grpc_address) as first, Client(servers[1].grpc_address) as second:
            await first.start("order", id="o")
            await wait_event(first, "o", "signal_awaited")
            servers[0].kill()
            await second.handle("o").signal("s")
            await in_state(second, "o", workflow_pb2.WORKFLOW_STATE_PAUSED, 20)
            await asyncio.to_thread(servers[2].start)
            async with Client(servers[2].grpc_address) as third:
                await asyncio.wait_for(third.handle("o").result(), 30)
                found = await kinds_of(third, "o")
        assert found.count("workflow_paused") == 1
        assert found.count("workflow_resumed") == 1
        assert [line.split()[1] for server in servers for line in server.journal] == ["a", "b"]


async def test_a_named_build_replaces_the_hash_of_the_files(tmp_path: Path, postgres: Postgres) -> None:
    sources = [module_of(OLD), module_of(OLD), module_of(NEW)]
    async with deployed(tmp_path, postgres, sources) as servers:
        builds = [logged(server, "serving")[0]["build"] for server in servers]
        assert builds[0] == builds[1] != builds[2]
        servers[2].terminate()
        servers[2].environment["MENDFLOW_BUILD"] = "v2"
        await asyncio.to_thread(servers[2].start)
        assert await until(lambda: logged(servers[2], "serving")[-1]["build"] == "v2", 5)
