"""A model that prefers one pool's nodes and may run on another's: what is refused, summed up and asked of Ray."""

from __future__ import annotations

from typing import Any

import pytest
from ray.serve.schema import RayActorOptionsSchema

from serve.app import build
from serve.config.budget import budgets, packing_notes, problems
from serve.config.cluster import ClusterFile
from serve.config.load import PROFILES, ConfigErrors, load_profile, parse
from serve.config.placement_checks import gpu_share, placement_notes
from serve.kubernetes import serve_config
from serve.kubernetes.environment import variables
from serve.kubernetes.settings import POOL_LABEL, Settings
from serve.placement import actor_options, controller_environment
from serve.preference import ACCELERATOR_LABEL
from tests.unit.k8s_objects import OVERLAYS, shipped

A100 = {"gpu": "A100", "gpus": 1, "gpu_memory_gb": 40, "cpus": 8, "memory_gb": 32}
T4 = {"gpu": "T4", "gpus": 1, "gpu_memory_gb": 16, "cpus": 8, "memory_gb": 32}
POOLS: dict[str, Any] = {"a100": A100, "t4": T4, "cpu": {"cpus": 4, "memory_gb": 8}}
IMAGE = "registry.example.com/argus:1.0"


def model(gb: float, *pools: str, replicas: int = 1, num_cpus: float = 0.5) -> dict[str, Any]:
    return {
        "kind": "custom",
        "implementation": "benchmarks.scripted:Sure",
        "tasks": ["classify"],
        "gpu_memory_gb": gb,
        "autoscaling": {"min_replicas": replicas, "max_replicas": 8},
        "placement": {"pool": pools[0], "fallback_pools": list(pools[1:]), "num_cpus": num_cpus},
    }


def cluster(models: dict[str, Any], **pools: Any) -> ClusterFile:
    return parse({"name": "own", "node_pools": POOLS | pools, "models": models})


def test_the_share_holds_on_the_smallest_card() -> None:
    found = cluster({"llava": model(8, "a100", "t4"), "clip": model(4, "a100")})
    assert gpu_share(found, "llava") == 0.5 and gpu_share(found, "clip") == 0.1
    assert gpu_share(cluster({"llava": model(8, "t4", "a100")}), "llava") == 0.5
    (note,) = placement_notes(found)
    assert "models.llava" in note and "0.5 of a GPU" in note and "20 GB on a100, 8 GB on t4" in note


def test_cards_are_told_apart_by_the_label_that_ray_gives_nodes() -> None:
    found = cluster({"llava": model(8, "a100", "t4"), "clip": model(4, "a100")})
    options = actor_options(found, "llava")
    assert options["num_gpus"] == 0.5
    assert options["label_selector"] == {ACCELERATOR_LABEL: "A100"}
    assert options["fallback_strategy"] == [{"label_selector": {ACCELERATOR_LABEL: "T4"}}]
    # It would bind the replica to one kind of GPU, whatever the labels say.
    assert "accelerator_type" not in options
    plain = actor_options(found, "clip")
    assert plain["accelerator_type"] == "A100" and "label_selector" not in plain


def test_two_pools_with_one_kind_of_gpu_are_one_to_ray() -> None:
    options = actor_options(cluster({"x": model(8, "a100", "spot")}, spot=A100), "x")
    assert options["label_selector"] == {ACCELERATOR_LABEL: "A100"} and "fallback_strategy" not in options


def test_without_a_gpu_nothing_is_asked_for() -> None:
    options = actor_options(cluster({"x": model(0, "cpu", "t4")}), "x")
    assert not options.keys() & {"num_gpus", "label_selector", "fallback_strategy", "accelerator_type"}


def test_on_kubernetes_pools_are_told_apart_by_their_own_label() -> None:
    models = {"llava": model(8, "a100", "t4"), "clip": model(4, "a100"), "index": model(0, "cpu", "t4")}
    made = serve_config.config(Settings(cluster(models), "own", IMAGE, IMAGE, local=True))
    (application,) = made["applications"]
    found = {one["name"]: one["ray_actor_options"] for one in application["deployments"]}
    assert found["llava"]["label_selector"] == {POOL_LABEL: "a100"}
    assert found["llava"]["fallback_strategy"] == [{"label_selector": {POOL_LABEL: "t4"}}]
    assert found["llava"]["num_gpus"] == 0.5 and "accelerator_type" not in found["llava"]
    assert found["clip"]["label_selector"] == {POOL_LABEL: "a100"} and found["clip"]["accelerator_type"] == "A100"
    assert found["index"]["fallback_strategy"] == [{"label_selector": {POOL_LABEL: "t4"}}]
    for options in found.values():
        RayActorOptionsSchema.model_validate(options)


