"""A mail server that refuses, delays and rejects mail like real ones.

    python -m examples.smtp_server --address 127.0.0.1:2525 --mailbox mailbox.jsonl

It refuses every sixth connection with 421. It greylists recipients in
careful.example: 451 on the first try, then accepted. Recipients in
rejected.example do not exist: 550. Every accepted message becomes a line of JSON
in the mailbox, also a duplicate; a reader of the mailbox can drop duplicates by
their Message-ID.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import email
import email.policy
import functools
import itertools
import json
import random
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import SMTP

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiosmtpd.smtp import Envelope, Session

GREYLISTED = "careful.example"
REJECTED = "rejected.example"
#: One in this many connections is refused.
TURN_AWAY = 6


class TurnedAway(asyncio.Protocol):
    """A connection that the server refuses."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Reply with 421 and close the connection."""
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(b"421 4.3.2 too busy, try again later\r\n")
        transport.close()


class Mailbox:
    """The handler that aiosmtpd calls for each message.

    ``delay`` is how long it takes to store a message and to confirm it, in
    seconds. A client that crashes in between does not know that the message was
    accepted, and sends it again.
    """

    def __init__(self, path: Path, delay: float) -> None:
        self._path = path
        self._delay = delay
        self._greylist: set[str] = set()

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        """Accept, greylist or reject a recipient."""
        domain = address.rpartition("@")[2]
        if domain == REJECTED:
            return f"550 5.1.1 no mailbox {address} here"
        if domain == GREYLISTED and address not in self._greylist:
            self._greylist.add(address)
            return "451 4.7.1 greylisted, try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - as above
        """Store the message slowly."""
        mail = email.message_from_bytes(envelope.original_content or b"", policy=email.policy.default)
        storing = random.uniform(0.2, 0.8) * self._delay
        await asyncio.sleep(storing)
        line: dict[str, Any] = {
            "message_id": mail["Message-ID"],
            "recipients": envelope.rcpt_tos,
            "subject": str(mail["Subject"]),
            "time": time.time(),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        await asyncio.sleep(self._delay - storing)
        return "250 OK, stored"


@contextlib.asynccontextmanager
async def mail_server(host: str, port: int, mailbox: Mailbox, turn_away: int = TURN_AWAY) -> AsyncIterator[int]:
    """Serve SMTP, and yield the port. With a ``turn_away`` of 0, accept every connection."""
    connections = itertools.count(1)
    loop = asyncio.get_running_loop()

    def accept() -> asyncio.Protocol:
        if turn_away and next(connections) % turn_away == 0:
            return TurnedAway()
        protocol: asyncio.Protocol = SMTP(mailbox, hostname="mail.example", loop=loop)
        return protocol

    server = await loop.create_server(accept, host, port)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def serve(host: str, port: int, mailbox: Mailbox, turn_away: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with mail_server(host, port, mailbox, turn_away) as bound:
        print(f"listening on {host}:{bound}", flush=True)
        await stop.wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m examples.smtp_server", description=__doc__.split("\n\n", 1)[0])
    add = functools.partial(parser.add_argument, metavar="…")
    add("--address", default="127.0.0.1:2525", help="host:port; port 0 selects a free port and prints it")
    add("--mailbox", type=Path, default=Path("mailbox.jsonl"), help="the file to which messages are appended")
    add("--delay", type=float, default=0.2, help="how long a message takes, in seconds")
    add("--turn-away", type=int, default=TURN_AWAY, help="refuse one in this many connections with 421; 0: none")
    options = parser.parse_args()
    host, _, port = options.address.rpartition(":")
    asyncio.run(serve(host, int(port), Mailbox(options.mailbox, options.delay), options.turn_away))


if __name__ == "__main__":
    main()
