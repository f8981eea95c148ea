"""What the commands `list`, `show` and `result` print."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import click

from mendflow.cli.call_fold import Calls
from mendflow.cli.call_tree import call_tree, failure_lines
from mendflow.cli.event_text import clean, describe_causes, describe_event, state_name
from mendflow.cli.payload_decoder import PayloadDecoder, payload_json, to_json
from mendflow.cli.screen import indented, show
from mendflow.cli.workflow_text import WorkflowTable, is_final, workflow_head
from mendflow.v1 import workflow_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mendflow.client import Client

__all__ = ["print_list", "print_outcome", "print_story", "print_workflow"]

#: How many workflows are printed as one table.
_ROWS: Final = 1_000
#: The causes of a failure are indented to the text of their event.
_CAUSE: Final = " " * 32


async def print_list(found: AsyncIterator[workflow_pb2.Workflow], *, limit: int, as_json: bool) -> None:
    """Print at most ``limit`` workflows, and report on standard error if there are more or none."""
    count = 0
    rows: list[workflow_pb2.Workflow] = []
    more = False
    async for workflow in found:
        if count == limit:
            more = True
            break
        count += 1
        if as_json:
            click.echo(to_json(workflow, indented()))
            continue
        rows.append(workflow)
        if len(rows) == _ROWS:
            show(WorkflowTable(rows, time.time(), header=count == _ROWS))
            rows = []
    if rows:
        show(WorkflowTable(rows, time.time(), header=count <= _ROWS))
    if more:
        click.echo(f"more workflows match; list more with --limit {2 * limit}", err=True)
    if not count and not as_json:
        click.echo("no workflows", err=True)


def print_workflow(workflow: workflow_pb2.Workflow, calls: Calls | None = None) -> None:
    """Print a workflow, whose payloads are readable, and the tree of its calls if they are given."""
    now = time.time()
    show(workflow_head(workflow, now, None if calls is None else calls.pause_failure))
    if calls is not None:
        show(call_tree(calls, now, ended=is_final(workflow.state)))


async def print_story(client: Client, workflow_id: str, *, events: bool, as_json: bool) -> None:
    """Print a workflow with the tree of its calls, or with its events."""
    workflow = await client.get(workflow_id)
    decoder = PayloadDecoder(client)
    await decoder.learn(workflow)
    if as_json:
        click.echo(decoder.to_json(workflow_service_pb2.GetWorkflowResponse(workflow=workflow), indented()))
    elif events:
        print_workflow(decoder.readable(workflow))
    calls = Calls()
    async for event in client.handle(workflow_id).events():
        if not as_json and not events:
            calls.add(event)
            continue
        await decoder.learn(event)
        if as_json:
            click.echo(decoder.to_json(event, indented()))
            continue
        click.echo(describe_event(decoder.readable(event)))
        for cause in describe_causes(event):
            click.echo(f"{_CAUSE}{cause}")
    if not as_json and not events:
        print_workflow(decoder.readable(workflow), calls)


async def print_outcome(client: Client, workflow: workflow_pb2.Workflow, *, as_json: bool) -> None:
    """Print the result of a workflow that has ended. Print a failure on standard error."""
    decoder = PayloadDecoder(client)
    await decoder.learn(workflow)
    if as_json:
        click.echo(decoder.to_json(workflow_service_pb2.GetWorkflowResponse(workflow=workflow), indented()))
    elif workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED:
        click.echo(payload_json(decoder.readable(workflow).output, indented()))
    if workflow.state != workflow_pb2.WORKFLOW_STATE_SUCCEEDED and is_final(workflow.state):
        click.echo(f"{clean(workflow.workflow_id)} {state_name(workflow.state)}", err=True)
        if workflow.HasField("failure"):
            for line in failure_lines(workflow.failure):
                click.echo(f"  {line}", err=True)
