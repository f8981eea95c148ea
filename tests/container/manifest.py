"""k8s/, parsed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "k8s"


def documents() -> list[dict[str, Any]]:
    """What `kubectl apply -f k8s/` applies, in its order."""
    return [document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text())]


def the(kind: str) -> dict[str, Any]:
    """The one document of a kind."""
    (found,) = [document for document in documents() if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    """The Deployment's pod."""
    spec: dict[str, Any] = the("Deployment")["spec"]["template"]["spec"]
    return spec


def server() -> dict[str, Any]:
    """Its one container."""
    (container,) = pod()["containers"]
    found: dict[str, Any] = container
    return found


def probes() -> dict[str, dict[str, Any]]:
    """The grpc part of each probe, by the probe's name."""
    return {name: server()[name]["grpc"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}


def probed_services() -> set[str]:
    """The names that grpc.health.v1 is asked for."""
    return {probe["service"] for probe in probes().values()}
