"""The addresses of servers: each form works, or is refused before anything is sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mendflow import Client, SyncClient
from mendflow.cli import main
from mendflow.cli.commands import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What is refused, and a part of the reason.
REFUSED = {
    "": "is empty",
    ":99999": "has no host",
    ":50051": "has no host",
    "localhost": "has no port",
    "localhost:": "the port ''",
    "localhost:0": "the port 0",
    "localhost:65536": "the port '65536'",
    "localhost:99999": "the port '99999'",
    "localhost:-1": "the port '-1'",
    "localhost:grpc": "the port 'grpc'",
    "localhost:+1": "the port '+1'",
    "localhost:1_0": "the port '1_0'",
    "localhost:\u0663": "the port",
    "localhost:1 ": "the port '1 '",
    "localhost:1/": "the port '1/'",
    " localhost:1": "the host ' localhost'",
    "b\u00fccher.example:1": "the host",
    "user@host:1": "the host 'user@host'",
    "::1:50051": "in brackets",
    "::1": "in brackets",
    "[::1]": "has no port",
    "[]:1": "must be an IPv6 address",
    "[localhost]:1": "must be an IPv6 address",
    "[::1:1": "in brackets",
    "http://localhost:1": "the scheme http://",
    "https://localhost:1": "the scheme https://",
    "grpc://localhost:1": "the scheme grpc://",
    "xds:///localhost:1": "the scheme xds://",
    "dns:///localhost": "has no port",
    "dns:": "has no port",
    "dns://8.8.8.8/localhost:1": "the host",
    "ipv4:": "has no port",
    "ipv4:50051": "has no port",
    "ipv4:localhost:1": "must be an IPv4 address",
    "ipv4:[::1]:1": "must be an IPv4 address",
    "ipv4:127.0.0.1:1,127.0.0.1": "has no port",
    "ipv4:127.0.0.1:1,": "has no port",
    "ipv4:127.0.0.1:1,127.0.0.1:0": "the port 0",
    "ipv6:[::1]:1,127.0.0.1:1": "must be an IPv6 address",
    "127.0.0.1:1,127.0.0.1:2": "several servers",
    "unix:": "names no socket",
    "unix:///": "names no socket",
    "unix://host/path": "has a host before its path",
}


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("socket") / "s"


@pytest.fixture(scope="module")
def port(socket_path: Path) -> Iterator[int]:
    """Start a server of the health service on two addresses and a socket."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    for service in ("", "liveness"):
        servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.add_insecure_port(f"[::1]:{port}")
    server.add_insecure_port(f"unix:{socket_path}")
    server.start()
    yield port
    server.stop(None).wait()


def mendflow(*arguments: str, **variables: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"MENDFLOW_SERVER": None, **variables})


FORMS = ["127.0.0.1:{port}", "localhost:{port}", "[::1]:{port}", "dns:///127.0.0.1:{port}", "dns:localhost:{port}",
         "unix:{path}", "unix://{path}", "ipv4:127.0.0.1:{port}", "ipv6:[::1]:{port}",
         # No server listens on port 1.
         "ipv4:127.0.0.1:1,127.0.0.1:{port}", "ipv6:[::1]:1,[::1]:{port}"]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
async def test_each_accepted_form_reaches_the_server(form: str, port: int, socket_path: Path) -> None:
    target = form.format(port=port, path=socket_path)
    async with Client(target) as client:
        assert await client.health() == "SERVING"


@pytest.mark.parametrize("form", FORMS)
def test_each_accepted_form_works_on_the_command_line(form: str, port: int, socket_path: Path) -> None:
    target = form.format(port=port, path=socket_path)
    assert mendflow("health", "--server", target).exit_code == 0
    assert mendflow("health", MENDFLOW_SERVER=target).exit_code == 0


@pytest.mark.parametrize("target", REFUSED)
async def test_clients_refuse_what_is_no_address(target: str) -> None:
    for make in (Client, SyncClient):
        with pytest.raises(ValueError, match="use HOST:PORT") as refusal:
            make(target)
        assert REFUSED[target] in str(refusal.value)
        assert repr(target) in str(refusal.value)


@pytest.mark.parametrize("target", [None, 50051, b"localhost:1"])
async def test_a_target_that_is_no_string_is_refused(target: Any) -> None:
    with pytest.raises(ValueError, match="is not a string"):
        Client(target)


@pytest.mark.parametrize("command", [("list",), ("export", "w"), ("verify", "examples.order")], ids=" ".join)
@pytest.mark.parametrize("target", REFUSED)
def test_commands_refuse_what_is_no_address(command: tuple[str, ...], target: str) -> None:
    by_option = mendflow(*command, "--server", target)
    by_variable = mendflow(*command, MENDFLOW_SERVER=target)
    for result in (by_option, *([by_variable] if target else [])):
        assert result.exit_code == 2, result.output
        assert REFUSED[target] in " ".join(result.stderr.split())


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MENDFLOW_SERVER", "")
    (list_command,) = (command for command in COMMANDS if command.name == "list")
    assert list_command.make_context("list", []).params["server"] == "127.0.0.1:50051"
