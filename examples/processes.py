"""The processes of the demos: a mail server and `mendflow serve`."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
#: How long the mail server takes for a message, in seconds. The demos kill and stop servers in the middle of it.
DELAY = 0.8


class DemoFailed(Exception):
    """The demo could not be completed."""


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def stop(process: subprocess.Popen[Any], seconds: float = 10.0) -> None:
    """Stop a process that this one started, with SIGTERM and then with SIGKILL."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def spawn(arguments: Sequence[str], log: Path, variables: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a module in this environment, in a new session so that Ctrl-C does not reach it."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(variables or {})}
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603 - a module of this repository
            [sys.executable, "-m", *arguments],
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextlib.contextmanager
def mail_server(directory: Path) -> Iterator[int]:
    """Run the mail server, and yield its port."""
    log = directory / "smtp.log"
    mailbox = directory / "mailbox.jsonl"
    arguments = ["--address", "127.0.0.1:0", "--mailbox", str(mailbox), "--delay", str(DELAY)]
    process = spawn(["examples.smtp_server", *arguments], log)
    try:
        limit = time.monotonic() + 20
        while not (text := log.read_text(encoding="utf-8")).endswith("\n"):
            if process.poll() is not None or time.monotonic() > limit:
                raise DemoFailed(f"the mail server did not start; see {log}")
            time.sleep(0.02)
        yield int(text.splitlines()[0].rpartition(":")[2])
    finally:
        stop(process)


def read_mailbox(directory: Path) -> list[dict[str, Any]]:
    """Return the messages that the mail server accepted."""
    lines = (directory / "mailbox.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_recipients() -> list[dict[str, str]]:
    """Return the rows of recipients.csv."""
    return list(csv.DictReader((HERE / "recipients.csv").read_text(encoding="utf-8").splitlines()))


def read_campaign(smtp_port: int) -> dict[str, Any]:
    """Return the input of a campaign that sends mail through the mail server."""
    campaign: dict[str, Any] = json.loads((HERE / "campaign.json").read_text(encoding="utf-8"))
    return {**campaign, "smtp": {"host": "127.0.0.1", "port": smtp_port}}


@dataclass
class Server:
    """`mendflow serve`, which keeps its addresses and its store after a restart."""

    directory: Path
    #: The URL of the store; empty for a file in the directory.
    store: str = ""
    #: The log file's name, without its suffix.
    name: str = "server"
    grpc_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    http_address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id, or 0 before the first start."""
        return self.process.pid if self.process else 0

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self.directory / f"{self.name}.log"

    def command(self) -> list[str]:
        """Return the arguments of `mendflow`. A URL may have a password, so it is not among them."""
        modules = ["examples.campaign", "examples.order"]
        store = [] if self.store else ["--store", f"sqlite:///{self.directory / 'demo.db'}"]
        addresses = ["--grpc-address", self.grpc_address, "--http-address", self.http_address]
        return ["serve", *modules, *store, *addresses]

    async def start(self) -> None:
        """Start the server and wait until /health reports that it is ready."""
        variables = {"MENDFLOW_STORE": self.store} if self.store else {}
        self.process = spawn(["mendflow.cli", *self.command()], self.log, variables)
        limit = time.monotonic() + 30
        while not await asyncio.to_thread(self._is_ready):
            if self.process.poll() is not None or time.monotonic() > limit:
                raise DemoFailed(f"the server did not start; see {self.log}")
            await asyncio.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http_address}/health", timeout=2) as reply:
                return bool(reply.status == 200)  # noqa: PLR2004 - HTTP 200 OK
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the server with SIGKILL, without a chance to shut down."""
        if self.process is not None:
            os.kill(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        """Shut the server down, also one that is interrupted by SIGSTOP."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            stop(self.process)
