"""Generates client/mendflow/v1 from protos/mendflow/v1: `make protos`.

The compiler is pinned in pyproject.toml (grpcio-tools and mypy-protobuf), and old on purpose: what it writes is loaded
by protobuf 6.31 and newer. google/rpc lies in protos/ so that any client can be generated from that folder alone;
Python takes those messages from googleapis-common-protos, so nothing is generated for them here.
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
    """Generate into client/, or into another folder with --output."""
    parser = argparse.ArgumentParser(description="Generate mendflow/v1 from protos/.")
    parser.add_argument("--output", type=Path, default=ROOT / "client", help="the folder that gets mendflow/v1")
    output: Path = parser.parse_args().output
    (output / PACKAGE).mkdir(parents=True, exist_ok=True)
    remove_generated(output)
    generate(output)


def remove_generated(output: Path) -> None:
    """Take away what an earlier run wrote, or the code of a removed proto would live on."""
    for pattern in ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi"):
        for path in (output / PACKAGE).glob(pattern):
            path.unlink()


def generate(output: Path) -> None:
    """Write messages and types for each proto, stubs and servicers for the services only."""
    protos = sorted(path.relative_to(PROTOS).as_posix() for path in (PROTOS / PACKAGE).glob("*.proto"))
    services = [proto for proto in protos if proto.endswith("_service.proto")]
    protoc(protos, f"--python_out={output}", f"--mypy_out=quiet:{output}")
    protoc(services, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}")


def protoc(protos: list[str], *outputs: str) -> None:
    """Run the pinned compiler; exit with its status if it refuses."""
    well_known = files("grpc_tools") / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{well_known}", *outputs, *protos]
    # The mypy plugins stand beside this interpreter, which need not be on PATH.
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    done = subprocess.run(command, env={**os.environ, "PATH": path}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
