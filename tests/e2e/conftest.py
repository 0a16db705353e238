"""The main cluster: the demo with a random ViT-B/32 and a scripted model. It takes minutes to start and runs until the
end; a test has a cluster of its own where it must be another."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from demo.scenes import render, sample_scene
from tests.e2e import cluster as clusters
from tests.e2e.checkpoints import random_vit_b32


@pytest.fixture(scope="session")
def vit_b32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the exact ViT-B/32 configuration with random weights."""
    return random_vit_b32(tmp_path_factory.mktemp("vit-b32"))


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, vit_b32: Path) -> Iterator[clusters.Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    content = {
        "extends": "demo",
        "models": {
            "index": {"path": str(folder / "indexes")},
            "sessions": {"path": str(folder / "sessions")},
            "jobs": {"path": str(folder / "jobs")},
            "scenes": {"path": str(folder / "scenes")},
            "reconstruction": {"path": str(folder / "reconstructions")},
            "vit": {"kind": "clip", "checkpoint": str(vit_b32), "placement": {"num_cpus": 0.2}},
            "scripted": {
                "kind": "custom",
                "implementation": "tests.e2e.models:Scripted",
                "tasks": ["classify", "embed"],
                "placement": {"num_cpus": 0.1},
            },
        },
        "url_fetch": {"enabled": True},
        # Tests ask the same things, and want the engines' own answers.
        "resilience": {"cache": {"enabled": False}},
    }
    running = clusters.start("e2e", content, folder)
    yield running
    clusters.stop(running)


@pytest.fixture(scope="session")
def photo() -> npt.NDArray[np.uint8]:
    """A real photo, (512, 512, 3)."""
    from skimage.data import astronaut

    return np.asarray(astronaut(), np.uint8)


@pytest.fixture(scope="session")
def photo_jpeg(photo: npt.NDArray[np.uint8]) -> bytes:
    return encode(photo, "JPEG", quality=90)


@pytest.fixture(scope="session")
def scene_png() -> bytes:
    """Test scene 84: one red star."""
    scene = sample_scene(84, split="test", difficulty="easy")
    assert [(o.colour, o.shape) for o in scene.objects] == [("red", "star")]
    return encode(render(scene, 224), "PNG")


def encode(pixels: npt.NDArray[np.uint8], format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()
