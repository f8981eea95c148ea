"""What clients do under load, drawn from a seed: workflows of all types, their signals, cancels and watches."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mendflow.v1 import event_pb2, workflow_pb2
from tests.support.load_workflows import Leg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from random import Random

SUCCEEDED: Final = workflow_pb2.WORKFLOW_STATE_SUCCEEDED
FAILED: Final = workflow_pb2.WORKFLOW_STATE_FAILED
CANCELLED: Final = workflow_pb2.WORKFLOW_STATE_CANCELLED

#: The duration of what only a cancel ends: longer than it takes until the cancel comes.
LONG: Final = 3_600.0


class Moment(NamedTuple):
    """A moment: a life of the server, and an amount of progress in it."""

    life: int
    progress: int


@dataclass(frozen=True)
class Act:
    """A signal or a cancel, sent by several clients at once. A signal has one request id."""

    at: Moment
    signal: str
    data: str
    request_id: str
    senders: int


@dataclass(frozen=True)
class Watch:
    """A watcher of these kinds (or all), from a bookmark or from the first event. It leaves by itself after ``cut``.

    ``bare`` means with the stub alone, so that no client code repairs or hides what the server sends.
    """

    at: Moment
    kinds: tuple[int, ...] = ()
    bookmark: bool = False
    cut: int = 0
    bare: bool = False


@dataclass(frozen=True)
class Story:
    """A workflow, and all that clients do with it."""

    workflow_id: str
    workflow_type: str
    input: Any
    begins: Moment
    starters: int
    acts: tuple[Act, ...]
    watches: tuple[Watch, ...]
    #: The states in which it may end, and whether an output is right.
    ends: frozenset[int]
    is_right: Callable[[Any], bool]


@dataclass(frozen=True)
class Sort:
    """A type of workflow with an input: its signals, whether only a cancel ends it, and its expected end."""

    workflow_type: str
    input: Any
    is_right: Callable[[Any], bool]
    signals: tuple[str, ...] = ()
    cancel: bool = False
    ends: frozenset[int] = frozenset({SUCCEEDED})


def exactly(expected: Any) -> Callable[[Any], bool]:
    return lambda output: bool(output == expected)


def among(*expected: str) -> Callable[[Any], bool]:
    return lambda output: output in expected


def begins_with(expected: str) -> Callable[[Any], bool]:
    return lambda output: isinstance(output, str) and output.startswith(expected)


def legs_are(*expected: frozenset[str]) -> Callable[[Any], bool]:
    return lambda output: (
        len(output) == len(expected) and all(each in allowed for each, allowed in zip(output, expected, strict=True))
    )


def draw_stories(rng: Random, *, count: int, lives: int) -> list[Story]:
    """Draw ``count`` stories that begin in ``lives`` lives of the server, each at its own moment."""
    share = max(1, count // lives)
    begins = sorted(Moment(rng.randrange(lives), rng.randrange(share * 3)) for _ in range(count))
    return [_draw(rng, f"{number:05d}", moment, lives, share) for number, moment in enumerate(begins)]


def _draw(rng: Random, name: str, begins: Moment, lives: int, share: int) -> Story:
    sort = rng.choice(SORTS)(rng, name)

    def later() -> Moment:
        """Draw a client's moment: mostly soon, sometimes some lives later."""
        life = min(begins.life + rng.choice((0, 0, 1, 1, 2, 3)), lives - 1)
        return Moment(life, begins.progress + rng.randrange(10) if life == begins.life else rng.randrange(share * 3))

    acts = [
        Act(later(), signal, data(name, signal), f"{name}-{signal}", rng.choice((1, 1, 2))) for signal in sort.signals
    ]
    ends = sort.ends
    if sort.cancel or rng.random() < 0.1:
        acts.append(Act(later(), "", "", f"{name}-cancel", rng.choice((1, 1, 2))))
        ends |= {CANCELLED}
    if rng.random() < 0.1:
        acts.append(Act(later(), "unasked", "", f"{name}-unasked", 2))
    watches = tuple(_draw_watch(rng, later()) for _ in range(rng.choice((0, 0, 1, 1, 2, 3))))
    return Story(
        workflow_id=f"{sort.workflow_type}-{name}",
        workflow_type=sort.workflow_type,
        input=sort.input,
        begins=begins,
        starters=rng.choice((1, 1, 1, 2)),
        acts=tuple(acts),
        watches=watches,
        ends=ends,
        is_right=sort.is_right,
    )


def data(name: str, signal: str) -> str:
    """Return the data of a signal."""
    return f"{signal} for {name}"


def _draw_watch(rng: Random, at: Moment) -> Watch:
    kinds: tuple[int, ...] = ()
    if rng.random() < 0.3:
        kinds = tuple(rng.sample([kind for kind in event_pb2.EventKind.values() if kind], rng.randint(1, 12)))
    return Watch(
        at, kinds, bookmark=rng.random() < 0.3, cut=rng.choice((0, 0, rng.randint(1, 6))), bare=rng.random() < 0.5
    )


def wrong_ends(stories: Sequence[Story], results: Mapping[str, workflow_pb2.Workflow]) -> Iterator[str]:
    """Yield the workflows that did not end as expected."""
    for story in stories:
        result = results[story.workflow_id]
        output = json.loads(result.output.json) if result.output.json else None
        succeeded = result.state == SUCCEEDED
        if result.state not in story.ends or (succeeded and not story.is_right(output)):
            yield f"{story.workflow_id}: it ended {result} for {story.input}"


# --- the sorts ------------------------------------------------------------------------------------


def _echo(_rng: Random, name: str) -> Sort:
    return Sort("echo", name, exactly(name))


def _three(_rng: Random, name: str) -> Sort:
    return Sort("three", name, exactly(f"{name}-1-2-3"))


