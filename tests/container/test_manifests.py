"""`kubectl apply -f k8s/` is accepted, and what it says fits the image."""

from __future__ import annotations

import copy
import re
from typing import Any

import kubernetes_validate
import pytest

from mendflow_server.health.servicer import LIVENESS
from mendflow_server.settings import Settings
from tests.container import manifest

ROOT = manifest.FOLDER.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
# Every supported release, and the one before.
KUBERNETES = ["1.31", "1.33", kubernetes_validate.latest_version()]


def name_of(document: dict[str, Any]) -> str:
    return str(document["kind"])


@pytest.mark.parametrize("release", KUBERNETES)
@pytest.mark.parametrize("document", manifest.documents(), ids=name_of)
def test_each_object_is_valid(document: dict[str, Any], release: str) -> None:
    kubernetes_validate.validate(document, release, strict=True)


def test_the_validator_refuses_a_wrong_object() -> None:
    broken = copy.deepcopy(manifest.the("Deployment"))
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["grpc"]["port"] = "grpc"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_the_objects_belong_together() -> None:
    deployment, service = manifest.the("Deployment")["spec"], manifest.the("Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert service["selector"].items() <= labels.items()
    claims = [volume.get("persistentVolumeClaim") for volume in manifest.pod()["volumes"]]
    assert {"claimName": manifest.the("PersistentVolumeClaim")["metadata"]["name"]} in claims
    mounted = {mount["name"] for mount in manifest.server()["volumeMounts"]}
    assert mounted == {volume["name"] for volume in manifest.pod()["volumes"]}


def test_the_ports_are_the_images() -> None:
    exposed = {int(port) for port in re.findall(r"^EXPOSE (.*)$", DOCKERFILE, re.MULTILINE)[0].split()}
    ports = {port["name"]: port["containerPort"] for port in manifest.server()["ports"]}
    assert set(ports.values()) == exposed
    assert {port["targetPort"]: port["port"] for port in manifest.the("Service")["spec"]["ports"]} == ports
    assert {probe["port"] for probe in manifest.probes().values()} == {ports["grpc"]}


def test_the_user_and_the_volume_are_the_images() -> None:
    user, group = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    context = manifest.pod()["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (int(user), int(group), int(group))
    volume = re.findall(r"^VOLUME (\S+)$", DOCKERFILE, re.MULTILINE)[0]
    assert volume in {mount["mountPath"] for mount in manifest.server()["volumeMounts"]}


def test_readiness_probes_the_server_and_liveness_only_the_process() -> None:
    services = {name: probe["service"] for name, probe in manifest.probes().items()}
    assert services == {"readinessProbe": "", "livenessProbe": LIVENESS, "startupProbe": LIVENESS}


def test_one_writer_at_a_time() -> None:
    spec = manifest.the("Deployment")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_grace_period_is_longer_than_the_drain() -> None:
    assert manifest.pod()["terminationGracePeriodSeconds"] > Settings.model_fields["drain_timeout"].default


def test_the_pod_runs_with_no_more_rights_than_it_needs() -> None:
    assert manifest.pod()["securityContext"]["runAsNonRoot"] is True
    assert manifest.server()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
