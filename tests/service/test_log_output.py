"""Logs of a whole process: whatever happens to its standard output, it continues to run and loses no line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: Log as a server does, and report the end on standard error.
SCRIPT = """
import sys
import structlog
from mendflow_server.telemetry.logging import configure_logs
from mendflow_server.settings import load_settings

configure_logs(load_settings(log_format="json"))
log = structlog.get_logger("mendflow.test")
for number in range(1000):
    log.info("plain", number=number)
for number in range(1000):
    log.info("letters", number=number, name="Zo\\u00eb", half="\\ud800")
print("survived", file=sys.stderr)
"""


def run(**options: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=60, check=False, **options)


def assert_survived(ended: subprocess.CompletedProcess[bytes]) -> None:
    assert b"Traceback" not in ended.stderr
    assert b"survived" in ended.stderr


def test_a_reader_that_goes_away_does_not_end_the_process() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert_survived(run(stdout=writing))
    finally:
        os.close(writing)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_does_not_end_the_process() -> None:
    with Path("/dev/full").open("wb") as full:
        assert_survived(run(stdout=full))


def test_a_process_without_standard_output_runs() -> None:
    assert_survived(run(preexec_fn=lambda: os.close(1)))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_line_with_any_letters_is_written(encoding: str) -> None:
    ended = run(stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert_survived(ended)
    logged = [json.loads(line) for line in ended.stdout.decode(encoding).splitlines()]
    letters = [line for line in logged if line["event"] == "letters"]
    assert [line["number"] for line in letters] == list(range(1000))
    assert {(line["name"], line["half"]) for line in letters} == {("Zoë", "\ud800")}


#: Log long lines from several threads, in both ways at once, while the standard output is closed by one of them.
THREADS = """
import logging, sys, threading
import structlog
from mendflow_server.telemetry.logging import configure_logs
from mendflow_server.settings import load_settings

configure_logs(load_settings(log_format="json"))

def write(number):
    for count in range(50):
        if (number, count) == (0, 25):
            sys.stdout.close()
        structlog.get_logger().info("own", number=number, text="x" * 20_000)
        logging.getLogger("library").warning("foreign " + "x" * 20_000)

threads = [threading.Thread(target=write, args=[number]) for number in range(4)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""


def test_lines_of_several_threads_stay_whole() -> None:
    ended = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, timeout=60, check=True)
    events = [json.loads(line)["event"][:7] for line in ended.stdout.splitlines()]
    assert events.count("own") == events.count("foreign") == 200


#: Print without an end of line, then log.
PRINTS = """
import structlog
from mendflow_server.telemetry.logging import configure_logs
from mendflow_server.settings import load_settings

configure_logs(load_settings(log_format="json"))
for number in range(3):
    print("printed", number)
    structlog.get_logger().info("logged", number=number)
"""


def test_what_a_step_prints_comes_before_the_next_line() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PRINTS], capture_output=True, encoding="utf-8", timeout=60, check=True
    )
    kinds = ["logged" if line.startswith("{") else line for line in ended.stdout.splitlines()]
    assert kinds == ["printed 0", "logged", "printed 1", "logged", "printed 2", "logged"]
