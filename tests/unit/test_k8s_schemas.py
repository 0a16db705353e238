"""Kubernetes, KubeRay, the Prometheus operator and Ray Serve accept what is committed, and kustomize builds it."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from tests.unit.k8s_objects import OVERLAYS, REPOSITORY, TREE, objects, serve_config, the
from tests.unit.k8s_schemas import problems

KUBERNETES = "1.34"
CRDS = REPOSITORY.parent / "shared" / "data" / "crds"
DEFINITIONS = {
    "RayService": "ray.io_rayservices.yaml",
    "PodMonitor": "monitoring.coreos.com_podmonitors.yaml",
    "PrometheusRule": "monitoring.coreos.com_prometheusrules.yaml",
}
# Of the Gateway API there is no definition beside the others: test_k8s_meaning looks at what routes refer to.
UNDEFINED = {"Gateway", "HTTPRoute", "GRPCRoute"}


def definition(kind: str) -> Path:
    path = CRDS / DEFINITIONS[kind]
    if not path.is_file():
        pytest.skip(f"{path.name} is not at {CRDS}; custom objects are checked where it lies beside the project")
    return path


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_accepts_every_object_of_its_own(overlay: str) -> None:
    for one in objects(overlay):
        if one["kind"] not in DEFINITIONS.keys() | UNDEFINED:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_of_ray_are_pods_of_kubernetes(overlay: str) -> None:
    cluster = the(overlay, "RayService", "argus")["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        template = group["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"], "spec": template["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_custom_objects_fit_their_definitions(overlay: str, kind: str) -> None:
    path = definition(kind)
    for one in objects(overlay):
        if one["kind"] == kind:
            assert problems(path, one) == []


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("maxReplica",), 3, "maxReplica"),
        (("minReplicas",), "two", "minReplicas"),
        (("template", "spec", "containers", 0, "image"), 7, "image"),
        (("template", "spec", "tolerance"), [], "tolerance"),
    ],
)
def test_a_slip_in_a_custom_object_is_found(place: tuple[Any, ...], value: Any, said: str) -> None:
    path = definition("RayService")
    slipped = copy.deepcopy(the("mixed", "RayService", "argus"))
    at = slipped["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    found = problems(path, slipped)
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_serve_accepts_its_configuration(overlay: str) -> None:
    schema = ServeDeploySchema.model_validate(serve_config(overlay))
    assert [application.import_path for application in schema.applications] == ["serve.app:from_file"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_of_a_kustomization_exists_and_every_file_is_one(overlay: str) -> None:
    for folder in (TREE / "overlays" / overlay, TREE / "base", TREE / "dashboards"):
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
        named = kustomization["resources"]
        assert all((folder / name).exists() for name in named)
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert files == {name for name in named if not name.startswith("../")}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_the_overlay(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed; the other tests read the same files")
    command = [kubectl, "kustomize", str(TREE / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == len(objects(overlay))
    cluster_wide = {"Namespace", "PriorityClass"}
    assert all(one["metadata"].get("namespace") == "argus" for one in built if one["kind"] not in cluster_wide)
