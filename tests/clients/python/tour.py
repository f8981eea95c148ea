"""Everything that a caller does with the server, in sequence."""

from __future__ import annotations

import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from connection import PATIENCE, Connection
from examples.order.v1 import order_pb2
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from mendflow.v1 import event_pb2, failure_pb2, workflow_pb2, workflow_service_pb2
from orders import as_json, as_message, start
from refusal import refusal_of
from watching import print_event, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow.v1.payload_pb2 import Payload

#: How long a call asks the server to wait for a workflow's end, in seconds. At most 60; call again to wait longer.
WAIT = 30

LAMP = {"sku": "lamp", "price_cents": 4900, "weight_kg": 2.5}
HEAVY_CHAIR = {"sku": "chair", "price_cents": 12_000, "weight_kg": 100}
#: So expensive that the order waits for the signal approve.
DESK = {"sku": "desk", "price_cents": 150_000, "weight_kg": 40}


class Tour:
    """The tour. Its workflow ids start with its name."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._workflows = connection.workflows
        self._name = name

    def run(self) -> None:
        """Run the tour."""
        self.health()
        self.start_and_wait()
        self.typed()
        self.trace()
        self.refusals()
        self.failure()
        self.deadline()
        self.signal()
        self.watch()
        self.cancel()
        self.pages()

    def health(self) -> None:
        """Check whether the server is ready, like a load balancer."""
        health = self._connection.health
        reply = health.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        say(f"health: {serving(reply)}")
        nothing = health_pb2.HealthCheckRequest(service="nothing")
        say(f"health of nothing: {refusal_of(lambda: health.Check(nothing, timeout=PATIENCE)).code}")
        # Watch streams each change until the call is cancelled.
        changes = health.Watch(health_pb2.HealthCheckRequest())
        say(f"health watch: {serving(next(changes))}")
        changes.cancel()

    def start_and_wait(self) -> None:
        """Start a workflow and get its result in one call."""
        request = self._start("now", self._order("now", {**LAMP, "quantity": 2}), wait=WAIT)
        reply = self._workflows.StartWorkflow(request, timeout=WAIT + PATIENCE)
        receipt = json.loads(reply.workflow.output.json)
        paid = f"{receipt['charged_cents']} cents, {len(receipt['parcels'])} parcel(s)"
        say(f"start and wait: {state(reply.workflow)}, {started(reply)}, {paid}")
        # A retry after a lost reply is safe: it returns the existing workflow.
        again = self._workflows.StartWorkflow(request, timeout=WAIT + PATIENCE)
        same = "same execution" if again.workflow.uid == reply.workflow.uid else "another execution"
        say(f"start again: {state(again.workflow)}, {started(again)}, {same}")

    def typed(self) -> None:
        """Start a workflow with a message. The compiler, or mypy, finds a wrong field name."""
        request = self._start("typed", as_message(self._plain_order("typed", LAMP)), wait=WAIT)
        workflow = self._workflows.StartWorkflow(request, timeout=WAIT + PATIENCE).workflow
        # If the input is a message, the output is a message too.
        output = order_pb2.PlaceOrderOutput()
        workflow.output.message.Unpack(output)
        say(f"typed: {state(workflow)}, {output.charged_cents} cents, {len(output.parcels)} parcel(s)")

    def trace(self) -> None:
        """Make the workflow's spans children of the caller's span."""
        # OpenTelemetry's instrumentation of the channel sets this header automatically.
        trace_id = secrets.token_hex(16)
        metadata = (("traceparent", f"00-{trace_id}-{secrets.token_hex(8)}-01"),)
        request = self._start("traced", self._order("traced", LAMP))
        workflow = self._workflows.StartWorkflow(request, timeout=PATIENCE, metadata=metadata).workflow
        say(f"trace: {'continued' if workflow.trace_id == trace_id else 'lost'}")

    def refusals(self) -> None:
        """Read errors. Programs use the code and the reason in ErrorInfo; the message is for people."""
        request = self._start("now", self._order("now", LAMP))
        other = refusal_of(lambda: self._workflows.StartWorkflow(request, timeout=PATIENCE))
        info = other.detail(error_details_pb2.ErrorInfo)
        say(f"other input: {other.code}, {info.reason} of {info.domain}, differs: {info.metadata['differs']}")

        request = self._start("bad", self._order("bad", {**LAMP, "quantity": 0}))
        bad = refusal_of(lambda: self._workflows.StartWorkflow(request, timeout=PATIENCE))
        fields = [each.field for each in bad.detail(error_details_pb2.BadRequest).field_violations]
        say(f"bad input: {bad.code}, {bad.detail(error_details_pb2.ErrorInfo).reason}, {'; '.join(fields)}")

        none = refusal_of(lambda: self._workflows.GetWorkflow(self._get("nothing"), timeout=PATIENCE))
        resource = none.detail(error_details_pb2.ResourceInfo).resource_name
        say(f"no workflow: {none.code}, {none.detail(error_details_pb2.ErrorInfo).reason}, {self._cut(resource)}")

    def failure(self) -> None:
        """Read the failure of a workflow. The call itself succeeds."""
        request = self._start("heavy", self._order("heavy", HEAVY_CHAIR), wait=WAIT)
        workflow = self._workflows.StartWorkflow(request, timeout=WAIT + PATIENCE).workflow
        failure = workflow.failure
        kind = failure_pb2.FailureKind.Name(failure.kind).removeprefix("FAILURE_KIND_")
        what = f"{failure.type}: {failure.message}, step {failure.step_key}"
        say(f"failure: {state(workflow)}, {kind}, {self._cut(what)}")

    def deadline(self) -> None:
        """Stop waiting. The deadline ends only the call, not the workflow."""
        request = self._start("big", self._order("big", DESK, packing_time=3))
        self._workflows.StartWorkflow(request, timeout=PATIENCE)
        refusal = refusal_of(lambda: self._workflows.GetWorkflow(self._get("big", wait=60), timeout=0.3))
        say(f"deadline: {refusal.code}")

    def signal(self) -> None:
        """Send a workflow the signal that it waits for."""
        # Without the request_id, a retry after a lost reply would send a second signal.
        request = workflow_service_pb2.SignalWorkflowRequest(
            workflow_id=self._id("big"),
            name="approve",
            data=as_json({"by": "clients"}),
            request_id=self._id("approval"),
        )
        replies = [self._workflows.SignalWorkflow(request, timeout=PATIENCE) for _ in range(2)]
        say("signal: " + ", then ".join("duplicate" if reply.duplicate else "new" for reply in replies))

    def watch(self) -> None:
        """Watch the workflow until it ends, also across restarts of the server."""
        reports = []
        for event in watch(self._connection, self._id("big")):
            print_event(event)
            if event.HasField("progress_reported"):
                reports.append(event.progress_reported)
        for report in reports:
            say(f"progress: {report.done} of {report.total}: {report.message}")

    def cancel(self) -> None:
        """Cancel a workflow, which then undoes its completed steps."""
        request = self._start("unwanted", self._order("unwanted", DESK))
        self._workflows.StartWorkflow(request, timeout=PATIENCE)
        self._await_signal("unwanted")
        self._workflows.CancelWorkflow(
            workflow_service_pb2.CancelWorkflowRequest(workflow_id=self._id("unwanted"), reason="not wanted any more"),
            timeout=PATIENCE,
        )
        # The reply means that the request is committed. The clean-up takes longer.
        reply = self._workflows.GetWorkflow(self._get("unwanted", wait=WAIT), timeout=WAIT + PATIENCE)
        undone = any(event.attempt_succeeded.step_key.startswith("release") for event in self._events("unwanted"))
        say(f"cancel: {state(reply.workflow)}, {'undone' if undone else 'not undone'}")

    def pages(self) -> None:
        """List the tour's workflows, two at a time."""
        sizes = []
        request = workflow_service_pb2.ListWorkflowsRequest(page_size=2, labels={"run": self._name})
        while True:
            page = self._workflows.ListWorkflows(request, timeout=PATIENCE)
            # A page can be empty and not be the last. Only the token says so.
            if page.workflows:
                sizes.append(str(len(page.workflows)))
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        say(f"pages: {' + '.join(sizes)}")

    def _await_signal(self, name: str) -> None:
        """Wait until there is something to undo: the items are reserved and the order waits for its approval."""
        for _ in range(600):
            workflow = self._workflows.GetWorkflow(self._get(name), timeout=PATIENCE).workflow
            if workflow.reason == event_pb2.STATE_REASON_SIGNAL:
                return
            time.sleep(0.05)
        raise TimeoutError(f"{name} does not wait for its signal after 30 s")

    def _events(self, name: str) -> Iterator[event_pb2.Event]:
        request = workflow_service_pb2.ListEventsRequest(workflow_id=self._id(name))
        while True:
            page = self._workflows.ListEvents(request, timeout=PATIENCE)
            yield from page.events
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def _id(self, name: str) -> str:
        return f"{self._name}-{name}"

    def _cut(self, text: str) -> str:
        """Return a text without the tour's name."""
        return text.replace(f"{self._name}-", "")

    def _plain_order(self, name: str, item: dict[str, Any], packing_time: float = 0) -> dict[str, Any]:
        return {
            "order_id": self._id(name),
            "items": [item],
            "ledger": f"{self._name}.db",
            "packing_time": packing_time,
        }

    def _order(self, name: str, item: dict[str, Any], packing_time: float = 0) -> Payload:
        return as_json(self._plain_order(name, item, packing_time))

    def _start(self, name: str, order: Payload, wait: int = 0) -> workflow_service_pb2.StartWorkflowRequest:
        request = start(self._id(name), order)
        request.labels["run"] = self._name
        if wait:
            request.wait.seconds = wait
        return request

    def _get(self, name: str, wait: int = 0) -> workflow_service_pb2.GetWorkflowRequest:
        request = workflow_service_pb2.GetWorkflowRequest(workflow_id=self._id(name))
        if wait:
            request.wait.seconds = wait
        return request


def say(line: str) -> None:
    """Print a line without buffering."""
    print(line, flush=True)


def serving(reply: health_pb2.HealthCheckResponse) -> str:
    """Return the name of a health status."""
    return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)


def state(workflow: workflow_pb2.Workflow) -> str:
    """Return the name of a state."""
    return workflow_pb2.WorkflowState.Name(workflow.state).removeprefix("WORKFLOW_STATE_")


def started(reply: workflow_service_pb2.StartWorkflowResponse) -> str:
    """Return whether the call started the workflow."""
    return "started" if reply.started else "not started"
