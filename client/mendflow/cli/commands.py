"""The commands that call a server."""

from __future__ import annotations

import asyncio
import functools
import json
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mendflow import errors
from mendflow.addresses import TARGET_FORMS
from mendflow.cli import params
from mendflow.cli.attempt_filter import MOST_HISTORIES, OPEN_STATES, AttemptFilter
from mendflow.cli.event_text import clean, state_name
from mendflow.cli.output import escape_unencodable
from mendflow.cli.payload_decoder import PayloadDecoder, to_json
from mendflow.cli.progress_view import ProgressView
from mendflow.cli.reason_text import reason_text
from mendflow.cli.reports import print_list, print_outcome, print_story, print_workflow
from mendflow.cli.screen import indented
from mendflow.cli.times import date_text
from mendflow.cli.type_text import schema_text
from mendflow.cli.workflow_text import is_final
from mendflow.client import Client
from mendflow.v1 import operator_service_pb2, workflow_pb2, workflow_service_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from google.protobuf.message import Message

    from mendflow.client import WorkflowHandle

__all__ = ["COMMANDS", "run_command", "server_option"]

COMMANDS: list[click.Command] = []
#: The exit codes.
SUCCEEDED, NOT_SUCCEEDED, UNREACHABLE, NOT_ENDED, INTERRUPTED = 0, 1, 3, 4, 130
#: How long a command retries an unavailable server, and how long a running watch does, in seconds.
RETRY_FOR, WATCH_RETRY_FOR = 3.0, 120.0
#: How long one call waits for a workflow's end, in seconds.
ONE_WAIT = 30.0
#: The pause between two such calls, in seconds, because a server that is shutting down answers at once.
PAUSE = 0.2
#: The exit code of a watch, by the workflow's final event.
_EXIT_CODES = {
    "workflow_succeeded": SUCCEEDED,
    "workflow_failed": NOT_SUCCEEDED,
    "workflow_cancelled": NOT_SUCCEEDED,
    "workflow_terminated": NOT_SUCCEEDED,
}


def command(function: Callable[..., Coroutine[Any, Any, int]]) -> click.Command:
    """Make a coroutine function that takes a `Client` and returns an exit code a command, and add it to `COMMANDS`."""

    @functools.wraps(function)
    def run(server: str, **options: Any) -> None:
        sys.exit(run_command(function, server, options))

    command = click.command(name=function.__name__.rstrip("_"))(
        click.option(
            "--json", "as_json_", is_flag=True, help="Print the messages of the API as protobuf JSON, one on each line."
        )(server_option(run))
    )
    COMMANDS.append(command)
    return command


def server_option(function: Callable[..., None]) -> Callable[..., None]:
    """Add the option that names the server."""
    return click.option(
        "--server",
        metavar="HOST:PORT",
        envvar="MENDFLOW_SERVER",
        default="127.0.0.1:50051",
        show_default=True,
        callback=params.server,
        help=f"The server to call: {TARGET_FORMS}.",
    )(function)


def run_command(function: Callable[..., Coroutine[Any, Any, int]], server: str, options: dict[str, Any]) -> int:
    """Run a coroutine function that takes a `Client`, print its errors, and return the exit code."""
    escape_unencodable()

    async def main() -> int:
        async with Client(server, retry_for=RETRY_FOR) as client:
            return await function(client, **options)

    try:
        return asyncio.run(main())
    except (errors.ServerUnavailable, errors.DeadlineExceeded) as error:
        _print_error(error)
        # Only a server that was reached sends a reason.
        return NOT_SUCCEEDED if error.reason else UNREACHABLE
    except errors.RequestError as error:
        _print_error(error)
        return NOT_SUCCEEDED
    except UnicodeEncodeError as error:
        raise click.UsageError(f"{error.object!r} is not valid UTF-8") from None
    except KeyboardInterrupt:
        return INTERRUPTED


