"""The examples' steps as plain functions, without a Mendflow server, against the real mail server and ledger."""

from __future__ import annotations

import contextlib
import json
import smtplib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from examples import campaign, order
from examples.audit import Finding, audit
from mendflow import PermanentError
from mendflow.authoring.context import ATTEMPT, Attempt
from mendflow.v1 import event_pb2, failure_pb2
from tests.support.files import whole_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mailbox(tmp_path: Path) -> Path:
    return tmp_path / "mailbox.jsonl"


@contextlib.contextmanager
def mail_server(mailbox: Path, *options: str) -> Iterator[campaign.MailServer]:
    command = [sys.executable, "-m", "examples.smtp_server", "--address", "127.0.0.1:0", "--mailbox", str(mailbox)]
    command += ["--delay", "0", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            yield campaign.MailServer("127.0.0.1", int(line.rpartition(":")[2]))
        finally:
            process.terminate()
    assert process.returncode == 0


@pytest.fixture
def smtp(mailbox: Path) -> Iterator[campaign.MailServer]:
    with mail_server(mailbox, "--turn-away", "0") as server:
        yield server


@contextlib.contextmanager
def an_attempt(key: str, number: int = 1) -> Iterator[None]:
    token = ATTEMPT.set(Attempt(number=number, idempotency_key=key))
    try:
        yield
    finally:
        ATTEMPT.reset(token)


def call(step: Any, *args: Any) -> Any:
    """Call a `def` step. Outside a workflow it returns its result directly, whatever its type says."""
    return step(*args)


def to(recipient: str) -> campaign.Message:
    return campaign.Message("cafe@mendflow.example", recipient, "Grüße aus Köln", "Hello\n.\nand good-bye ✂\n")


def filed(mailbox: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in whole_lines(mailbox)]


def test_the_recipients_are_those_of_the_file() -> None:
    recipients = call(campaign.read_recipients, "recipients.csv")
    assert len(recipients) == len({recipient.address for recipient in recipients}) == 25
    assert campaign.Recipient("konrad@zuse.example", "Konrad Zuse", "Berlin") in recipients


@pytest.mark.parametrize(("name", "said"), [("missing.csv", "does not exist"), ("bad.csv", "has no column 'name'")])
def test_a_file_that_cannot_be_read_is_not_retried(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "bad.csv").write_text("address,city\na@b.example,Köln\n", encoding="utf-8")
    with pytest.raises(PermanentError, match=said):
        call(campaign.read_recipients, str(tmp_path / name))


async def test_a_template_may_contain_a_dollar_sign() -> None:
    template = campaign.Template("$name from $city", "It costs 5 $ or $price, $name")
    recipient = campaign.Recipient("ada@lovelace.example", "Ada", "London")
    message = await campaign.render(template, "cafe@mendflow.example", recipient)
    assert (message.subject, message.body) == ("Ada from London", "It costs 5 $ or $price, Ada")


def test_two_attempts_send_under_one_message_id(smtp: campaign.MailServer, mailbox: Path) -> None:
    deliveries = []
    for number in (1, 2):
        with an_attempt("k1", number):
            deliveries.append(call(campaign.send, smtp, to("ada@lovelace.example")))
    assert [delivery.attempts for delivery in deliveries] == [1, 2]
    assert [line["message_id"] for line in filed(mailbox)] == ["<k1@mendflow.example>"] * 2
    assert filed(mailbox)[0]["recipients"] == ["ada@lovelace.example"]
    assert filed(mailbox)[0]["subject"] == "Grüße aus Köln"


def test_a_greylisted_recipient_gets_it_at_the_second_try(smtp: campaign.MailServer, mailbox: Path) -> None:
    with pytest.raises(smtplib.SMTPResponseException, match="451"):
        call(campaign.send, smtp, to("grace@careful.example"))
    assert filed(mailbox) == []
    call(campaign.send, smtp, to("grace@careful.example"))
    assert len(filed(mailbox)) == 1


def test_a_rejected_recipient_stays_rejected(smtp: campaign.MailServer, mailbox: Path) -> None:
    for _ in range(2):
        with pytest.raises(smtplib.SMTPResponseException, match="550"):
            call(campaign.send, smtp, to("unknown@rejected.example"))
    assert filed(mailbox) == []


def test_a_mail_server_with_that_setting_refuses_every_second_connection(mailbox: Path) -> None:
    with mail_server(mailbox, "--turn-away", "2") as server:
        call(campaign.send, server, to("ada@lovelace.example"))
        with pytest.raises(smtplib.SMTPConnectError, match="421"):
            call(campaign.send, server, to("ada@lovelace.example"))
        call(campaign.send, server, to("ada@lovelace.example"))
    assert len(filed(mailbox)) == 2


@pytest.mark.parametrize("address", ["no at sign", "two@at@signs", "line\nbreak@x.example", "jürgen@x.example", ""])
def test_an_invalid_address_is_not_retried(smtp: campaign.MailServer, mailbox: Path, address: str) -> None:
    with pytest.raises(PermanentError, match="is not a mail address"):
        call(campaign.send, smtp, to(address))
    assert filed(mailbox) == []


LAMP = order.Item("lamp", 4900, 2.5, 2)


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return str(tmp_path / "ledger.db")


def test_an_effect_under_one_key_is_made_once(ledger: str) -> None:
    for number in (1, 2):
        with an_attempt("reserve", number):
            call(order.reserve, ledger, "o-lamp", LAMP)
        with an_attempt("charge", number):
            call(order.charge, ledger, "o", 9800)
        with an_attempt("ship", number):
            assert call(order.ship, ledger, "o-lamp", LAMP) == "parcel-o-lamp"
    assert order.entries(ledger) == [("reserved", "lamp", 2), ("charged", "money", 9800), ("shipped", "lamp", 2)]


def test_an_undone_effect_is_undone_once_and_only_if_it_was(ledger: str) -> None:
    call(order.refund, ledger, "o")
    call(order.recall, ledger, "o-lamp", "lamp")
    assert order.entries(ledger) == []
    call(order.reserve, ledger, "o-lamp", LAMP)
    call(order.reserve, ledger, "p-lamp", LAMP)
    for _ in range(2):
        call(order.release, ledger, "o-lamp", "lamp")
    assert order.entries(ledger)[2:] == [("released", "lamp", 2)]


def test_no_more_is_reserved_than_there_is(ledger: str) -> None:
    piano = order.Item("piano", 290_000, 240)
    call(order.reserve, ledger, "o-piano", piano)
    with pytest.raises(PermanentError, match="1 of piano requested, 0 in stock"):
        call(order.reserve, ledger, "p-piano", piano)
    call(order.release, ledger, "o-piano", "piano")
    call(order.reserve, ledger, "p-piano", piano)
    assert [kind for kind, _, _ in order.entries(ledger)] == ["reserved", "released", "reserved"]


def test_what_is_too_heavy_is_not_shipped(ledger: str) -> None:
    with pytest.raises(PermanentError, match="weighs 240 kg"):
        call(order.ship, ledger, "o-piano", order.Item("piano", 290_000, 240))
    assert order.entries(ledger) == []


# --- the demo's audit: each claim must be able to fail ------------------------------------------


class Story:
    """A small demo: one message sent, one interrupted and sent again, one rejected."""

    def __init__(self) -> None:
        self.history: list[event_pb2.Event] = []
        self.begin("gather[0]/send", 1, "a@x.example")
        self.begin("gather[1]/send", 1, "b@x.example")
        self.begin("gather[2]/send", 1, "c@x.example")
        self.succeed("gather[0]/send", 1)
        self.fail("gather[2]/send", 1, failure_pb2.FAILURE_KIND_PERMANENT)
        self.before = len(self.history)
        self.add(workflow_recovered=event_pb2.WorkflowRecovered(generation=2))
        self.fail("gather[1]/send", 1, failure_pb2.FAILURE_KIND_LOST)
        self.begin("gather[1]/send", 2, "b@x.example")
        self.succeed("gather[1]/send", 2)
        self.watched = list(self.history)
        sent = {recipient: campaign.message_id(f"key of {key}") for recipient, key in SENT.items()}
        self.report: dict[str, Any] = {
            "sent": [{"recipient": who, "message_id": identity} for who, identity in sent.items()],
            "rejected": [{"recipient": "c@x.example", "why": "no mailbox"}],
        }
        self.mailbox = [{"message_id": identity, "recipients": [who]} for who, identity in sent.items()]

    def add(self, **detail: Any) -> None:
        self.history.append(event_pb2.Event(sequence=len(self.history) + 1, **detail))

    def begin(self, key: str, number: int, recipient: str) -> None:
        started = event_pb2.AttemptStarted(step_key=key, step_name="send", attempt=number)
        if number == 1:
            started.idempotency_key = f"key of {key}"
            started.input.json = json.dumps({"message": {"recipient": recipient}})
        self.add(attempt_started=started)

    def succeed(self, key: str, number: int) -> None:
        self.add(attempt_succeeded=event_pb2.AttemptSucceeded(step_key=key, attempt=number))

    def fail(self, key: str, number: int, kind: Any) -> None:
        failed = event_pb2.AttemptFailed(step_key=key, attempt=number, failure=failure_pb2.Failure(kind=kind))
        self.add(attempt_failed=failed)

    def findings(self) -> dict[str, Finding]:
        """Return the findings by the beginning of their claims."""
        found = audit(
            watched=self.watched,
            watched_before_crash=self.before,
            history=self.history,
            report=self.report,
            recipients=["a@x.example", "b@x.example", "c@x.example"],
            mailbox=self.mailbox,
        )
        return dict(zip(CLAIMS, found, strict=True))


SENT = {"a@x.example": "gather[0]/send", "b@x.example": "gather[1]/send"}
CLAIMS = ("watch", "lost", "ran again", "retried", "kept", "recipients", "twice")


def test_a_good_story_holds() -> None:
    findings = Story().findings()
    assert [name for name, finding in findings.items() if not finding.holds] == []
    assert findings["lost"].claim.startswith("lost: nothing. All 1 recorded results")
    assert findings["ran again"].details == (
        "gather[1]/send: attempt 1 interrupted, attempt 2 ok, same key (b@x.example)",
    )


def miss_an_event(story: Story) -> None:
    del story.watched[3]


def see_an_event_twice(story: Story) -> None:
    story.watched.insert(3, story.watched[3])


def run_what_was_recorded_again(story: Story) -> None:
    story.begin("gather[0]/send", 2, "a@x.example")
    story.watched = list(story.history)


def record_a_result_twice(story: Story) -> None:
    story.succeed("gather[1]/send", 2)
    story.watched = list(story.history)


def interrupt_what_had_ended(story: Story) -> None:
    story.fail("gather[0]/send", 1, failure_pb2.FAILURE_KIND_LOST)
    story.watched = list(story.history)


def forget_what_was_interrupted(story: Story) -> None:
    story.history[story.before + 1].attempt_failed.failure.kind = failure_pb2.FAILURE_KIND_TRANSIENT


def try_again_without_a_reason(story: Story) -> None:
    story.begin("gather[0]/send", 2, "a@x.example")


def send_under_another_key(story: Story) -> None:
    story.report["sent"][1]["message_id"] = story.mailbox[1]["message_id"] = "<another@mendflow.example>"


def lose_a_message(story: Story) -> None:
    story.mailbox.pop()


def report_nothing_of_one(story: Story) -> None:
    story.report["rejected"].clear()


def send_twice_what_was_not_interrupted(story: Story) -> None:
    story.mailbox.append(story.mailbox[0])


def send_thrice_what_was_interrupted_once(story: Story) -> None:
    story.mailbox += [story.mailbox[1]] * 2


@pytest.mark.parametrize(
    ("spoil", "claim"),
    [
        (miss_an_event, "watch"),
        (see_an_event_twice, "watch"),
        (run_what_was_recorded_again, "lost"),
        (record_a_result_twice, "lost"),
        (interrupt_what_had_ended, "ran again"),
        (forget_what_was_interrupted, "ran again"),
        (try_again_without_a_reason, "retried"),
        (send_under_another_key, "kept"),
        (lose_a_message, "recipients"),
        (report_nothing_of_one, "recipients"),
        (send_twice_what_was_not_interrupted, "twice"),
        (send_thrice_what_was_interrupted_once, "twice"),
    ],
)
def test_a_spoilt_story_fails_its_claim(spoil: Callable[[Story], None], claim: str) -> None:
    story = Story()
    spoil(story)
    assert not story.findings()[claim].holds


def test_a_message_sent_twice_after_an_interruption_is_reported_and_allowed() -> None:
    story = Story()
    story.mailbox.append(story.mailbox[1])
    twice = story.findings()["twice"]
    assert twice.holds
    assert twice.details == ("b@x.example: 2 times <key of gather[1]/send@mendflow.example>",)
