"""Models of 3D scenes in a cluster file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serve.config.checkpoints import DEMO_SCENES
from serve.config.load import ConfigErrors, load_file
from serve.config.scene_models import SceneStoreModel

HEAD = "name: x\nnode_pools: {local: {cpus: 4, memory_gb: 8}}\nmodels:\n"


def problems_of(tmp_path: Path, models: str) -> tuple[str, ...]:
    file = tmp_path / "cluster.yaml"
    file.write_text(HEAD + models)
    with pytest.raises(ConfigErrors) as refused:
        load_file(file)
    return refused.value.problems


@pytest.mark.parametrize("kind", ["splat", "nerf", "reconstruction"])
def test_a_scene_store_must_be_one(tmp_path: Path, kind: str) -> None:
    (problem,) = problems_of(tmp_path, f"  scenes: {{kind: scene_store}}\n  x: {{kind: {kind}, scenes: elsewhere}}\n")
    assert problem == "models.x.scenes: got 'elsewhere'; it must be a model of kind scene_store: scenes"


def test_gsplat_needs_a_gpu(tmp_path: Path) -> None:
    models = "  scenes: {kind: scene_store}\n  x: {kind: splat, scenes: scenes, rasteriser: gsplat}\n"
    (problem,) = problems_of(tmp_path, models)
    assert "models.x.rasteriser" in problem and "gpu_memory_gb" in problem


def test_reconstructions_that_run_at_once_need_room_each(tmp_path: Path) -> None:
    model = "{kind: reconstruction, scenes: scenes, gpu_memory_gb: 1, concurrency: 2}"
    problems = problems_of(tmp_path, f"  scenes: {{kind: scene_store}}\n  x: {model}\n")
    assert any(
        "models.x" in problem and "it must be more than 1, or concurrency less" in problem for problem in problems
    )


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"kind": "scene_store", "max_versions": 1}, "models.scenes.max_versions"),
        ({"kind": "scene_store", "preload": {"../x": "demo:table.spz"}}, "models.scenes.preload"),
        ({"kind": "scene_store", "autoscaling": {"max_replicas": 2}}, "models.scenes"),
        ({"kind": "scene_store", "folder": "x"}, "models.scenes.folder"),
    ],
)
def test_values_that_are_wrong_are_named(tmp_path: Path, model: dict[str, Any], key: str) -> None:
    assert any(key in problem for problem in problems_of(tmp_path, f"  scenes: {model!r}\n".replace("'", '"')))


def test_preloaded_scenes_are_found_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    preload = "preload: {a: ./a.ply, b: demo:table.spz}"
    file.write_text(HEAD + f"  scenes: {{kind: scene_store, {preload}}}\n")
    model = load_file(file).models["scenes"]
    assert isinstance(model, SceneStoreModel)
    assert model.preload == {"a": str(tmp_path / "a.ply"), "b": str(DEMO_SCENES / "table.spz")}