def _print_error(error: errors.RequestError) -> None:
    reason = f" [{clean(error.reason)}]" if error.reason else ""
    click.echo(f"error: {clean(str(error))}{reason}", err=True)
    for field, description in error.violations:
        click.echo(f"  {clean(field)}: {clean(description)}", err=True)


@command
@click.argument("workflow_type", metavar="TYPE", callback=params.not_empty)
@click.option("--input", "payload", metavar="JSON|@FILE|-", callback=params.json_payload, help="The input.")
@click.option(
    "--id",
    "workflow_id",
    metavar="ID",
    callback=params.not_empty,
    help="The workflow's id. A second start with the same id starts nothing.",
)
@click.option(
    "--label", "labels", metavar="NAME=VALUE", multiple=True, callback=params.label, help="A label. Repeatable."
)
@click.option("--watch", "watch_", is_flag=True, help="Show events until the workflow ends.")
@click.option("--wait", metavar="SECONDS", type=click.FloatRange(min=0), help="Wait up to this long for the end.")
async def start(
    client: Client,
    *,
    workflow_type: str,
    payload: Any,
    workflow_id: str | None,
    labels: dict[str, str],
    watch_: bool,
    wait: float | None,
    as_json_: bool,
) -> int:
    """Start a workflow of TYPE."""
    given = {} if payload is None else {"input": payload}
    handle = await client.start(workflow_type, id=workflow_id, labels=labels, **given)
    if not as_json_ and (watch_ or not handle.started):
        click.echo(f"{handle.id} {'started' if handle.started else 'already exists'}", err=True)
    if watch_:
        return await _watch(client, handle, 0, (), as_json=as_json_)
    if wait is None and not as_json_:
        click.echo(handle.id)
        return SUCCEEDED
    workflow = await (handle.get() if wait is None else _wait_for_end(client, handle, wait))
    decoder = PayloadDecoder(client)
    await decoder.learn(workflow)
    if as_json_:
        reply = workflow_service_pb2.StartWorkflowResponse(workflow=workflow, started=handle.started)
        click.echo(decoder.to_json(reply, indented()))
    else:
        print_workflow(decoder.readable(workflow))
    return SUCCEEDED if wait is None else _exit_code(workflow.state)


async def _wait_for_end(client: Client, handle: WorkflowHandle[Any], seconds: float | None) -> workflow_pb2.Workflow:
    """Return the workflow when it has ended, or after so many seconds. None: no limit."""
    loop = asyncio.get_running_loop()
    limit = float("inf") if seconds is None else loop.time() + seconds
    # The start is committed, so a restart of the server does not affect the workflow: wait for the server.
    client.caller.retry_for = WATCH_RETRY_FOR if seconds is None else max(RETRY_FOR, seconds)
    while True:
        left = max(0.0, limit - loop.time())
        workflow = await handle.get(wait=min(left, ONE_WAIT))
        if is_final(workflow.state):
            return workflow
        if loop.time() >= limit:
            click.echo(f"{handle.id} has not ended after {seconds:g} s; it continues to run", err=True)
            return workflow
        await asyncio.sleep(min(PAUSE, max(0.0, limit - loop.time())))


@command
@click.argument("workflow_id", metavar="ID", callback=params.not_empty)
@click.option("--after", metavar="SEQUENCE", type=click.IntRange(min=0), default=0, help="Start after this event.")
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    multiple=True,
    callback=params.kind_number,
    shell_complete=params.complete_kind,
    help=f"Only this kind: {params.listed(params.KINDS)}. Repeatable.",
)
async def watch(client: Client, *, workflow_id: str, after: int, kinds: list[int], as_json_: bool) -> int:
    """Show a workflow's events, from the first one until the workflow ends."""
    handle = client.handle(workflow_id)
    # Check first, so that an unavailable server is an error within RETRY_FOR seconds.
    await handle.get()
    return await _watch(client, handle, after, kinds, as_json=as_json_)


