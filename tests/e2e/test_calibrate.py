"""`argus calibrate` against a running cluster: what it measures over HTTP is what the model says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.calibration_scenes import mixture, write
from tests.e2e.cluster import Cluster

# Slow: labels hundreds of scenes with two models; what is computed from them is in tests/unit/test_calibration*.py.
pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SCENES = 120


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write(folder, mixture("val", SCENES), "colour")
    return folder


def calibrate(cluster: Cluster, scenes: Path, out: Path, *options: str) -> dict[str, Any]:
    """The screen step of the file that a run writes."""
    ran = cluster.argus(
        "calibrate", "moderation", "--profile", "demo", "--data", str(scenes), "--out", str(out), "--target", "0.8",
        *options,
    )  # fmt: skip
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    step: dict[str, Any] = json.loads(out.read_text())["steps"]["screen"]
    return step


def test_a_cluster_is_calibrated_as_its_model_is(cluster: Cluster, scenes: Path, tmp_path: Path) -> None:
    served = calibrate(cluster, scenes, tmp_path / "served.json", "--url", cluster.http)
    alone = calibrate(cluster, scenes, tmp_path / "alone.json", "--offline")
    assert 0 < served["threshold"] < 1
    for key in ("threshold", "temperature"):
        assert served[key] == pytest.approx(alone[key], abs=1e-3)
    assert served["samples"] == alone["samples"] == SCENES


def test_the_larger_models_answers_can_be_the_reference(cluster: Cluster, scenes: Path, tmp_path: Path) -> None:
    unlabelled = tmp_path / "data.jsonl"
    images = (str(scenes / f"{number:05d}.png") for number in range(SCENES))
    unlabelled.write_text("".join(json.dumps({"image": image}) + "\n" for image in images))
    step = calibrate(cluster, unlabelled, tmp_path / "model.json", "--url", cluster.http, "--reference", "model")
    assert 0 < step["threshold"] < 1
    assert step["target"] == 0.8