def _nothing(_rng: Random, _name: str) -> Sort:
    return Sort("nothing", None, exactly(None))


def _typed(rng: Random, name: str) -> Sort:
    items = ["x" * rng.randint(1, 9) for _ in range(rng.randint(0, 5))]
    amount = rng.randint(0, 99)
    receipt = {"order_id": name, "total": amount + sum(map(len, items))}
    return Sort("typed", {"id": name, "amount": amount, "items": items}, exactly(receipt))


def _sleeper(rng: Random, _name: str) -> Sort:
    return Sort("sleeper", rng.uniform(0.01, 3.0), exactly("awake"))


def _retried(rng: Random, _name: str) -> Sort:
    failures = rng.randint(0, 3)
    return Sort("retried", failures, lambda output: isinstance(output, int) and output > failures)


def _fails(_rng: Random, name: str) -> Sort:
    return Sort("fails", name, exactly(None), ends=frozenset({FAILED}))


def _holds(rng: Random, _name: str) -> Sort:
    return Sort("holds", rng.uniform(0.01, 1.5), exactly("held"))


def _holds_thread(rng: Random, _name: str) -> Sort:
    return Sort("holds_thread", rng.uniform(0.01, 0.5), begins_with("held on"))


def _branches(rng: Random, _name: str) -> Sort:
    seconds = [rng.uniform(0.0, 0.7) for _ in range(rng.randint(1, 6))]
    return Sort("branches", seconds, exactly([f"branch-{index}" for index in range(len(seconds))]))


def _one_branch_fails(_rng: Random, name: str) -> Sort:
    return Sort("one_branch_fails", name, begins_with("caught gather[1]/refuse"))


def _times_out(_rng: Random, _name: str) -> Sort:
    return Sort("times_out", None, begins_with("kind"))


def _heartbeats(rng: Random, _name: str) -> Sort:
    upto = rng.randint(1, 6)
    return Sort("heartbeats", upto, lambda output: output == list(range(upto - len(output), upto)))


def _everything(_rng: Random, name: str) -> Sort:
    def is_right(output: list[str]) -> bool:
        return output[3:6] == [f"{name}-a", f"{name}-c{name}-d", f"{name}-b"] and output[7] == data(name, "go")

    return Sort("everything", name, is_right, signals=("go",))


def _wait_for(rng: Random, name: str) -> Sort:
    if rng.random() < 0.2:
        return Sort("wait_for", name, exactly(None), cancel=True)
    return Sort("wait_for", name, exactly(f"{name}: {data(name, 'go')}"), signals=("go",))


def _signal_or_timeout(rng: Random, name: str) -> Sort:
    if rng.random() < 0.5:
        return Sort("signal_or_timeout", rng.uniform(0.01, 1.0), exactly("timed out"))
    return Sort("signal_or_timeout", rng.uniform(0.1, 3.0), among("timed out", data(name, "go")), signals=("go",))


def _cleans_up(_rng: Random, _name: str) -> Sort:
    return Sort("cleans_up", LONG, exactly("never"), cancel=True)


def _survives_cancel(_rng: Random, _name: str) -> Sort:
    return Sort("survives_cancel", LONG, exactly("survived"), cancel=True)


def _errand(rng: Random, name: str) -> Sort:
    legs, expected, signals = [], [], []
    for number in itertools.count(1):
        leg, allowed = rng.choice(LEGS)(rng, f"s{number}", name)
        legs.append(asdict(leg))
        expected.append(frozenset(allowed))
        if leg.signal and data(name, leg.signal) in allowed:
            signals.append(leg.signal)
        if rng.random() < 0.25:
            break
    return Sort("errand", legs, legs_are(*expected), signals=tuple(signals))


def _steps_leg(rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    return Leg("steps", rng.randint(1, 4), rng.uniform(0, 0.05)), {"stepped"}


def _retries_leg(rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    return Leg("retries", rng.randint(0, 2)), {"came through"}


def _gather_leg(rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    count = rng.randint(1, 5)
    return Leg("gather", count, rng.uniform(0, 0.1)), {"+".join(f"{index}-1{index}-2" for index in range(count))}


def _sleep_leg(rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    return Leg("sleep", rng.randint(1, 3), rng.uniform(0.001, 0.5)), {"slept"}


def _signal_leg(_rng: Random, signal: str, name: str) -> tuple[Leg, set[str]]:
    return Leg("signal", signal=signal), {data(name, signal)}


def _deadline_leg(rng: Random, signal: str, name: str) -> tuple[Leg, set[str]]:
    leg = Leg("signal", signal=signal, seconds=rng.uniform(0.01, 1.5))
    return leg, {"timed out"} | ({data(name, signal)} if rng.random() < 0.5 else set())


def _refused_leg(_rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    return Leg("refused"), {"refused"}


def _values_leg(_rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    return Leg("values"), {"kept"}


def _progress_leg(rng: Random, _signal: str, _name: str) -> tuple[Leg, set[str]]:
    return Leg("progress", rng.randint(1, 5)), {"reported"}


LEGS: Final = (
    _steps_leg,
    _retries_leg,
    _gather_leg,
    _sleep_leg,
    _signal_leg,
    _deadline_leg,
    _refused_leg,
    _values_leg,
    _progress_leg,
)

SORTS: Final = (
    _echo,
    _three,
    _nothing,
    _typed,
    _sleeper,
    _retried,
    _fails,
    _holds,
    _holds_thread,
    _branches,
    _one_branch_fails,
    _times_out,
    _heartbeats,
    _everything,
    _wait_for,
    _signal_or_timeout,
    _cleans_up,
    _survives_cancel,
    *(_errand for _ in range(8)),
)
