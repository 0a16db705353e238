"""`argus k8s render`: what is committed is what it makes, and what it refuses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from serve.cli.k8s import app
from serve.config.load import load_profile, parse
from serve.errors import ConfigError
from serve.kubernetes import render, serve_config
from serve.kubernetes.ray_service import ray_service
from serve.kubernetes.settings import Settings, check_pinned
from tests.unit.k8s_objects import OVERLAYS, REPOSITORY, TREE, shipped
from tests.unit.k8s_schemas import problems

CRD = REPOSITORY.parent / "shared" / "data" / "crds" / "ray.io_rayservices.yaml"
IMAGE = "registry.example.com/argus:1.0"


def settings(data: dict[str, Any], **changes: Any) -> Settings:
    return Settings(parse(data), "own", IMAGE, IMAGE, **changes)


def file(**changes: Any) -> dict[str, Any]:
    """A cluster file with one model, and what is to be different."""
    data: dict[str, Any] = {
        "name": "own",
        "node_pools": {"gpu": {"gpu": "L4", "gpus": 1, "gpu_memory_gb": 24, "cpus": 8, "memory_gb": 32}},
        "models": {"clip": {"kind": "clip", "checkpoint": "openai/clip-vit-base-patch32", "gpu_memory_gb": 4}},
    }
    return data | changes


def test_what_is_committed_is_what_is_rendered() -> None:
    made = render.texts(render.base())
    for overlay in OVERLAYS:
        made |= render.texts(render.overlay(shipped(overlay)))
    committed = {str(path.relative_to(TREE)): path.read_text(encoding="utf-8") for path in TREE.rglob("*.yaml")}
    assert committed.keys() == made.keys()
    stale = [name for name, text in made.items() if committed[name] != text]
    assert not stale, "renew them: argus k8s render"


@pytest.mark.parametrize(
    "image",
    [
        "argus",
        "argus:latest",
        "registry.example.com:5000/argus",
        "registry.example.com/argus:",
        ":1.0",
        "argus@sha256:1234",
        "@sha256:" + "a" * 64,
    ],
)
def test_an_image_that_may_change_is_refused(image: str) -> None:
    with pytest.raises(ConfigError, match="--image"):
        check_pinned(image, "--image")


@pytest.mark.parametrize("image", ["argus:1.0", "registry.example.com:5000/a/argus:v1-gpu", "argus@sha256:" + "a" * 64])
def test_a_version_or_a_digest_pins_an_image(image: str) -> None:
    check_pinned(image, "--image")


def test_an_incremental_upgrade_has_its_settings_and_leaves_routes_to_the_operator() -> None:
    chosen = dataclasses.replace(shipped("mixed"), upgrade="incremental", gateway_class="example")
    strategy = ray_service(chosen)["spec"]["upgradeStrategy"]
    options = strategy["clusterUpgradeOptions"]
    assert strategy["type"] == "NewClusterWithIncrementalUpgrade" and options["gatewayClassName"] == "example"
    # As the operator demands (KubeRay 1.7, validation.go).
    assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
    assert "overlays/mixed/gateway.yaml" not in render.overlay(chosen)
    if not CRD.is_file():
        pytest.skip(f"{CRD.name} does not lie beside the project")
    assert problems(CRD, ray_service(chosen)) == []


def test_a_redis_of_ones_own_takes_the_place_of_ours() -> None:
    made = render.overlay(dataclasses.replace(shipped("t4"), redis="rediss://redis.example.com:6380"))
    service = made["overlays/t4/rayservice.yaml"][0]["spec"]["rayClusterConfig"]
    assert service["gcsFaultToleranceOptions"]["redisAddress"] == "rediss://redis.example.com:6380"
    patches = [yaml.safe_load(one["patch"]) for one in made["overlays/t4/kustomization.yaml"][0]["patches"]]
    assert {(one["kind"], one["metadata"]["name"]) for one in patches} == {
        ("StatefulSet", "argus-redis"),
        ("Service", "argus-redis"),
    }
    (policy,) = [one for one in made["overlays/t4/network.yaml"] if one["metadata"]["name"] == "argus-ray"]
    assert [{"port": 6380, "protocol": "TCP"}] in [rule.get("ports") for rule in policy["spec"]["egress"]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"redis": "redis://user:secret@redis:6379"}, "without a password"),
        ({"overlay": "My Overlay"}, "overlay"),
        ({"load_image": "argus:latest"}, "--load-image"),
    ],
)
def test_settings_that_could_not_work_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(shipped("dev"), **changes)


def test_a_pool_that_can_name_no_worker_group_is_refused() -> None:
    data = file(node_pools={"big_gpus": file()["node_pools"]["gpu"]})
    with pytest.raises(ConfigError, match=r"node_pools.big_gpus"):
        settings(data)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"kind": "clip", "checkpoint": "/home/me/clip"}, r"models.x.checkpoint: got '/home/me/clip'"),
        ({"kind": "vector_index", "path": "/data/indexes"}, r"models.x.path: got '/data/indexes'"),
        ({"kind": "scene_store", "preload": {"a": "/home/me/a.ply"}}, r"models.x.preload.a"),
    ],
)
def test_paths_of_this_machine_are_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        render.overlay(settings(file(models={"x": model})))


def test_what_does_not_fit_is_refused() -> None:
    models = {"clip": file()["models"]["clip"] | {"gpu_memory_gb": 30}}
    with pytest.raises(ConfigError, match="GPU memory does not suffice"):
        render.overlay(settings(file(models=models)))


def test_a_gpu_without_a_known_label_needs_a_selector() -> None:
    pool = file()["node_pools"]["gpu"] | {"gpu": "MI300X"}
    with pytest.raises(ConfigError, match=r"node_pools.gpu.kubernetes.node_selector"):
        render.overlay(settings(file(node_pools={"gpu": pool})))


def test_a_pool_says_which_nodes_are_its_own() -> None:
    pool = file()["node_pools"]["gpu"] | {
        "kubernetes": {
            "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
            "tolerations": [{"key": "team", "operator": "Equal", "value": "vision"}],
            "share": 0.5,
            "priority": 7,
        }
    }
    made = render.overlay(settings(file(node_pools={"gpu": pool})))
    (group,) = made["overlays/own/rayservice.yaml"][0]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    spec = group["template"]["spec"]
    assert spec["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-l4"} and group["priority"] == 7
    toleration = {"key": "team", "operator": "Equal", "value": "vision", "effect": "NoSchedule"}
    assert spec["tolerations"] == [toleration]
    assert spec["containers"][0]["resources"]["limits"]["memory"] == "16000M"


def test_key_files_and_other_secrets_are_mounted_by_reference() -> None:
    data = file(
        providers={"gpt": {"kind": "openai", "model": "gpt-4o", "api_key_file": "/etc/argus-providers/openai"}},
        resilience={"redis": {"url": "redis://cache.example.com:6379", "password_env": "CACHE_PASSWORD"}},
        tracing={"endpoint": "http://collector:4318", "headers_env": {"authorization": "COLLECTOR"}},
    )
    made = render.overlay(settings(data))
    (group,) = made["overlays/own/rayservice.yaml"][0]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert {"CACHE_PASSWORD", "COLLECTOR"} <= {one["name"] for one in container["env"] if "valueFrom" in one}
    assert "/etc/argus-providers" in {one["mountPath"] for one in container["volumeMounts"]}
    (policy,) = [one for one in made["overlays/own/network.yaml"] if one["metadata"]["name"] == "argus-ray"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule.get("ports", [])}
    assert {443, 4318, 6379} <= ports
    wrong = data | {"providers": {"gpt": data["providers"]["gpt"] | {"api_key_file": "/home/me/key"}}}
    with pytest.raises(ConfigError, match=r"providers.gpt.api_key_file"):
        render.overlay(settings(wrong))


def test_new_keys_and_a_new_file_are_new_arguments() -> None:
    def arguments(made: Settings) -> dict[str, Any]:
        found: dict[str, Any] = serve_config.config(made)["applications"][0]["args"]
        return found

    first = settings(file())
    assert arguments(first) == arguments(settings(file()))
    rotated = arguments(dataclasses.replace(first, keys_revision="2"))
    assert rotated != arguments(first) and rotated["sha256"] == arguments(first)["sha256"]
    assert arguments(settings(file(router={"replicas": 2})))["sha256"] != arguments(first)["sha256"]


def test_a_plan_is_rendered_as_the_overlay_of_its_profile(tmp_path: Path) -> None:
    planned = load_profile("cluster", calibrations=False).model_dump(mode="json", exclude_unset=True, exclude_none=True)
    planned["node_pools"]["a100"] |= {"min_nodes": 2, "max_nodes": 3}
    for model in planned["models"].values():
        model.pop("path", None)
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(planned), encoding="utf-8")
    out = tmp_path / "k8s"
    arguments = ["render", "--profile", "cluster", "--plan", str(tmp_path), "--out", str(out), "--image", IMAGE]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    service = yaml.safe_load((out / "overlays" / "mixed" / "rayservice.yaml").read_text(encoding="utf-8"))
    groups = {one["groupName"]: one for one in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]}
    assert (groups["a100"]["minReplicas"], groups["a100"]["maxReplicas"]) == (2, 3)
    assert groups["a100"]["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert (out / "base" / "kustomization.yaml").is_file() and not (out / "overlays" / "dev").exists()


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="argus plan --out"):
        CliRunner().invoke(app, ["render", "--plan", str(tmp_path)], catch_exceptions=False)
