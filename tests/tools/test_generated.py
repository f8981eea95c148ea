"""The committed code in client/mendflow/v1 is what the protos say, and EventKind is what Event says."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from mendflow.v1 import event_pb2
from tests.support.buf import run_buf

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = ROOT / "client/mendflow/v1"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return mendflow/v1, freshly generated."""
    output = tmp_path_factory.mktemp("generated")
    subprocess.run([sys.executable, str(ROOT / "tools/generate_protos.py"), "--output", str(output)], check=True)
    return output / "mendflow/v1"


def generated_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"}


def test_the_committed_code_is_fresh(fresh: Path) -> None:
    expected, committed = generated_files(fresh), generated_files(COMMITTED)
    assert sorted(committed) == sorted(expected), "make protos"
    stale = [name for name, text in expected.items() if committed[name] != text]
    assert stale == [], "make protos"


def test_only_services_have_stubs(fresh: Path) -> None:
    stubs = {name for name in generated_files(fresh) if "_grpc" in name}
    assert stubs == {
        f"{service}_service_pb2_grpc.{suffix}" for service in ("workflow", "operator") for suffix in ("py", "pyi")
    }


def test_generating_removes_the_code_of_a_removed_proto(tmp_path: Path) -> None:
    stale = tmp_path / "mendflow/v1/forgotten_pb2.py"
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    ours = stale.with_name("__init__.py")
    ours.write_text("")
    subprocess.run([sys.executable, str(ROOT / "tools/generate_protos.py"), "--output", str(tmp_path)], check=True)
    assert not stale.exists()
    assert ours.exists()


def test_event_kinds_are_the_fields_of_the_event() -> None:
    details = event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields
    kinds = dict(event_pb2.EventKind.items())
    assert kinds.pop("EVENT_KIND_UNSPECIFIED") == 0
    assert kinds == {f"EVENT_KIND_{field.name.upper()}": field.number for field in details}


def test_each_detail_has_a_message_of_its_own_named_alike() -> None:
    for field in event_pb2.Event.DESCRIPTOR.oneofs_by_name["detail"].fields:
        assert field.message_type is not None
        assert field.message_type.name == "".join(word.title() for word in field.name.split("_"))


def test_the_contract_passes_buf(tmp_path: Path) -> None:
    """Run `buf lint protos`: names, packages, and a comment on every message, field, enum and rpc."""
    done = run_buf("lint", str(ROOT / "protos"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_packaged_package_is_the_committed_one() -> None:
    """Check that the tests import the code of this checkout, not an installed copy."""
    assert Path(str(files("mendflow") / "v1")).resolve() == COMMITTED
