"""k8s/, parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "k8s"


def documents() -> list[dict[str, Any]]:
    """Return what `kubectl apply -f k8s/` applies, in its order."""
    return [document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def the(kind: str) -> dict[str, Any]:
    """Return the only document of a kind."""
    (found,) = [document for document in documents() if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    """Return the Deployment's pod."""
    spec: dict[str, Any] = the("Deployment")["spec"]["template"]["spec"]
    return spec


def server() -> dict[str, Any]:
    """Return the pod's only container."""
    (container,) = pod()["containers"]
    found: dict[str, Any] = container
    return found


def probes() -> dict[str, dict[str, Any]]:
    """Return the grpc part of each probe, by the probe's name."""
    return {name: server()[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}


def probed_services() -> set[str]:
    """Return the names that the probes ask grpc.health.v1 for."""
    return {probe["service"] for probe in probes().values()}