def test_ray_serve_takes_the_options() -> None:
    application = build(cluster({"llava": model(8, "a100", "t4")}))
    (handle,) = application._bound_deployment.init_args[1].values()
    assert handle._bound_deployment.ray_actor_options["fallback_strategy"]


def test_replicas_are_counted_where_there_is_room() -> None:
    """Two of 16 GB fit a card of 40; with shares of a 16 GB card one takes the whole of either."""
    found = {one.pool: one.sum_line() for one in budgets(cluster({"x": model(12, "a100", "t4", replicas=2)}))}
    assert found["a100"] == "x 30 = 30 of 40 GB"
    assert found["t4"] == "x 12 = 12 of 16 GB"
    taken = cluster({"x": model(8, "a100", "t4"), "y": model(30, "a100")})
    assert problems(taken) == []
    assert {one.pool: one.sum_line() for one in budgets(taken)}["t4"] == "x 8 = 8 of 16 GB"


def test_what_fits_nowhere_is_told_of_the_preferred_pool() -> None:
    (problem,) = problems(cluster({"x": model(12, "a100", "t4", replicas=3)}))
    assert problem.startswith("node_pools.a100: GPU memory does not suffice: x 2 x 30 = 60 of 40 GB")


def test_cores_count_as_well() -> None:
    found = cluster({"x": model(4, "a100", "t4", replicas=2, num_cpus=3), "y": model(4, "a100", num_cpus=5)})
    assert problems(found) == []
    assert {one.pool: one.cpus[0] for one in budgets(found)} == {"a100": 8, "t4": 3, "cpu": 0}
    (problem,) = problems(cluster({"x": model(0, "t4", "cpu", num_cpus=6)}))
    assert problem == "models.x.placement.num_cpus: got 6; a node of pool 'cpu' has 4"


@pytest.mark.parametrize(
    ("models", "pools", "said"),
    [
        ({"x": model(8, "a100", "h100")}, {}, ["models.x.placement.fallback_pools: got 'h100'", "a100, t4, cpu"]),
        ({"x": model(8, "a100", "a100")}, {}, ["models.x.placement.fallback_pools: got 'a100' twice"]),
        ({"x": model(8, "a100", "t4", "t4")}, {}, ["models.x.placement.fallback_pools: got 't4' twice"]),
        ({"x": model(8, "a100", "cpu")}, {}, ["models.x.placement: pool 'cpu' has no GPU", "gpu_memory_gb is 8"]),
        ({"x": model(24, "a100", "t4")}, {}, ["models.x.gpu_memory_gb: got 24", "one of 't4' has 16"]),
        (
            {"x": model(8, "a100", "old")},
            {"old": {"gpus": 1, "gpu_memory_gb": 16}},
            ["node_pools.old.gpu: is missing", "models.x"],
        ),
    ],
)
def test_refused(models: dict[str, Any], pools: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        cluster(models, **pools)
    (problem,) = caught.value.problems
    assert all(part in problem for part in said), problem


def test_what_fits_only_packed_is_noted() -> None:
    """Two halves on two cards leave no three quarters; the larger one first, they do."""
    pools = {"t4": T4 | {"min_nodes": 2, "max_nodes": 2}}
    small, large = model(8, "t4", replicas=2), model(12, "t4")
    found = parse({"name": "own", "node_pools": pools, "models": {"small": small, "large": large}})
    assert problems(found) == []
    (note,) = packing_notes(found)
    assert note.startswith("node_pools.t4: small 2 x 8 + large 12 = 28 of 32 GB fits on 2 nodes only if it is packed")
    assert "no room for large" in note and "pack_nodes: true" in note
    for right in ({"models": {"large": large, "small": small}}, {"pack_nodes": True}):
        other = {"name": "own", "node_pools": pools, "models": {"small": small, "large": large}} | right
        assert list(packing_notes(parse(other))) == []


def test_what_is_shipped_fits_in_any_case() -> None:
    files = [*map(load_profile, PROFILES), *(shipped(overlay).cluster for overlay in OVERLAYS)]
    assert [note for one in files for note in packing_notes(one)] == []


def test_replicas_are_packed_where_the_file_says_so() -> None:
    found = cluster({"x": model(4, "t4")})
    assert controller_environment(found) == {}
    packed = controller_environment(found.model_copy(update={"pack_nodes": True}))
    assert packed["RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY"] == "1"
    made = variables(Settings(found.model_copy(update={"pack_nodes": True}), "own", IMAGE, IMAGE, local=True))
    assert {"name": "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY", "value": "1"} in made
