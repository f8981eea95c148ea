"""An exported module, served and called with messages by a caller that has only its .proto."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, json_format, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_tools import protoc

from mendflow.v1 import event_pb2, payload_pb2, workflow_pb2, workflow_service_pb2_grpc
from mendflow.v1 import workflow_service_pb2 as ws
from tests.support.command_line import as_text, run_command
from tests.support.servers import ServerProcess, serving_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "mendflow.cli"]
MODULE = '''
"""A shop."""
import datetime as dt
import enum
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from mendflow import sleep, step, wait_signal, workflow


class Speed(enum.Enum):
    SLOW = "slow"
    FAST = "fast"


@dataclass
class Item:
    """One thing."""

    sku: str
    cents: int


@dataclass
class Order:
    """A customer's order."""

    id: str
    items: list[Item]
    speed: Speed = Speed.SLOW
    within: dt.timedelta = dt.timedelta(hours=1)


@dataclass
class Receipt:
    order_id: str
    total: int
    received: str


@dataclass
class Approval:
    by: str
    ok: bool = False


@step
async def add(cents: list[int]) -> int:
    return sum(cents)


@workflow(signals={"approve": Approval, "note": str})
async def checkout(order: Order) -> Receipt:
    """Check out."""
    total = await add([item.cents for item in order.items])
    if order.speed is Speed.FAST:
        approval = await wait_signal("approve", Approval)
        note = await wait_signal("note")
        return Receipt(order.id, total, f"{approval!r} {note!r}")
    return Receipt(order.id, total, repr(order))


@workflow
async def ping() -> None:
    """Nothing."""


@workflow
async def big(power: int) -> int:
    return 2**power


@workflow
async def moment(when: Timestamp) -> Receipt:
    """Use the author's own protobuf type."""
    return Receipt("moment", when.seconds, "")
