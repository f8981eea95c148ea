"""Errors come out of other processes as they were raised."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

from tests.support.error_samples import SAMPLES, facts, put_samples, raise_sample


def test_errors_come_out_of_a_process_pool_as_they_were_raised() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        raised = [pool.submit(raise_sample, number).exception(60) for number in range(len(SAMPLES))]

    assert [facts(error) for error in raised] == [facts(error) for error in SAMPLES]


def test_errors_travel_through_a_pipe_of_multiprocessing() -> None:
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=put_samples, args=(sender,))
    process.start()
    sender.close()
    received = receiver.recv()
    process.join()

    assert process.exitcode == 0
    assert [facts(error) for error in received] == [facts(error) for error in SAMPLES]
