"""Processes that do not import what they run: each process is a fork of one that has.

That process has one thread and has made no gRPC object.
"""

from __future__ import annotations

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["__main__", "tests.support.killing", "mendflow.cli", "mendflow_server.cli.serve", "mendflow_server.cli.verify"]
)
