"""Workflows that log: with `logging`, with structlog, on the loop, on a thread, and in their own code."""

from __future__ import annotations

import logging

import structlog

from mendflow import RetryPolicy, TransientError, attempt, step, wait_signal, workflow, workflow_info

log = logging.getLogger(__name__)
structured = structlog.get_logger()
AT_ONCE = RetryPolicy(initial_interval=0.01, maximum_interval=0.01)


@step(retry=AT_ONCE)
async def on_the_loop(number: int) -> int:
    """Log, and fail once."""
    log.info("on the loop %d", number)
    structured.info("structured", amount=number)
    log.debug("too detailed")
    if attempt().number == 1:
        raise TransientError("once")
    return number


@step
def on_a_thread(number: int) -> int:
    """Log on a thread."""
    log.warning("on a thread", extra={"ignored": number})
    return number


@workflow
async def logs(number: int) -> str:
    """Log before and after each step, and after a signal."""
    log.info("began")
    await on_the_loop(number)
    structured.info("between")
    await on_a_thread(number)
    log.info("waits")
    await wait_signal("go", str)
    log.info("went")
    info = workflow_info()
    return f"{info.workflow_id} {info.workflow_type} {info.labels['team']} {info.start_time.isoformat()}"