'''


@dataclass
class Caller:
    """A caller in another language, with the generated code of the contract and of the exported .proto."""

    server: ServerProcess
    pool: descriptor_pool.DescriptorPool
    channel: grpc.Channel

    @property
    def stub(self) -> Any:
        return workflow_service_pb2_grpc.WorkflowServiceStub(self.channel)

    def message(self, name: str, **fields: Any) -> Any:
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName(f"shop.v1.{name}"))(**fields)

    def start(self, workflow_type: str, message: Any, workflow_id: str, *, wait: int = 20) -> Any:
        request = ws.StartWorkflowRequest(
            workflow_type=workflow_type, workflow_id=workflow_id, wait=duration_pb2.Duration(seconds=wait)
        )
        request.input.message.Pack(message)
        return self.stub.StartWorkflow(request, wait_for_ready=True).workflow

    def signal(self, workflow_id: str, name: str, message: Any) -> None:
        request = ws.SignalWorkflowRequest(workflow_id=workflow_id, name=name)
        request.data.message.Pack(message)
        self.stub.SignalWorkflow(request, wait_for_ready=True)

    def unpack(self, payload: payload_pb2.Payload) -> Any:
        name = payload.message.TypeName()
        made = message_factory.GetMessageClass(self.pool.FindMessageTypeByName(name))()
        assert payload.message.Unpack(made)
        return made


def command(folder: Path, *arguments: str, server: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder, piped."""
    return as_text(run_command(arguments, {"MENDFLOW_SERVER": server}, directory=folder))


def export(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return command(folder, "export-protos", "shop", "--out", "protos", *options)


def compiled(folder: Path) -> descriptor_pool.DescriptorPool:
    """Return what protoc makes of the exported file, like any other language's compiler."""
    result = folder / "set.bin"
    known = files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"-I{folder / 'protos'}",
        f"-I{known}",
        "--include_imports",
        f"--descriptor_set_out={result}",
    ]
    assert protoc.main([*arguments, str(folder / "protos/shop/v1/shop.proto")]) == 0
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(result.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(MODULE)
    done = export(folder)
    assert done.returncode == 0, done.stderr
    with (
        serving_process(folder, modules=("shop",)) as server,
        grpc.insecure_channel(server.grpc_address) as channel,
    ):
        yield Caller(server, compiled(folder), channel)


def order(caller: Caller, name: str, **fields: Any) -> Any:
    return caller.message("CheckoutInput", id=name, items=[{"sku": "lamp", "cents": 4900}], **fields)


def text_of(name: str) -> str:
    return json.dumps({"id": name, "items": [{"sku": "lamp", "cents": 4900}]})


def refused(work: Any) -> tuple[str, dict[str, Any]]:
    """Return the code's name, and the details by their short names."""
    with pytest.raises(grpc.RpcError) as caught:
        work()
    error: Any = caught.value
    packed = dict(error.trailing_metadata())["grpc-status-details-bin"]
    found: dict[str, Any] = {}
    for detail in status_pb2.Status.FromString(packed).details:
        made = getattr(error_details_pb2, detail.TypeName().rpartition(".")[2])()
        assert detail.Unpack(made)
        found[type(made).__name__] = made
    return error.code().name, found


def test_a_message_in_is_a_message_out_and_the_same_value_as_json(shop: Caller) -> None:
    workflow = shop.start("checkout", order(shop, "o-1"), "in-kind")
    assert workflow.state == workflow_pb2.WORKFLOW_STATE_SUCCEEDED, workflow
    receipt = shop.unpack(workflow.output)
    request = ws.StartWorkflowRequest(
        workflow_type="checkout",
        workflow_id="in-json",
        input=payload_pb2.Payload(json=text_of("o-1")),
        wait=duration_pb2.Duration(seconds=20),
    )
    other = json.loads(shop.stub.StartWorkflow(request).workflow.output.json)
    # The receipt contains the whole value that the workflow received.
    assert (receipt.order_id, receipt.total, receipt.received) == (other["order_id"], other["total"], other["received"])
    assert "timedelta(seconds=3600)" in receipt.received


def test_get_and_watch_show_the_input_as_it_was_sent(shop: Caller) -> None:
    sent = order(shop, "o-2")
    shop.start("checkout", sent, "kinds")
    got = shop.stub.GetWorkflow(ws.GetWorkflowRequest(workflow_id="kinds")).workflow
    frames = shop.stub.WatchWorkflow(ws.WatchWorkflowRequest(workflow_id="kinds"))
    events = [event for frame in frames for event in frame.events]
    packed = any_pb2.Any()
    packed.Pack(sent)
    assert got.input.message == events[0].workflow_started.input.message == packed
    assert got.output == events[-1].workflow_succeeded.output
    assert shop.unpack(got.output).order_id == "o-2"


def test_a_repeated_start_compares_type_and_bytes(shop: Caller) -> None:
    first = shop.start("checkout", order(shop, "o-3"), "again")
    assert shop.start("checkout", order(shop, "o-3"), "again").uid == first.uid
    for other in (order(shop, "o-3", speed=1), order(shop, "other")):
        code, details = refused(lambda other=other: shop.start("checkout", other, "again"))
        assert (code, dict(details["ErrorInfo"].metadata)) == ("ALREADY_EXISTS", {"differs": "input"})
    request = ws.StartWorkflowRequest(
        workflow_type="checkout", workflow_id="again", input=payload_pb2.Payload(json=text_of("o-3"))
    )
    assert refused(lambda: shop.stub.StartWorkflow(request))[0] == "ALREADY_EXISTS"


def test_signals_are_taken_as_messages_and_replayed_after_a_kill(shop: Caller) -> None:
    shop.start("checkout", order(shop, "o-4", speed=2), "signalled", wait=0)
    shop.signal("signalled", "approve", shop.message("CheckoutApproveSignal", by="me"))
    shop.server.kill()
    shop.server.start()
    # Without a type, the wait returns the same value as for JSON.
    shop.signal("signalled", "note", shop.message("CheckoutNoteSignal", value="fine"))
    got = shop.stub.GetWorkflow(
        ws.GetWorkflowRequest(workflow_id="signalled", wait=duration_pb2.Duration(seconds=20)), wait_for_ready=True
    ).workflow
    receipt = shop.unpack(got.output)
    assert (receipt.total, receipt.received) == (4900, "Approval(by='me', ok=False) 'fine'")


def test_an_open_workflow_is_paused_without_its_lock_and_resumes_with_it(shop: Caller) -> None:
    shop.start("checkout", order(shop, "o-10", speed=2), "lockless", wait=0)
    path = shop.server.directory / "shop.protos.lock.json"
    kept = path.read_bytes()
    shop.server.kill()
    path.unlink()
    try:
        shop.server.start()
        # It may have reached its wait before the kill. Any other signal makes the server replay it.
        request = ws.SignalWorkflowRequest(workflow_id="lockless", name="nudge", allow_undeclared=True)
        shop.stub.SignalWorkflow(request, wait_for_ready=True)
        workflow = wait_for(shop, "lockless", workflow_pb2.WORKFLOW_STATE_PAUSED)
        assert workflow.explanation.endswith("to export them, run `mendflow export-protos shop --out protos`")
        code, details = refused(lambda: shop.start("checkout", order(shop, "o-11"), "refused"))
        assert (code, details["ErrorInfo"].reason) == ("FAILED_PRECONDITION", "MESSAGES_NOT_EXPORTED")
        code, _ = refused(lambda: shop.signal("lockless", "note", shop.message("CheckoutNoteSignal", value="x")))
        assert code == "FAILED_PRECONDITION"
    finally:
        path.write_bytes(kept)
        shop.server.kill()
        shop.server.start()
    shop.signal("lockless", "approve", shop.message("CheckoutApproveSignal", by="me", ok=True))
    shop.signal("lockless", "note", shop.message("CheckoutNoteSignal", value="back"))
    workflow = wait_for(shop, "lockless", workflow_pb2.WORKFLOW_STATE_SUCCEEDED)
    assert shop.unpack(workflow.output).received == "Approval(by='me', ok=True) 'back'"


def wait_for(shop: Caller, workflow_id: str, state: workflow_pb2.WorkflowState.ValueType) -> Any:
    limit = time.monotonic() + 20
    while True:
        request = ws.GetWorkflowRequest(workflow_id=workflow_id)
        workflow = shop.stub.GetWorkflow(request, wait_for_ready=True).workflow
        if workflow.state == state:
            return workflow
        assert time.monotonic() < limit, workflow
        time.sleep(0.02)


def test_a_batch_takes_both_kinds_and_refuses_each_alone(shop: Caller) -> None:
    requests = [ws.StartWorkflowRequest(workflow_type="checkout") for _ in range(4)]
    requests[0].input.message.Pack(order(shop, "o-5"))
    requests[1].input.json = text_of("o-5")
    requests[2].input.message.Pack(shop.message("PingInput"))
    requests[3].input.message.Pack(shop.message("CheckoutInput", items=[{"sku": "x"}]))
    outcomes = shop.stub.BatchStartWorkflows(ws.BatchStartWorkflowsRequest(requests=requests)).outcomes
    assert [outcome.WhichOneof("outcome") for outcome in outcomes] == ["response", "response", "error", "error"]
    assert "must be JSON or the message shop.v1.CheckoutInput" in outcomes[2].error.message
    assert "input.id: Field required" in outcomes[3].error.message
    assert "input.items[0].cents: Field required" in outcomes[3].error.message


def test_a_message_that_does_not_fit_names_its_fields(shop: Caller) -> None:
    code, details = refused(lambda: shop.start("checkout", order(shop, "o", speed=7), "bad"))
    assert (code, details["ErrorInfo"].reason) == ("INVALID_ARGUMENT", "INPUT_MISMATCH")
    (violation,) = details["BadRequest"].field_violations
    assert (violation.field, violation.description) == ("input.speed", "7 is not a value of Speed")
    shop.start("checkout", order(shop, "o-6", speed=2), "bad-signal", wait=0)
    code, details = refused(
        lambda: shop.signal("bad-signal", "approve", shop.message("CheckoutApproveSignal", ok=True))
    )
    assert (code, details["BadRequest"].field_violations[0].field) == ("INVALID_ARGUMENT", "data.by")
    code, details = refused(lambda: shop.start("ping", order(shop, "o"), "bad-nothing"))
    assert (code, details["BadRequest"].field_violations[0].field) == ("INVALID_ARGUMENT", "input")


def test_no_input_and_no_output_are_messages_too(shop: Caller) -> None:
    workflow = shop.start("ping", shop.message("PingInput"), "nothing")
    assert shop.unpack(workflow.output).DESCRIPTOR.full_name == "shop.v1.PingOutput"


def test_a_result_that_its_message_cannot_hold_is_returned_as_json(shop: Caller) -> None:
    assert shop.unpack(shop.start("big", shop.message("BigInput", value=10), "small").output).value == 1024
    assert shop.start("big", shop.message("BigInput", value=70), "large").output.json == str(2**70)


def test_a_workflow_of_an_authors_protobuf_type_answers_with_an_exported_message(shop: Caller) -> None:
    request = ws.StartWorkflowRequest(
        workflow_type="moment", workflow_id="moment", wait=duration_pb2.Duration(seconds=20)
    )
    request.input.message.type_url = "type.googleapis.com/google.protobuf.Timestamp"
    request.input.message.value = b"\x08\x07"
    assert shop.unpack(shop.stub.StartWorkflow(request).workflow.output).total == 7


def test_types_and_reflection_describe_the_messages(shop: Caller) -> None:
    types = {each.name: each for each in shop.stub.ListWorkflowTypes(ws.ListWorkflowTypesRequest()).workflow_types}
    checkout = types["checkout"]
    assert json.loads(checkout.input.json_schema)["title"] == "Order"
    names = [checkout.input, checkout.output, checkout.signals["approve"], types["ping"].input, types["moment"].output]
    assert [each.exported_message_name for each in names] == [
        "shop.v1.CheckoutInput",
        "shop.v1.CheckoutOutput",
        "shop.v1.CheckoutApproveSignal",
        "shop.v1.PingInput",
        "shop.v1.MomentOutput",
    ]
    assert (types["moment"].input.message_name, types["moment"].input.exported_message_name) == (
        "google.protobuf.Timestamp",
        "",
    )
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(shop.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="shop.v1.CheckoutInput"),
        reflection_pb2.ServerReflectionRequest(file_by_filename="shop/v1/shop.proto"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="mendflow.v1.WorkflowService"),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="shop.v1.CheckoutInput"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="shop.v1.Unknown"),
    ]
    replies = list(stub.ServerReflectionInfo(iter(asked)))
    files = [
        {
            descriptor_pb2.FileDescriptorProto.FromString(each).name
            for each in reply.file_descriptor_response.file_descriptor_proto
        }
        for reply in replies
    ]
    assert files[0] == files[1] == {"shop/v1/shop.proto", "google/protobuf/duration.proto"}
    assert "mendflow/v1/workflow_service.proto" in files[2]
    assert replies[3].all_extension_numbers_response.base_type_name == "shop.v1.CheckoutInput"
    assert replies[4].error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_the_command_line_shows_messages(shop: Caller, tmp_path: Path) -> None:
    """Run in a folder without the module: the server describes the messages."""
    shop.start("checkout", order(shop, "o-7", speed=1), "shown")
    address = shop.server.grpc_address
    shown = command(tmp_path, "show", "shown", server=address).stdout
    url = "type.googleapis.com/shop.v1.CheckoutInput"
    text = f'{{"@type": "{url}", "id": "o-7", "items": [{{"sku": "lamp", "cents": "4900"}}], "speed": "SPEED_SLOW"}}'
    assert f"  input      {text[:120]}" in shown
    watched = command(tmp_path, "watch", "shown", server=address).stdout.splitlines()
    assert watched[0].endswith(f"{text[:120]}… ({len(text)} characters)")
    lines = command(tmp_path, "show", "shown", "--json", server=address).stdout.splitlines()
    found = json.loads(lines[0])["workflow"]
    assert found["input"]["message"] == json.loads(text)
    assert found["output"]["message"]["order_id"] == "o-7"
    # A reader with the types can parse the rpc's own message.
    known: Any = _Both(shop.pool)
    for line in lines[1:]:
        json_format.Parse(line, event_pb2.Event(), descriptor_pool=known)
    types = command(tmp_path, "types", "checkout", server=address).stdout
    assert ", or the message shop.v1.CheckoutOutput" in types


class _Both:
    def __init__(self, pool: descriptor_pool.DescriptorPool) -> None:
        self._pool = pool

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802 - as a DescriptorPool has it
        try:
            return self._pool.FindMessageTypeByName(name)
        except KeyError:
            return descriptor_pool.Default().FindMessageTypeByName(name)


def test_the_command_line_shows_an_unknown_message_as_bytes(shop: Caller, tmp_path: Path) -> None:
    shop.start("checkout", order(shop, "o-8", speed=2), "unknown", wait=0)
    # The data of an undeclared signal is not checked.
    request = ws.SignalWorkflowRequest(workflow_id="unknown", name="other", allow_undeclared=True)
    request.data.message.type_url, request.data.message.value = "type.googleapis.com/a.B", b"\x08\x07"
    shop.stub.SignalWorkflow(request)
    address = shop.server.grpc_address
    shown = command(tmp_path, "show", "unknown", "--events", server=address).stdout
    assert 'signal other received with {"@type": "type.googleapis.com/a.B", "value": "CAc="}' in shown
    lines = command(tmp_path, "show", "unknown", "--json", server=address).stdout.splitlines()
    (received,) = [json.loads(line)["signal_received"] for line in lines if "signal_received" in line]
    assert received["data"]["message"] == {"@type": "type.googleapis.com/a.B", "value": "CAc="}


def test_a_python_client_reads_what_was_started_with_a_message(shop: Caller) -> None:
    """Decode the value's type by the decorated function, because the lock is next to the module."""
    shop.start("checkout", order(shop, "o-9"), "python")
    program = (
        "import shop\nfrom mendflow import SyncClient\n"
        f"with SyncClient('{shop.server.grpc_address}') as client:\n"
        "    print(client.handle('python', result_type=shop.checkout).result())\n"
        "    print(type(client.handle('python').result()).__name__)\n"
    )
    paths = [str(shop.server.directory), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("Receipt(order_id='o-9', total=4900,"), done.stderr
    assert done.stdout.endswith("\nPayload\n")
