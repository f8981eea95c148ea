"""A workflow's code while it is in memory: started, replayed, driven and stopped.

Each run of the code is marked beside the store (`CrashMarker`), so that code
that crashes the process can be blamed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mendflow.errors import PayloadError
from mendflow_server.replay.rehearsal import rehearse
from mendflow_server.replay.workflow_runner import NonDeterminism, WorkflowRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from mendflow.authoring.workflow import Workflow
    from mendflow_server.execution.services import Services
    from mendflow_server.execution.unit_of_work import UnitOfWork
    from mendflow_server.history.builder import HistoryBuilder


class WorkflowCode:
    """The code of one workflow.

    ``definition`` is None when this server cannot run the code: it does not
    serve the type, or does not understand an event. The verbs below then do
    nothing. Those that return text return why the code cannot replay the
    history; empty: it can.
    """

    __slots__ = ("_builder", "_definition", "_services", "_unit", "runner")

    def __init__(
        self,
        services: Services,
        builder: HistoryBuilder,
        unit: UnitOfWork,
        definition: Workflow[Any, Any] | None,
    ) -> None:
        self._services = services
        self._builder = builder
        self._unit = unit
        self._definition = definition
        #: The code that runs; None: it does not.
        self.runner: WorkflowRunner | None = None

    @property
    def is_served(self) -> bool:
        """Whether this server can run the code."""
        return self._definition is not None

    @property
    def is_held(self) -> bool:
        """Whether the code must wait until the crash guard releases it."""
        return self._services.admission.guard.holds(self._unit.row.key, "")

    def start(self, argument: object) -> str:
        """Run the code from its beginning, with the decoded input."""
        if self._definition is None:
            return ""
        limit = self._services.settings.payload_limit
        runner = self.runner = WorkflowRunner(self._definition, self._builder, argument, payload_limit=limit)
        return self.drive(runner.begin)

    def replay(self) -> str:
        """Run the code from its beginning, with the recorded input."""
        started = self._builder.history.started
        if started is None or self._definition is None:
            return ""
        detail = started.workflow_started
        input_type = self._definition.input_type
        if input_type is None:
            return self.start(None)
        try:
            argument = input_type.decode(detail.input if detail.HasField("input") else None)
        except PayloadError as error:
            return f"the workflow's recorded input no longer matches its type: {error}"
        return self.start(argument)

    def drive(self, call: Callable[..., None], *arguments: object) -> str:
        """Run the code until it rests, by one call of its runner.

        A drive is a transaction. The events before it stay. When the code cannot replay the history, or raised an error
        that pauses the workflow, the events that the drive added are taken back.
        """
        builder = self._builder
        before = len(builder.pending)
        marker = self._services.crash_marker
        marker.enter(self._unit.row.key)
        try:
            call(*arguments)
        except NonDeterminism as error:
            builder.undo_to(before)
            return str(error)
        finally:
            marker.leave()
        runner = self.runner
        if runner is not None and runner.error is not None and self.pauses_on_error:
            builder.undo_to(before)
        return ""

    @property
    def pauses_on_error(self) -> bool:
        """Whether an error of the workflow function pauses the workflow. One that is cancelled ends."""
        definition = self._definition
        return definition is not None and definition.on_error == "pause" and not self._builder.history.cancel

    def can_replay(self, events: Sequence[bytes], *, failed: bool = False) -> bool:
        """Return whether the code can replay a stored history. The try has no effect.

        ``failed`` says that the code raised an error, so the replay must not end in one either.
        """
        if self._definition is None or self.is_held:
            return False
        marker = self._services.crash_marker
        marker.enter(self._unit.row.key)
        try:
            limit = self._services.settings.payload_limit
            rehearsal = rehearse(self._definition, events, payload_limit=limit, now=self._builder.now)
            return not (rehearsal.problem or (failed and rehearsal.fails))
        finally:
            marker.leave()

    def stop(self) -> None:
        """Stop the code without a result."""
        runner, self.runner = self.runner, None
        if runner is not None:
            runner.close()
