"""`mendflow export-protos`: what it writes, keeps and refuses, and how the server treats an outdated lock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.buf import run_buf
from tests.support.command_line import as_text, run_command
from tests.support.servers import ROOT, ServerProcess

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = [sys.executable, "-m", "mendflow.cli"]
BEGIN = "from dataclasses import dataclass\nfrom typing import Any\nfrom mendflow import workflow\n"
ORDER = "@dataclass\nclass Order:\n    id: str\n    cents: int\n"
CHECKOUT = "@workflow\nasync def checkout(order: Order) -> str: ...\n"
ODD = "@workflow\nasync def odd(value: dict[str, Any]) -> list[int | str]: ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, ORDER + CHECKOUT)
    return tmp_path


def write(folder: Path, text: str, name: str = "shop.py") -> None:
    (folder / name).write_text(BEGIN + text)


def export(folder: Path, *arguments: str, modules: tuple[str, ...] = ("shop",)) -> subprocess.CompletedProcess[str]:
    return as_text(run_command(["export-protos", *modules, "--out", "protos", *arguments], {}, directory=folder))


def proto(folder: Path) -> str:
    return (folder / "protos/shop/v1/shop.proto").read_text()


def fields(folder: Path, message: str) -> dict[str, int]:
    lock = json.loads((folder / "shop.protos.lock.json").read_text())
    return {name: field["number"] for name, field in lock["messages"][message]["fields"].items()}


def test_the_first_export_writes_a_proto_and_a_lock_and_the_second_nothing(folder: Path) -> None:
    first = export(folder)
    assert first.returncode == 0, first.stderr
    assert "shop: CheckoutInput: added" in first.stdout
    assert "message CheckoutInput {\n  optional string id = 1;\n  optional int64 cents = 2;\n}" in proto(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.*o*") if path.is_file()}
    second = export(folder)
    assert second.stdout.splitlines() == [
        "protos/shop/v1/shop.proto unchanged",
        f"{folder / 'shop.protos.lock.json'} unchanged",
    ]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_check_reports_and_writes_nothing(folder: Path) -> None:
    assert export(folder, "--check").returncode == 1
    assert not (folder / "protos").exists()
    assert not (folder / "shop.protos.lock.json").exists()
    export(folder)
    assert export(folder, "--check").returncode == 0
    write(folder, ORDER + "    note: str = ''\n" + CHECKOUT)
    checked = export(folder, "--check")
    assert (checked.returncode, "shop: CheckoutInput.note: string = 3" in checked.stdout) == (1, True)


def test_added_and_removed_fields_keep_their_numbers(folder: Path) -> None:
    export(folder)
    write(folder, "@dataclass\nclass Order:\n    note: str\n    id: str\n" + CHECKOUT)
    assert export(folder).returncode == 0
    assert fields(folder, "CheckoutInput") == {"id": 1, "note": 3}
    assert "  reserved 2;\n" in proto(folder)
    assert '  reserved "cents";\n' in proto(folder)


def test_a_type_change_is_refused_unless_it_is_allowed_explicitly(folder: Path) -> None:
    export(folder)
    before = proto(folder)
    write(folder, ORDER.replace("int", "float") + CHECKOUT)
    refused = export(folder)
    assert refused.returncode == 1
    assert "shop: CheckoutInput.cents was int64 (field 2) and is now double" in refused.stderr
    assert "--allow-type-changes" in refused.stderr
    assert proto(folder) == before
    assert export(folder, "--allow-type-changes").returncode == 0
    assert fields(folder, "CheckoutInput") == {"id": 1, "cents": 3}


def test_a_type_without_a_message_is_refused_and_can_be_left_out(folder: Path) -> None:
    write(folder, ORDER + CHECKOUT + ODD)
    refused = export(folder)
    assert refused.returncode == 1
    lines = refused.stderr.splitlines()
    assert lines[0].startswith("error: shop: odd input: dict[str, typing.Any][]: Any has no message type")
    assert lines[1].startswith("error: shop: odd output: list[int | str][]: a union of several types")
    assert "--skip" in lines[2]
    assert not (folder / "shop.protos.lock.json").exists()
    assert export(folder, "--skip", "odd").returncode == 0
    assert "Odd" not in proto(folder)


def test_a_package_is_kept_and_the_go_prefix_too(folder: Path) -> None:
    export(folder, "--go-prefix", "example.com/gen")
    assert 'option go_package = "example.com/gen/shop/v1;shopv1";' in proto(folder)
    export(folder)
    assert 'option go_package = "example.com/gen/shop/v1;shopv1";' in proto(folder)


def test_a_module_that_only_names_workflows_exports_where_they_are_written(folder: Path) -> None:
    write(folder, "from shop import checkout\n", "all_of_them.py")
    done = export(folder, modules=("all_of_them",))
    assert done.returncode == 0, done.stderr
    assert (folder / "shop.protos.lock.json").exists()
    assert not (folder / "all_of_them.protos.lock.json").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\n", "no function decorated with @workflow"),
        ("1 / 0\n", "cannot be imported: ZeroDivisionError"),
        (
            f"import made\n{ORDER}checkout = made.make(Order)\n",
            "defined in module 'made' but is not one of its global names",
        ),
    ],
)
def test_an_export_that_fails_reports_why(tmp_path: Path, text: str, words: str) -> None:
    made = "def make(kind):\n    async def checkout(order: str) -> str: ...\n    return workflow(checkout)\n"
    write(tmp_path, made, "made.py")
    write(tmp_path, text)
    done = export(tmp_path)
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_a_lock_that_cannot_be_read_is_left_alone(folder: Path) -> None:
    (folder / "shop.protos.lock.json").write_text("<<<<<<< HEAD")
    done = export(folder)
    assert done.returncode == 1
    assert "is not a valid lock file of `mendflow export-protos`" in done.stderr
    assert (folder / "shop.protos.lock.json").read_text() == "<<<<<<< HEAD"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (ORDER + "    note: str = ''\n" + CHECKOUT, "CheckoutInput.note: string = 3"),
        (ORDER.replace("int", "float") + CHECKOUT, "CheckoutInput.cents: was int64 (field 2) and is now double"),
        (ORDER.replace("int", "Any") + CHECKOUT, "checkout input: Order.cents: Any has no message type"),
        ("@workflow\nasync def other() -> str: ...\n", "workflow checkout: removed"),
    ],
)
def test_a_lock_behind_the_code_keeps_the_server_from_starting(folder: Path, change: str, words: str) -> None:
    export(folder)
    write(folder, change)
    server = ServerProcess(folder, modules=("shop",), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    server.start(wait=False)
    assert server.wait_died() == 1
    log = (folder / "server.log").read_text()
    assert words in log
    assert "is out of date" in log
    assert "run mendflow export-protos shop --out protos" in log


def test_a_workflow_that_is_not_exported_does_not_keep_the_server_from_starting(folder: Path) -> None:
    export(folder)
    write(folder, ORDER + CHECKOUT + "@workflow\nasync def other(value: Any) -> str: ...\n")
    server = ServerProcess(folder, modules=("shop",), environment={"PYTHONDONTWRITEBYTECODE": "1"})
    server.start()
    assert server.terminate() == 0


def test_the_examples_are_exported_as_they_are() -> None:
    done = subprocess.run(
        [*COMMAND, "export-protos", "examples.campaign", "examples.order", "--out", "examples/protos", "--check"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), "mendflow export-protos, as above without --check"


def test_an_exported_file_passes_buf(tmp_path: Path) -> None:
    """Check names and packages by the default rules of `buf lint`."""
    shutil.copytree(ROOT / "examples/protos", tmp_path / "protos")
    (tmp_path / "protos/buf.yaml").write_text("version: v2\n")
    done = run_buf("lint", str(tmp_path / "protos"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_two_modules_do_not_overwrite_each_others_file(folder: Path) -> None:
    for module, name in (("orders", "first"), ("_orders", "second")):
        text = f"from mendflow import workflow\n@workflow\nasync def {name}(a: int) -> None: ...\n"
        (folder / f"{module}.py").write_text(text, "utf-8")
    assert export(folder, modules=("orders",)).returncode == 0
    written = (folder / "protos/orders/v1/orders.proto").read_text("utf-8")
    for modules in (("_orders",), ("orders", "_orders")):
        refused = export(folder, modules=modules)
        assert refused.returncode == 1
        assert "orders.proto belongs to module orders" in refused.stderr
    assert (folder / "protos/orders/v1/orders.proto").read_text("utf-8") == written
