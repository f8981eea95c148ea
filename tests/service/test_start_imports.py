"""The modules that a server does not import at its start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

from mendflow.cli import GROUP, main
from mendflow.cli.commands import COMMANDS
from mendflow.cli.export_history import export
from mendflow.cli.export_protos import export_protos

PROGRAM = """
import gc, json, sys
import click
from mendflow.cli import main

assert main.get_command(click.Context(main), "serve").name == "serve"
import bench.workflows
from mendflow_server.cli.workflow_modules import load_workflows
from mendflow_server.telemetry import build_exporter

for workflow in load_workflows(["bench.workflows"]).workflows.values():
    workflow.check()
spans = build_exporter()
print(json.dumps([gc.isenabled(), gc.get_freeze_count(), spans is not None, sorted(sys.modules)]))
"""


def start(**variables: str) -> tuple[bool, int, bool, set[str]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment | variables, capture_output=True, encoding="utf-8", check=True
    )
    enabled, frozen, exports, modules = json.loads(done.stdout.splitlines()[-1])
    return enabled, frozen, exports, set(modules)


def test_a_start_imports_neither_the_clients_commands_nor_opentelemetry() -> None:
    enabled, frozen, exports, modules = start()
    assert "mendflow_server.app" in modules
    late = {"mendflow.cli.commands", "mendflow.protogen.exports", "rich.progress", "opentelemetry"}
    assert not modules & late
    assert not exports
    # The garbage collector, which is off during the import, is on again and sees everything.
    assert (enabled, frozen) == (True, 0)


@pytest.mark.parametrize(
    "variables", [{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, {"OTEL_TRACES_EXPORTER": "console"}]
)
def test_the_sdk_is_imported_at_the_start_where_spans_are_exported(variables: dict[str, str]) -> None:
    _, _, exports, modules = start(**variables)
    assert exports
    assert "opentelemetry.sdk" in modules


def test_no_installed_command_has_the_name_of_one_of_the_clients() -> None:
    installed = {entry.name for entry in entry_points(group=GROUP)}
    own = {str(command.name) for command in (*COMMANDS, export, export_protos)}
    assert {"serve", "verify"} <= installed
    assert not installed & own
    assert main.list_commands(None) == sorted(installed | own)  # type: ignore[arg-type] # it takes no part in it