async def _watch(client: Client, handle: WorkflowHandle[Any], after: int, kinds: Any, *, as_json: bool) -> int:
    # The server was available, so wait longer for a restart.
    handle.retry_for = client.caller.retry_for = WATCH_RETRY_FOR
    seen, ending = after, None
    decoder = PayloadDecoder(client)
    try:
        with ProgressView(json=as_json, decoder=decoder) as view:
            async for event in handle.watch(after, kinds=kinds, on_connection=view.connection):
                seen = event.sequence
                ending = _EXIT_CODES.get(event.WhichOneof("detail") or "")
                await decoder.learn(event)
                view.show(event)
    except (asyncio.CancelledError, errors.ServerUnavailable):
        again = ["mendflow", "watch", handle.id, "--after", str(seen), "--server", client.target]
        click.echo(f"the workflow continues to run; resume the watch with: {shlex.join(again)}", err=True)
        raise
    # The final event may come before --after, or be excluded by --kind.
    return _exit_code((await handle.get()).state) if ending is None else ending


def _exit_code(state: int) -> int:
    return SUCCEEDED if state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED else NOT_SUCCEEDED


@command
@click.option("--type", "workflow_type", metavar="TYPE", callback=params.not_empty, help="Only this type.")
@click.option(
    "--state",
    "states",
    metavar="STATE",
    multiple=True,
    callback=params.state_number,
    shell_complete=params.complete_state,
    help=f"Only this state: {params.listed(params.STATES)}. Repeatable.",
)
@click.option(
    "--label",
    "labels",
    metavar="NAME=VALUE",
    multiple=True,
    callback=params.label,
    help="Only with this label. Repeatable.",
)
@click.option("--since", metavar="TIME", callback=params.moment, help="Only workflows created at or after this time.")
@click.option("--until", metavar="TIME", callback=params.moment, help="Only workflows created before this time.")
@click.option(
    "--min-attempts",
    metavar="N",
    type=click.IntRange(min=1),
    help="Only workflows with a step that has had at least N attempts. Without --state, only open workflows. The "
    f"command reads their histories, at most {MOST_HISTORIES}.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="The most workflows to list.")
async def list_(  # noqa: PLR0913 - each option is a parameter
    client: Client,
    *,
    workflow_type: str | None,
    states: list[int],
    labels: dict[str, str],
    since: Any,
    until: Any,
    min_attempts: int | None,
    limit: int,
    as_json_: bool,
) -> int:
    """List workflows, newest first, with the reasons for their states. Times are in UTC."""
    found: AsyncIterator[workflow_pb2.Workflow] = client.list(
        workflow_type=workflow_type or "",
        states=states if states or min_attempts is None else OPEN_STATES,
        labels=labels,
        create_time_from=since,
        create_time_until=until,
        # One more than the limit, to know whether there are more.
        page_size=min(limit + 1, 1_000),
    )
    tried = AttemptFilter(client, min_attempts or 1)
    if min_attempts is not None:
        found = tried.keep(found)
    await print_list(found, limit=limit, as_json=as_json_)
    if tried.cut:
        advice = "narrow the list with --type, --state, --label, --since or --until"
        click.echo(f"only the newest {MOST_HISTORIES} histories were read; {advice}", err=True)
    return SUCCEEDED


@command
@click.argument("workflow_id", metavar="ID", callback=params.not_empty)
@click.option("--events", "events_", is_flag=True, help="Show every event of the history, one on each line.")
async def show(client: Client, *, workflow_id: str, events_: bool, as_json_: bool) -> int:
    """Show a workflow and the tree of its calls: steps with their attempts, timers and signals. Times are in UTC."""
    await print_story(client, workflow_id, events=events_, as_json=as_json_)
    return SUCCEEDED


def _echo_json(message: Message) -> None:
    click.echo(to_json(message, indented()))


@command
@click.argument("workflow_id", metavar="ID", callback=params.not_empty)
@click.argument("name", metavar="NAME", callback=params.not_empty)
@click.option("--data", "payload", metavar="JSON|@FILE|-", callback=params.json_payload, help="The signal's data.")
@click.option(
    "--request-id",
    metavar="ID",
    callback=params.not_empty,
    help="The signal's id. A second signal with the same id is ignored.",
)
@click.option("--force", is_flag=True, help="Send a signal that the workflow's type does not declare.")
async def signal(
    client: Client, *, workflow_id: str, name: str, payload: Any, request_id: str | None, force: bool, as_json_: bool
) -> int:
    """Send the signal NAME to a workflow.

    If the workflow's type declares signals, NAME must be one of them, because no code would take a misspelt one.
    """
    new = await client.signal(workflow_id, name, payload, request_id=request_id, allow_undeclared=force)
    if as_json_:
        _echo_json(workflow_service_pb2.SignalWorkflowResponse(duplicate=not new))
    else:
        click.echo("sent" if new else "ignored: the workflow already has a signal with this request id")
    return SUCCEEDED


def _add_state_change(
    name: str,
    summary: str,
    call: Callable[[Client, str, str], Coroutine[Any, Any, workflow_pb2.Workflow]],
    response: Callable[..., Message],
) -> None:
    @click.argument("workflow_id", metavar="ID", callback=params.not_empty)
    @click.option("--reason", default="", metavar="TEXT", help="The reason, for the history.")
    async def change(client: Client, *, workflow_id: str, reason: str, as_json_: bool) -> int:
        workflow = await call(client, workflow_id, reason)
        if as_json_:
            _echo_json(response(workflow=workflow))
        else:
            click.echo(f"{clean(workflow.workflow_id)} {state_name(workflow.state)}")
        return SUCCEEDED

    change.__name__ = name
    change.__doc__ = summary
    command(change)


_add_state_change(
    "cancel",
    "Ask a workflow to clean up and end.",
    Client.cancel,
    workflow_service_pb2.CancelWorkflowResponse,
)
_add_state_change(
    "resume",
    "Resume a PAUSED or QUARANTINED workflow.",
    Client.resume,
    operator_service_pb2.ResumeWorkflowResponse,
)
_add_state_change(
    "terminate",
    "End a workflow at once, without clean-up.",
    Client.terminate,
    operator_service_pb2.TerminateWorkflowResponse,
)


def _add_for_each(
    name: str, summary: str, act: Callable[[Client, str], Coroutine[Any, Any, tuple[Message, str]]]
) -> None:
    """Add a command that does the same to several workflows. ``act`` returns the reply and what it did."""

    @click.argument("workflow_ids", metavar="ID...", nargs=-1, required=True, callback=params.none_empty)
    async def each(client: Client, *, workflow_ids: tuple[str, ...], as_json_: bool) -> int:
        code = SUCCEEDED
        for workflow_id in workflow_ids:
            try:
                reply, done = await act(client, workflow_id)
            except (errors.WrongState, errors.WorkflowNotFound, errors.InvalidRequest) as error:
                _print_error(error)
                code = NOT_SUCCEEDED
            else:
                click.echo(to_json(reply) if as_json_ else f"{clean(workflow_id)} {done}")
        return code

    each.__name__ = name
    each.__doc__ = summary
    command(each)


async def _hold(client: Client, workflow_id: str) -> tuple[Message, str]:
    return operator_service_pb2.HoldWorkflowResponse(workflow=await client.hold(workflow_id)), "held"


async def _release(client: Client, workflow_id: str) -> tuple[Message, str]:
    return operator_service_pb2.ReleaseWorkflowResponse(workflow=await client.release(workflow_id)), "released"


async def _delete(client: Client, workflow_id: str) -> tuple[Message, str]:
    done = "deleted" if await client.delete(workflow_id) else "not found, nothing to delete"
    return operator_service_pb2.DeleteWorkflowResponse(), done


_add_for_each("hold", "Keep workflows from being deleted until they are released.", _hold)
_add_for_each("release", "Release held workflows.", _release)
_add_for_each("delete", "Delete workflows that have ended. An id that is not there is no error.", _delete)


@command
@click.argument("name", required=False, callback=params.not_empty)
async def types(client: Client, *, name: str | None, as_json_: bool) -> int:
    """List the workflow types that the server serves, or show one with its schemas."""
    found = [each for each in await client.types() if name in (None, each.name)]
    if name is not None and not found:
        message = f"the server does not serve a workflow type '{clean(name)}'; run mendflow types for a list"
        click.echo(f"error: {message}", err=True)
        return NOT_SUCCEEDED
    for each in found:
        if as_json_:
            _echo_json(each)
            continue
        summary = each.description.partition("\n")[0]
        click.echo(f"{clean(each.name)}  {clean(summary)}" if summary else clean(each.name))
        if name is not None:
            click.echo(f"  input   {schema_text(each.input, indented()) if each.HasField('input') else 'none'}")
            click.echo(f"  output  {schema_text(each.output, indented())}")
            for signal_name, schema in sorted(each.signals.items()):
                click.echo(f"  signal {clean(signal_name)}  {schema_text(schema, indented())}")
    return SUCCEEDED


@command
async def health(client: Client, *, as_json_: bool) -> int:
    """Show whether the server is ready, whether it is alive, and why not."""
    ready, alive = await client.health(), await client.health("liveness")
    reasons, warnings = await _health_details(client)
    if as_json_:
        status = {"ready": ready, "alive": alive, "reasons": reasons, "warnings": warnings}
        click.echo(json.dumps(status, ensure_ascii=False, indent=indented()))
    else:
        click.echo(f"ready  {ready}\nalive  {alive}")
        for name, texts in (("reason", reasons), ("warning", warnings)):
            for text in texts:
                click.echo(f"  {name:<8} {clean(text)}")
    return SUCCEEDED if ready == "SERVING" else NOT_SUCCEEDED


async def _health_details(client: Client) -> tuple[list[str], list[str]]:
    """Return the reasons and the warnings; none if the server does not return them."""
    try:
        found = await client.server_info()
    except errors.RequestError as error:
        return [], [f"the server did not return its reasons: {error}"]
    return list(found.health_reasons), list(found.health_warnings)


@command
async def info(client: Client, *, as_json_: bool) -> int:
    """Show the server's version, limits and features."""
    found = await client.server_info()
    if as_json_:
        _echo_json(found)
        return SUCCEEDED
    click.echo(f"mendflow {found.version}, replica {found.replica_id}, up since {date_text(found.start_time)}")
    for field, value in found.limits.ListFields():
        text = f"{value.seconds} s" if field.name == "wait" else str(value)
        click.echo(f"  {field.name:<20} {text}")
    click.echo(f"features: {clean(', '.join(found.features))}")
    return SUCCEEDED


@command
@click.argument("workflow_id", metavar="ID", callback=params.not_empty)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Wait at most this long. The default is no limit.",
)
async def result(client: Client, *, workflow_id: str, timeout: float | None, as_json_: bool) -> int:
    """Wait for a workflow's end and print its result as JSON.

    Exit codes: 0 SUCCEEDED, 1 FAILED, CANCELLED or TERMINATED, 4 it has not ended within --timeout.
    """
    workflow = await client.get(workflow_id)
    if not is_final(workflow.state):
        if reason := reason_text(workflow, time.time()):
            click.echo(f"{clean(workflow.workflow_id)} {state_name(workflow.state)}: {reason}", err=True)
        workflow = await _wait_for_end(client, client.handle(workflow_id), timeout)
    await print_outcome(client, workflow, as_json=as_json_)
    return _exit_code(workflow.state) if is_final(workflow.state) else NOT_ENDED
