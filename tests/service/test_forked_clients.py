"""Clients in forked children work where gRPC supports it, and raise otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.servers import ServerProcess

#: Fork three times. Each child reports what happened to its client.
PROGRAM = """
import gc, os, sys
from mendflow import MendflowError, SyncClient
target, how = sys.argv[1:]
kept = SyncClient(target, timeout=5) if how == "made before" else None
if how not in ("never used", "made before"):
    client = SyncClient(target, timeout=5)
    client.run("echo", "parent")
    if how == "kept":
        kept = client
    else:
        client.close()
    del client
    gc.collect()
for number in range(3):
    child = os.fork()
    if child == 0:
        try:
            if kept is not None:
                kept.types()
                print(kept.run("echo", "child"), flush=True)
                kept.close()
            else:
                with SyncClient(target, timeout=5) as client:
                    print(client.run("echo", "child"), flush=True)
        except MendflowError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork, which Windows lacks")
@pytest.mark.parametrize(
    ("how", "says"), [("never used", "child"), ("made before", "child"), ("closed", "child"), ("kept", "was forked")]
)
def test_a_client_in_a_forked_child_works_unless_the_parent_uses_grpc(
    server_process: ServerProcess, how: str, says: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, server_process.grpc_address, how],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done
    assert all(says in line for line in lines), done
    assert not done.stderr
