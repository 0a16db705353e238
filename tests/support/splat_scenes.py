"""Random Gaussians before a camera, and the real scenes where they are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deployments.rendering.camera import Camera
from deployments.splat.gaussians import SH_C0, Gaussians

_SPLATS = Path(__file__).resolve().parents[3] / "shared" / "data" / "splats"


def cloud(count: int, *, degree: int = 0, size: float = 0.05, seed: int = 0) -> Gaussians:
    """Gaussians of many shapes around the origin, within about 2."""
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(count, 4))
    return Gaussians(
        rng.normal(0, 0.7, (count, 3)).astype(np.float32),
        (quats / np.linalg.norm(quats, axis=1, keepdims=True)).astype(np.float32),
        (size * np.exp(rng.normal(0, 0.7, (count, 3)))).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        rng.normal(0, 0.5, (count, (degree + 1) ** 2, 3)).astype(np.float32),
    )


def before(width: int, height: int, distance: float = 4.0) -> Camera:
    """A camera that looks along z at the origin."""
    pose = np.eye(4)
    pose[2, 3] = distance
    return Camera(width, height, 1.1 * width, 1.1 * width, width / 2 + 0.7, height / 2 - 0.4, pose)


def real(name: str) -> Gaussians:
    """A scene of the test data in the format of antimatter15, .splat; skips the test where it is not there."""
    path = _SPLATS / f"{name}.splat"
    if not path.exists():
        pytest.skip(f"the test data {path.name} is not on this machine")
    raw = np.fromfile(path, [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
    quats = raw["quats"].astype(np.float32) - 128
    return Gaussians(
        np.ascontiguousarray(raw["means"]),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        np.ascontiguousarray(raw["scales"]),
        raw["rgba"][:, 3].astype(np.float32) / 255,
        ((raw["rgba"][:, None, :3].astype(np.float32) / 255 - 0.5) / np.float32(SH_C0)),
    )
