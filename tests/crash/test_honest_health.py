"""Honest health: a real server in trouble says NOT_SERVING while work does not move, and SERVING when it moves.

One life has the troubles one after the other: a step that blocks the loop, a process that is stopped, a supervisor that
does not tick, a store that does not commit, a drain. The limits are low, so that each is soon over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mendflow import Client
from tests.support import killing
from tests.support.forking import PROCESSES
from tests.support.health_faults import NO_COMMIT, NO_TICK
from tests.support.promises import (
    Answer,
    Evidence,
    Health,
    Promise,
    Reply,
    Trouble,
    Watched,
    broken,
    read_effects,
    read_store,
)
from tests.support.servers import free_port, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

#: The server's limits, in seconds.
LIMITS = {"loop_lag_limit": 0.3, "commit_age_limit": 0.4, "probe_interval": 0.2, "liveness_limit": 0.6}
#: How long it may take to notice a trouble and its end: it looks twice in a second, and twice to be sure.
NOTICES, RECOVERS = 1.0, 3.0
#: How long a trouble that the server cannot end lasts beyond its limit and the time to notice it, in seconds.
BEYOND = 0.3


@dataclass
class Patient:
    """A server, its health answers, and its troubles."""

    directory: Path
    process: Any
    grpc_port: int
    http_port: int
    answers: list[Answer] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    def said_no_since(self, moment: float) -> bool:
        """Return whether the server has said NOT_SERVING since then."""
        return any(not answer.serving and answer.received > moment for answer in self.answers)

    def is_well(self) -> bool:
        """Return whether the newest answers are SERVING."""
        return len(self.answers) > 1 and all(answer.serving for answer in self.answers[-4:])

    async def ask_grpc(self) -> None:
        """Request the health over gRPC without end."""
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            while True:
                asked = time.time()
                with contextlib.suppress(grpc.aio.AioRpcError):
                    reply = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
                    serving = reply.status == health_pb2.HealthCheckResponse.SERVING
                    self.answers.append(Answer(asked, time.time(), serving))
                await asyncio.sleep(0.03)

    async def ask_http(self) -> None:
        """Request the health over HTTP without end."""
        while True:
            asked = time.time()
            status, body = await asyncio.to_thread(_get, f"http://127.0.0.1:{self.http_port}/health")
            if status:
                self.answers.append(Answer(asked, time.time(), status == 200, tuple(body["reasons"])))
            await asyncio.sleep(0.03)

    async def suffer(self, what: str, limit: float, begin: Callable[[], Any], end: Callable[[], Any]) -> None:
        """Make trouble until the server has noticed it or should have. Then wait until it is well, or should be."""
        began = time.time()
        begin()
        latest = began + limit + NOTICES + BEYOND
        await until(lambda: self.said_no_since(began) or time.time() > latest, 30)
        ended = time.time()
        end()
        self.troubles.append(Trouble(what, began, ended, limit))
        await self.recover(began, ended)

    async def recover(self, began: float, ended: float) -> None:
        """Wait until the server is well after a trouble, if it noticed the trouble, or until it should be."""
        await until(lambda: self.said_no_since(began) or time.time() > ended + NOTICES)
        if self.said_no_since(began):
            await until(lambda: self.is_well() and self.answers[-1].asked > ended, RECOVERS)


def _get(url: str) -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())
    except OSError:
        return 0, {}


@contextlib.asynccontextmanager
async def attended(directory: Path, *faults: str) -> AsyncIterator[Patient]:
    """Serve in a process of its own, and request its health from the first SERVING on."""
    port, http_port = free_port(), free_port()
    post = killing.Post(directory, port, 1)
    options = LIMITS | {"http_address": f"127.0.0.1:{http_port}"}
    process: Any = PROCESSES.Process(target=killing.serve, args=(post, None, faults), kwargs=options, daemon=True)
    process.start()
    patient = Patient(directory, process, port, http_port)
    asking = []
    try:
        while _get(f"http://127.0.0.1:{http_port}/health")[0] != 200:
            await asyncio.sleep(0.02)
        asking = [asyncio.create_task(patient.ask_grpc()), asyncio.create_task(patient.ask_http())]
        yield patient
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        process.kill()
        process.join()
        process.close()


async def block_loop(patient: Patient, client: Client) -> None:
    """Keep the loop busy with a step."""
    limit = LIMITS["loop_lag_limit"]
    handle = await client.start("blocks", limit + NOTICES + BEYOND)
    begin, end = await handle.result(timeout=20)
    patient.troubles.append(Trouble("a step blocks the loop", begin, end, limit))
    await patient.recover(begin, end)


async def stop_process(patient: Patient) -> None:
    """Stop the process and continue it, as a suspended machine does."""
    limit = LIMITS["loop_lag_limit"]
    began = time.time()
    os.kill(patient.process.pid, signal.SIGSTOP)
    await until(lambda: time.time() > began + limit + NOTICES + BEYOND, 30)
    ended = time.time()
    os.kill(patient.process.pid, signal.SIGCONT)
    patient.troubles.append(Trouble("the process is stopped", began, ended, limit))
    await patient.recover(began, ended)


async def all_troubles(patient: Patient, client: Client) -> None:
    """Make the troubles one after the other. The last one ends the server."""
    await block_loop(patient, client)
    await stop_process(patient)
    no_tick, no_commit = patient.directory / NO_TICK, patient.directory / NO_COMMIT
    await patient.suffer("no tick", LIMITS["liveness_limit"], no_tick.touch, no_tick.unlink)
    limit = LIMITS["commit_age_limit"] + LIMITS["probe_interval"]
    await patient.suffer("no commit", limit, no_commit.touch, no_commit.unlink)
    await client.start("holds", 60.0)  # Its attempt keeps the drain busy for a moment.
    began = time.time()
    patient.process.terminate()
    await asyncio.to_thread(patient.process.join, 20)
    patient.troubles.append(Trouble("a drain", began, time.time(), 0.0))


def judged(patient: Patient, *, over: bool = False) -> set[str]:
    """Return the broken promises, and what broke them."""
    health = Health(patient.answers, patient.troubles, notices=NOTICES, recovers=RECOVERS)
    stored = read_store(patient.directory / "mendflow.db")
    effects = read_effects(killing.Post(patient.directory, 0, 1).journal)
    return {str(breach) for breach in broken(Evidence(stored, effects, health=[health], over=over))}


@pytest.mark.proof
async def test_health_reports_each_trouble_and_its_end(tmp_path: Path) -> None:
    async with attended(tmp_path, "troubled") as patient, Client(f"127.0.0.1:{patient.grpc_port}") as client:
        await all_troubles(patient, client)
    assert not judged(patient)
    reasons = " ".join(reason for answer in patient.answers for reason in answer.reasons or ())
    for each in (
        "the event loop was",
        "the supervisor has not ticked",
        "the store has not committed",
        "the server is shutting down",
    ):
        assert each in reasons


@pytest.mark.proof
async def test_health_that_always_says_serving_is_reported_for_each_trouble(tmp_path: Path) -> None:
    async with (
        attended(tmp_path, "troubled", "always_serving") as patient,
        Client(f"127.0.0.1:{patient.grpc_port}") as client,
    ):
        await all_troubles(patient, client)
    found = judged(patient)
    assert all(Promise.HONEST_HEALTH in each for each in found)
    for trouble in patient.troubles:
        assert any(trouble.what in each for each in found), (trouble, found)


@pytest.mark.proof
async def test_health_that_never_says_serving_again_is_reported(tmp_path: Path) -> None:
    async with (
        attended(tmp_path, "never_serving_again") as patient,
        Client(f"127.0.0.1:{patient.grpc_port}") as client,
    ):
        await block_loop(patient, client)
        ended = patient.troubles[0].end
        await until(lambda: patient.answers[-1].asked > ended + RECOVERS, 30)
    found = judged(patient)
    assert found
    assert all(Promise.HONEST_HEALTH in each for each in found)


async def test_work_in_progress_continues_after_a_stop_of_the_process(tmp_path: Path) -> None:
    """Clients see calls that wait, a watch that continues with every event once, and a health that reports the stop."""
    watched = Watched("subject")

    async def watch(client: Client) -> None:
        async for event in client.handle("subject").watch():
            watched.events.append(event)
        watched.ended = True

    async with attended(tmp_path) as patient, Client(f"127.0.0.1:{patient.grpc_port}") as client:
        await client.start("everything", "w", id="subject")
        watching = asyncio.create_task(watch(client))
        assert await until(lambda: any(event.HasField("signal_awaited") for event in watched.events))
        signalling = asyncio.create_task(client.signal("subject", "go", "on", request_id="go-1"))
        await stop_process(patient)
        await signalling
        ended = await client.get("subject", wait=20)
        await watching
    replies = [Reply("signalled", "subject", "go-1"), Reply("result", "subject", ended)]
    stored = read_store(tmp_path / "mendflow.db")
    health = Health(patient.answers, patient.troubles, notices=NOTICES, recovers=RECOVERS)
    effects = read_effects(killing.Post(tmp_path, 0, 1).journal)
    assert not broken(Evidence(stored, effects, replies, [watched], health=[health]))
