"""Generate client/mendflow/v1 from protos/mendflow/v1: `make protos`.

pyproject.toml pins old versions of the compiler (grpcio-tools and mypy-protobuf), because protobuf 6.31 and newer can
load the code that they write. protos/ includes google/rpc, so that every client can be generated from that folder
alone. Python uses those messages from googleapis-common-protos, so this tool does not generate them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
from importlib.resources import files
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PACKAGE = Path("mendflow/v1")


def main() -> None:
    """Write to client/, or to another folder with --output."""
    parser = argparse.ArgumentParser(description="Generate mendflow/v1 from protos/.")
    parser.add_argument("--output", type=Path, default=ROOT / "client", help="the folder that gets mendflow/v1")
    output: Path = parser.parse_args().output
    (output / PACKAGE).mkdir(parents=True, exist_ok=True)
    remove_generated(output)
    generate(output)


def remove_generated(output: Path) -> None:
    """Remove the files of an earlier run, because the code of a removed proto must not stay."""
    for pattern in ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi"):
        for path in (output / PACKAGE).glob(pattern):
            path.unlink()


def generate(output: Path) -> None:
    """Write messages and types for each proto, and stubs and servicers for each service."""
    protos = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))
    services = [proto for proto in protos if proto.endswith("_service.proto")]
    protoc(protos, f"--python_out={output}", f"--mypy_out=quiet:{output}")
    protoc(services, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}")


def protoc(protos: list[str], *outputs: str) -> None:
    """Run the pinned compiler. Exit with its status if it fails."""
    well_known = files("grpc_tools") / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{well_known}", *outputs, *protos]
    # The mypy plugins are in this interpreter's folder, which may not be on PATH.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    done = subprocess.run(command, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
