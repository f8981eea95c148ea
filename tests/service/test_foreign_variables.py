"""Environment variables of other programs and libraries: none stops a server, a command or a client."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from mendflow.client.loopback import is_loopback
from tests.support.command_process import SECONDS, environment, run_process
from tests.support.servers import serving_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.proof

#: Nothing listens on this port.
NOWHERE = "http://127.0.0.1:9"

#: Values that a library cannot take, and what is done instead.
IGNORED = {
    "OTEL_PROPAGATORS": ("tracecontext,baggage,b3", "tracecontext,baggage is used"),
    "OTEL_PYTHON_CONTEXT": ("vendor", "contextvars_context is used"),
    "GRPC_POLL_STRATEGY": ("fast", "gRPC chooses"),
    "GRPC_ENABLE_FORK_SUPPORT": ("on", "fork support is off"),
    "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": ("cpp", "protobuf chooses"),
}
#: The same for variables that only the export of spans uses.
IGNORED_BY_EXPORT = {
    "OTEL_TRACES_SAMPLER": ("xray", "parentbased_always_on is used"),
    "OTEL_EXPORTER_OTLP_COMPRESSION": ("zstd", "spans are sent without compression"),
    "OTEL_EXPORTER_OTLP_TIMEOUT": ("soon", "the limit is 10 s"),
    "OTEL_EXPORTER_OTLP_HEADERS": ("(hidden)", "spans are sent without these headers"),
    # A key without a certificate would abort the process.
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY": ("/nowhere", "the client shows no certificate"),
    "OTEL_PYTHON_METER_PROVIDER": ("vendor", "there are no such metrics"),
    "OTEL_BSP_MAX_QUEUE_SIZE": ("-5", "2048 is used"),
    "OTEL_RESOURCE_ATTRIBUTES": ("nonsense", "none is used"),
    "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": ("vendor", "none is used"),
}
#: Proxies, which must not take calls to this host.
PROXIES = {
    name: NOWHERE
    for lower in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy")
    for name in (lower, lower.upper())
}
#: What changes how Python, its libraries and the terminal behave, and needs no report.
HARMLESS = {
    "OTEL_ATTRIBUTE_COUNT_LIMIT": "x",
    "OTEL_CONFIG_FILE": "/nowhere",
    "OTEL_LOG_LEVEL": "x",
    "OTEL_PYTHON_ID_GENERATOR": "x",
    "OTEL_PYTHON_TRACER_PROVIDER": "x",
    "OTEL_SPAN_EVENT_COUNT_LIMIT": "x",
    "GRPC_DNS_RESOLVER": "x",
    "GRPC_SSL_CIPHER_SUITES": "x",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/nowhere",
    "PYTHONASYNCIODEBUG": "1",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONDEVMODE": "1",
    "PYTHONINTMAXSTRDIGITS": "640",
    "PYTHONIOENCODING": "ascii",
    "PYTHONOPTIMIZE": "2",
    "PYTHONUTF8": "0",
    "PYTHONWARNINGS": "error",
    "COLUMNS": "x",
    "FORCE_COLOR": "1",
    "LANG": "C",
    "LC_ALL": "C",
    "LINES": "x",
    "NO_COLOR": "1",
    "SQLITE_TMPDIR": "/nowhere",
    "SSL_CERT_FILE": "/nowhere",
    "TERM": "x",
    "TMPDIR": "/nowhere",
    "TZ": "bad/zone",
}


@pytest.fixture(autouse=True)
def _none_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("OTEL_", "GRPC_", "PROTOCOL_BUFFERS_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("HOME", raising=False)


def reported(log: list[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    lines = [line for line in log if line["event"] == "environment_variable_ignored"]
    assert len({line["variable"] for line in lines}) == len(lines), "each once"
    return {line["variable"]: (line["value"], line["instead"]) for line in lines}


def test_a_server_and_a_command_work_with_all_of_them_and_report_each_bad_one_once(tmp_path: Path) -> None:
    bad = {name: value for name, (value, _) in (IGNORED | IGNORED_BY_EXPORT).items()}
    exporting = {"OTEL_EXPORTER_OTLP_ENDPOINT": NOWHERE, "OTEL_EXPORTER_OTLP_HEADERS": "secret"}
    variables = HARMLESS | PROXIES | bad | exporting
    with serving_process(tmp_path, environment=variables) as server:
        arguments = ("start", "echo", "--wait", "30", "--input", '"x"', "--server", server.grpc_address)
        done = run_process(arguments, variables)
        assert server.terminate() == 0
    assert reported(server.log) == IGNORED | IGNORED_BY_EXPORT
    text = (tmp_path / "server.log").read_text()
    assert "Traceback" not in text
    assert "secret" not in text
    assert done.returncode == 0, done.stderr
    wanted = [f"{name}={value!r} is ignored" for name, (value, _) in IGNORED.items()]
    assert sorted(line.partition(":")[0] for line in done.stderr.splitlines() if "ignored" in line) == sorted(wanted)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", [*IGNORED, "http_proxy", "https_proxy", "grpc_proxy"])
def test_each_alone_is_one_line_of_a_command_at_most(tmp_path: Path, name: str) -> None:
    value, instead = IGNORED.get(name, (NOWHERE, ""))
    with serving_process(tmp_path) as server:
        done = run_process(["types", "--server", server.grpc_address], {name: value})
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    if name in IGNORED:
        (line,) = lines
        assert line.startswith(f"{name}={value!r} is ignored: ")
        assert line.endswith(f"; {instead}")
    else:
        assert lines == []


#: A module that imports OpenTelemetry by itself, as instrumented code does.
INSTRUMENTED = """
from opentelemetry import propagate
from mendflow import step, workflow

