"""The tree of a workflow's calls that `mendflow show` prints. The branches of a gather are branches of the tree."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.text import Text
from rich.tree import Tree

from mendflow.cli.event_text import clean, describe_failure, describe_loss
from mendflow.cli.times import date_text, due_text, span_text
from mendflow.tracebacks import users_frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mendflow.cli.call_fold import Attempt, Call, Calls
    from mendflow.v1.failure_pb2 import Failure

__all__ = ["call_tree", "failure_lines"]

#: The most attempts and frames that the tree shows: the newest ones.
MOST_ATTEMPTS: Final = 5
MOST_FRAMES: Final = 5
_OPEN: Final = "bold cyan"
_BAD: Final = "bold red"
_STYLES: Final = {
    "succeeded": "green",
    "fired": "green",
    "taken": "green",
    "timed out": "yellow",
    "cancelled": "yellow",
    "failed": _BAD,
}


def call_tree(calls: Calls, now: float, *, ended: bool) -> Tree:
    """Return the tree of a workflow's calls. ``now`` is in seconds since the epoch. ``ended`` says if it has ended."""
    tree = Tree(Text("calls" if calls.by_key else "no calls"), guide_style="dim")
    branches: dict[str, Tree] = {"": tree}
    for call in calls.by_key.values():
        scope, _, name = call.key.rpartition("/")
        line = Text.assemble((clean(name), "bold"), "  ", _status(call, now, ended=ended))
        node = _branch(branches, scope).add(line)
        branches.setdefault(call.key, node)
        for detail in _details(call, now, ended=ended):
            node.add(detail)
    for name, count in Counter(calls.untaken.values()).items():
        times = f" {count} times" if count > 1 else ""
        tree.add(Text(f"signal {clean(name)} arrived{times} and was not taken", style="yellow"))
    return tree


def failure_lines(failure: Failure) -> Iterator[str]:
    """Yield a failure and its causes, each as a line with the user's own frames below it."""
    yield clean(describe_failure(failure))
    yield from _frame_lines(failure)
    while failure.HasField("cause"):
        failure = failure.cause
        yield f"  caused by {clean(describe_failure(failure))}"
        yield from _frame_lines(failure)


def _frame_lines(failure: Failure) -> Iterator[str]:
    frames = users_frames(failure.traceback)
    if len(frames) > MOST_FRAMES:
        yield f"  … {len(frames) - MOST_FRAMES} earlier frames"
    for frame in frames[-MOST_FRAMES:]:
        yield clean(f"  at {frame}")


def _branch(branches: dict[str, Tree], scope: str) -> Tree:
    """Return the branch of a scope such as gather[0], and add it and those above it if the tree lacks them."""
    found = branches.get(scope)
    if found is None:
        above, _, name = scope.rpartition("/")
        found = branches[scope] = _branch(branches, above).add(Text(clean(name)))
    return found


def _status(call: Call, now: float, *, ended: bool) -> Text:
    if call.ending:
        return Text(_ending(call), style=_STYLES.get(call.ending, ""))
    if ended:
        return Text("open when the workflow ended", style="yellow")
    return Text(_pending(call, now), style=_BAD if call.stopped else _OPEN)


def _ending(call: Call) -> str:
    took = span_text((call.end or call.start) - call.start)
    match call.ending:
        case "fired":
            return f"slept {took}"
        case "taken":
            return f"took signal {clean(call.name)} after {took}"
        case "timed out":
            return f"got no signal {clean(call.name)} within {took}"
        case "succeeded":
            return f"succeeded in {took}{_number(call)}"
        case _:
            return f"{call.ending} after {took}{_number(call)}"


def _number(call: Call) -> str:
    number = call.attempts[-1].number if call.attempts else 0
    return f", {number} attempts" if number > 1 else ""


def _pending(call: Call, now: float) -> str:
    until = "" if call.due is None else f" until {date_text(call.due)} ({due_text(call.due, now)})"
    if call.kind == "timer":
        return f"sleeps{until}"
    if call.kind == "signal":
        return f"waits for signal {clean(call.name)}{until}"
    return _pending_step(call, now)


def _pending_step(call: Call, now: float) -> str:
    last = call.attempts[-1] if call.attempts else None
    if last is not None and not last.ending:
        return f"runs attempt {last.number} for {span_text(now - last.start)}"
    done = last.number if last is not None else 0
    if call.stopped:
        return f"stopped after attempt {done}; waits for mendflow resume"
    if call.suspected:
        return f"suspected: attempt {done + 1} waits to run in isolation"
    if call.due is not None and (left := due_text(call.due, now)) != "now":
        return f"backs off: attempt {done + 1} {left}"
    return f"attempt {done + 1} is due"


def _details(call: Call, now: float, *, ended: bool) -> Iterator[Text]:
    """Yield the lines below a step: its attempts if one failed, and the progress of the open one."""
    last_failure = call.last_failure
    if last_failure is not None:
        hidden = len(call.attempts) - MOST_ATTEMPTS
        if hidden > 0:
            yield Text(f"… {hidden} earlier attempts", style="dim")
        for attempt in call.attempts[-MOST_ATTEMPTS:]:
            with_frames = attempt is last_failure and call.ending != "succeeded"
            yield _attempt(attempt, now, with_frames=with_frames)
    if call.progress is not None and not call.ending and not ended:
        report = call.progress
        of = f" of {report.total}" if report.total else ""
        yield Text(f"progress {report.done}{of} {clean(report.message)}".rstrip(), style="dim")


def _attempt(attempt: Attempt, now: float, *, with_frames: bool) -> Text:
    begin = f"attempt {attempt.number}"
    if attempt.end is None:
        return Text(f"{begin} runs for {span_text(now - attempt.start)}")
    took = f"{begin} {attempt.ending} after {span_text(attempt.end - attempt.start)}"
    if attempt.failure is None:
        return Text(took)
    if attempt.ending == "lost":
        return Text(f"{took}{clean(describe_loss(attempt.failure))}", style="cyan")
    first, *more = failure_lines(attempt.failure)
    text = Text(f"{took}: {first}", style="yellow")
    if with_frames:
        text.append("".join(f"\n{line}" for line in more))
    return text
