"""A mail campaign: read recipients from a CSV file, write to each through a real SMTP server, report.

Mail servers refuse connections, greylist and reject. None of that is handled
here: `send` raises what smtplib raises, the server's reply code in it says
whether to try again, and the engine does the rest.
"""

from __future__ import annotations

import csv
import smtplib
import string
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mendflow import PermanentError, RetryPolicy, StepFailed, attempt, gather, progress, step, workflow

if TYPE_CHECKING:
    from collections.abc import Sequence

HERE = Path(__file__).resolve().parent

#: A greylisting server accepts the same message a moment later; short waits, for people are looking on.
#: A mail server that stays away is nobody's rejection: the campaign waits for an operator then.
SENDING = RetryPolicy(max_attempts=6, initial_interval=0.2, maximum_interval=2.0, on_exhaustion="pause")


@dataclass
class MailServer:
    """Where the mail goes out."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 2525


@dataclass
class Template:
    """What is written: $name and $city stand for the recipient's."""

    subject: str
    body: str


@dataclass
class Campaign:
    """The input: who gets what, and through which server."""

    template: Template
    sender: str
    #: A CSV file with the columns address, name and city; beside this module unless absolute.
    recipients: str = "recipients.csv"
    smtp: MailServer = field(default_factory=MailServer)
    #: How many messages are under way at once.
    batch_size: Annotated[int, Field(ge=1, le=100)] = 5


@dataclass
class Recipient:
    """A line of the CSV file."""

    address: str
    name: str
    city: str


@dataclass
class Message:
    """What one recipient gets."""

    sender: str
    recipient: str
    subject: str
    body: str


@dataclass
class Delivery:
    """A message that the mail server took."""

    recipient: str
    message_id: str
    attempts: int


@dataclass
class Rejection:
    """A message that it did not take, and why."""

    recipient: str
    why: str
    status_code: str


@dataclass
class CampaignReport:
    """The output: what became of each recipient."""

    sent: list[Delivery]
    rejected: list[Rejection]


def message_id(idempotency_key: str) -> str:
    """Answer the Message-ID for a step's idempotency key: one that does not change from attempt to attempt."""
    return f"<{idempotency_key}@mendflow.example>"


@step
def read_recipients(path: str) -> list[Recipient]:
    """Read the CSV file, once: what it says later does not matter to this campaign."""
    try:
        with (HERE / path).open(encoding="utf-8", newline="") as file:
            return [Recipient(row["address"], row["name"], row["city"]) for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise PermanentError(f"there is no file {error.filename}") from error
    except KeyError as error:
        raise PermanentError(f"{path} has no column {error}") from error


@step
async def render(template: Template, sender: str, recipient: Recipient) -> Message:
    """Fill the template in."""
    values = {"name": recipient.name, "city": recipient.city}
    subject = string.Template(template.subject).safe_substitute(values)
    body = string.Template(template.body).safe_substitute(values)
    return Message(sender, recipient.address, subject, body)


@step(timeout=15, retry=SENDING)
def send(server: MailServer, message: Message) -> Delivery:
    """Hand the message to the mail server.

    A plain ``def``: smtplib blocks, so it runs on a thread. When an attempt is
    cut off nobody knows whether the server took the message, so the next one
    sends it again under the same Message-ID, by which a receiver drops the second.
    """
    mail = EmailMessage()
    mail["Message-ID"] = message_id(attempt().idempotency_key)
    mail["From"] = _address(message.sender)
    mail["To"] = _address(message.recipient)
    mail["Subject"] = message.subject
    mail.set_content(message.body)
    with smtplib.SMTP(server.host, server.port, timeout=10) as connection:
        try:
            connection.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            # There is one recipient: what was said of it reads better than a table of one.
            code, reply = error.recipients[message.recipient]
            raise smtplib.SMTPResponseException(code, reply.decode(errors="replace")) from None
    return Delivery(message.recipient, mail["Message-ID"], attempt().number)


def _address(text: str) -> Address:
    try:
        return Address(addr_spec=text)
    except (ValueError, IndexError, MessageError) as error:  # IndexError: Python's own parser, on an empty address
        raise PermanentError(f"{text!r} is not an address: {error}") from error


@workflow
async def send_campaign(campaign: Campaign) -> CampaignReport:
    """Write to every recipient, a few at a time. One bad address does not stop the rest."""
    recipients = await read_recipients(campaign.recipients)
    report = CampaignReport(sent=[], rejected=[])
    for begin in range(0, len(recipients), campaign.batch_size):
        batch = recipients[begin : begin + campaign.batch_size]
        outcomes: Sequence[Delivery | BaseException] = await gather(
            *(_deliver(campaign, recipient) for recipient in batch), return_exceptions=True
        )
        for recipient, outcome in zip(batch, outcomes, strict=True):
            _note(report, recipient, outcome)
        done = begin + len(batch)
        progress(done, len(recipients), f"{len(report.sent)} sent, {len(report.rejected)} rejected")
    return report


async def _deliver(campaign: Campaign, recipient: Recipient) -> Delivery:
    return await send(campaign.smtp, await render(campaign.template, campaign.sender, recipient))


def _note(report: CampaignReport, recipient: Recipient, outcome: Delivery | BaseException) -> None:
    if isinstance(outcome, Delivery):
        report.sent.append(outcome)
    elif isinstance(outcome, StepFailed):
        failure = outcome.failure
        report.rejected.append(Rejection(recipient.address, failure.message, failure.status_code))
    else:
        raise outcome