@step
async def inject() -> list[str]:
    return [type(each).__name__ for each in propagate.get_global_textmap()._propagators]

@workflow
async def injects() -> list[str]:
    return await inject()
"""


def test_a_served_module_can_import_opentelemetry_with_a_propagator_that_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "instrumented.py").write_text(INSTRUMENTED)
    variables = {"OTEL_PROPAGATORS": "b3,baggage"}
    with serving_process(tmp_path, modules=("instrumented",), environment=variables) as server:
        done = run_process(["start", "injects", "--wait", "30", "--server", server.grpc_address, "--json"], {})
        assert server.terminate() == 0
    assert "W3CBaggagePropagator" in done.stdout
    assert reported(server.log) == {"OTEL_PROPAGATORS": ("b3,baggage", "baggage is used")}


@pytest.mark.parametrize("name", [*IGNORED])
def test_an_import_of_the_client_prints_nothing(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import mendflow"],
        env=environment(**{name: IGNORED[name][0]}),
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "target",
    [
        "127.0.0.1:50051",
        "127.9.9.9:1",
        "localhost:50051",
        "LOCALHOST.:1",
        "shop.localhost:1",
        "[::1]:50051",
        "::1",
        "0.0.0.0:1",
        "[::]:1",
        "[::ffff:127.0.0.1]:1",
        "dns:///localhost:50051",
        "dns:127.0.0.1:1",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
        "ipv6:[::1]:1",
    ],
)
def test_a_target_on_this_host_is_loopback(target: str) -> None:
    assert is_loopback(target)


@pytest.mark.parametrize(
    "target",
    [
        "example.org:50051",
        "10.0.0.1:1",
        "localhost.example.org:1",
        "notlocalhost:1",
        "[2001:db8::1]:1",
        "dns://127.0.0.1/example.org:1",
        "ipv4:127.0.0.1:1,10.0.0.1:1",
        "",
    ],
)
def test_a_target_elsewhere_is_not_loopback(target: str) -> None:
    assert not is_loopback(target)
