"""A mail campaign, which reads recipients from a CSV file, sends mail through a real SMTP server, and reports.

Mail servers refuse connections, greylist senders and reject recipients. This
module handles none of that: `send` raises the errors of smtplib, and Mendflow
decides from the reply code whether to retry.
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

#: The intervals are short for the demo. A greylisting server accepts the message on a later attempt. If the mail server
#: stays unavailable, the campaign pauses for an operator, because that is no reason to reject a recipient.
SENDING = RetryPolicy(max_attempts=6, initial_interval=0.2, maximum_interval=2.0, on_exhaustion="pause")


@dataclass
class MailServer:
    """The address of the mail server."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65_535)] = 2525


@dataclass
class Template:
    """The text of the mail. $name and $city are replaced for each recipient."""

    subject: str
    body: str


@dataclass
class Campaign:
    """The recipients, the text and the mail server of a campaign."""

    template: Template
    sender: str
    #: A CSV file with the columns address, name and city. A relative path starts at this module's folder.
    recipients: str = "recipients.csv"
    smtp: MailServer = field(default_factory=MailServer)
    #: The number of messages that are sent concurrently.
    batch_size: Annotated[int, Field(ge=1, le=100)] = 5


@dataclass
class Recipient:
    """A line of the CSV file."""

    address: str
    name: str
    city: str


@dataclass
class Message:
    """The mail to one recipient."""

    sender: str
    recipient: str
    subject: str
    body: str


@dataclass
class Delivery:
    """A message that the mail server accepted."""

    recipient: str
    message_id: str
    attempts: int


@dataclass
class Rejection:
    """A message that the mail server rejected, and the reason."""

    recipient: str
    why: str
    status_code: str


@dataclass
class CampaignReport:
    """The outcome for each recipient."""

    sent: list[Delivery]
    rejected: list[Rejection]


def message_id(idempotency_key: str) -> str:
    """Return the Message-ID for a step's idempotency key. It is the same for every attempt."""
    return f"<{idempotency_key}@mendflow.example>"


@step
def read_recipients(path: str) -> list[Recipient]:
    """Read the CSV file once. Later changes of the file do not affect a started campaign."""
    try:
        with (HERE / path).open(encoding="utf-8", newline="") as file:
            return [Recipient(row["address"], row["name"], row["city"]) for row in csv.DictReader(file)]
    except FileNotFoundError as error:
        raise PermanentError(f"file {error.filename} does not exist") from error
    except KeyError as error:
        raise PermanentError(f"{path} has no column {error}") from error


@step
async def render(template: Template, sender: str, recipient: Recipient) -> Message:
    """Fill in the template for a recipient."""
    values = {"name": recipient.name, "city": recipient.city}
    subject = string.Template(template.subject).safe_substitute(values)
    body = string.Template(template.body).safe_substitute(values)
    return Message(sender, recipient.address, subject, body)


@step(timeout=15, retry=SENDING)
def send(server: MailServer, message: Message) -> Delivery:
    """Send the message through the mail server.

    This is a plain ``def``, which runs on a thread, because smtplib blocks. When
    an attempt is interrupted, the mail server may or may not have accepted the
    message. The next attempt sends it with the same Message-ID, so that a
    receiver can drop the duplicate.
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
            # Report the reply for the only recipient instead of a table with one row.
            code, reply = error.recipients[message.recipient]
            raise smtplib.SMTPResponseException(code, reply.decode(errors="replace")) from None
    return Delivery(message.recipient, message_id(attempt().idempotency_key), attempt().number)


def _address(text: str) -> Address:
    try:
        return Address(addr_spec=text)
    except (ValueError, IndexError, MessageError) as error:  # Python's parser raises IndexError on an empty address
        raise PermanentError(f"{text!r} is not a mail address: {error}") from error


@workflow
async def send_campaign(campaign: Campaign) -> CampaignReport:
    """Send mail to every recipient, a few at a time. A bad address does not stop the campaign."""
    recipients = await read_recipients(campaign.recipients)
    report = CampaignReport(sent=[], rejected=[])
    for begin in range(0, len(recipients), campaign.batch_size):
        batch = recipients[begin : begin + campaign.batch_size]
        outcomes: Sequence[Delivery | BaseException] = await gather(
            *(_deliver(campaign, recipient) for recipient in batch), return_exceptions=True
        )
        for recipient, outcome in zip(batch, outcomes, strict=True):
            _add_outcome(report, recipient, outcome)
        done = begin + len(batch)
        progress(done, len(recipients), f"{len(report.sent)} sent, {len(report.rejected)} rejected")
    return report


async def _deliver(campaign: Campaign, recipient: Recipient) -> Delivery:
    return await send(campaign.smtp, await render(campaign.template, campaign.sender, recipient))


def _add_outcome(report: CampaignReport, recipient: Recipient, outcome: Delivery | BaseException) -> None:
    if isinstance(outcome, Delivery):
        report.sent.append(outcome)
    elif isinstance(outcome, StepFailed):
        failure = outcome.failure
        report.rejected.append(Rejection(recipient.address, failure.message, failure.status_code))
    else:
        raise outcome
