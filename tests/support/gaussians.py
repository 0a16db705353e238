"""Scenes of Gaussians with known content for tests of files, edits and meshes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial import cKDTree

from deployments.splat.gaussians import SH_C0, Gaussians
from deployments.splat.motion import Motion

# Scenes of others, beside the checkout.
_SPLATS = Path(__file__).resolve().parents[3] / "shared" / "data" / "splats"

Vector = tuple[float, float, float]


def real_file(name: str) -> bytes:
    """A scene file of the test data; skips the test where it is not there."""
    path = _SPLATS / name
    if not path.exists():
        pytest.skip(f"the test data {path.name} is not on this machine")
    return path.read_bytes()


def random_scene(count: int = 200, sh_degree: int = 3, seed: int = 1, motion: Motion | None = None) -> Gaussians:
    """Any Gaussians within 1 of the origin, about 0.05 in size; colours are within 0 to 1 as seen from anywhere."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    sh = rng.normal(0, 0.05, (count, (sh_degree + 1) ** 2, 3))
    sh[:, 0] = (rng.uniform(0.2, 0.8, (count, 3)) - 0.5) / SH_C0
    return Gaussians(
        rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        quats.astype(np.float32),
        rng.uniform(0.02, 0.1, (count, 3)).astype(np.float32),
        rng.uniform(0.1, 0.95, count).astype(np.float32),
        sh.astype(np.float32),
        motion,
    )


def moving_scene(count: int = 200, sh_degree: int = 3, seed: int = 1, period_s: float = 2.0) -> Gaussians:
    """The same, each swinging with two harmonics and turning once or twice a period."""
    rng = np.random.default_rng(seed + 1)
    axes = rng.normal(size=(count, 3))
    axes *= rng.integers(1, 3, (count, 1)) / np.linalg.norm(axes, axis=1, keepdims=True)
    waves = rng.normal(0, 0.1, (count, 2, 2, 3)).astype(np.float32)
    return random_scene(count, sh_degree, seed, Motion(period_s, waves, axes.astype(np.float32)))


def sphere(
    radius: float = 1.0,
    centre: Vector = (0.0, 0.0, 0.0),
    rgb: Vector = (0.8, 0.2, 0.1),
    count: int = 4000,
    opacity: float = 0.95,
) -> Gaussians:
    """A closed, matt surface: flat Gaussians on a sphere, each facing outward, evenly spread (Fibonacci's spiral)."""
    index = np.arange(count) + 0.5
    height = 1 - 2 * index / count
    turn = np.pi * (1 + np.sqrt(5)) * index
    across = np.sqrt(1 - height**2)
    normals = np.stack([across * np.cos(turn), across * np.sin(turn), height], axis=1)
    # About the distance between neighbours, so that they cover each other's gaps.
    spread = radius * np.sqrt(4 * np.pi / count)
    scales = np.tile([0.7 * spread, 0.7 * spread, 0.05 * spread], (count, 1))
    return Gaussians(
        (np.asarray(centre) + radius * normals).astype(np.float32),
        _from_z(normals),
        scales.astype(np.float32),
        np.full(count, opacity, np.float32),
        np.tile(((np.asarray(rgb) - 0.5) / SH_C0).astype(np.float32), (count, 1, 1)),
    )


@dataclass(frozen=True)
class Precision:
    """What a format keeps of a scene within 1 of the origin: largest errors; of scales they are relative.

    Attributes:
        harmonics: of those above degree 0; None where they are dropped.
    """

    means: float
    quats: float
    scales: float
    opacities: float
    dc: float
    harmonics: float | None


def assert_kept(found: Gaussians, scene: Gaussians, precision: Precision) -> None:
    """Order aside: formats sort."""
    distance, order = cKDTree(found.means).query(scene.means)
    assert sorted(order) == list(range(len(scene)))
    found = found.select(order)
    assert distance.max() <= precision.means
    signs = np.sign((found.quats * scene.quats).sum(axis=1, keepdims=True))
    assert np.abs(found.quats * signs - scene.quats).max() <= precision.quats
    assert np.abs(found.scales / scene.scales - 1).max() <= precision.scales
    assert np.abs(found.opacities - scene.opacities).max() <= precision.opacities
    assert np.abs(found.sh[:, 0] - scene.sh[:, 0]).max() <= precision.dc
    if precision.harmonics is None:
        assert found.sh_degree == 0
    else:
        assert found.sh.shape == scene.sh.shape
        assert np.abs(found.sh - scene.sh)[:, 1:].max(initial=0) <= precision.harmonics


def _from_z(normals: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Quaternions (N, 4) that turn z to the normals, of which none is opposite to z."""
    quats = np.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], np.zeros(len(normals))], axis=1)
    return np.asarray(quats / np.linalg.norm(quats, axis=1, keepdims=True), np.float32)
