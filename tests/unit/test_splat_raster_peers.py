"""Projection and colours beside gsplat's own torch functions, and the benchmark of both."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import splat as benchmark
from deployments.rendering.messages import RasterOptions
from deployments.splat.cpu import CpuRasteriser, see
from deployments.splat.cpu_jit import Threads
from deployments.splat.cpu_project import DEPTH, OPACITY, REACH_X, REACH_Y, RED, A, B, C, U
from tests.support.splat_scenes import before, cloud


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ellipses_are_gsplats(degree: int) -> None:
    peer = pytest.importorskip("gsplat.cuda._torch_impl", reason="gsplat, of the extra load, is not installed")
    gaussians, camera = cloud(2000, degree=degree, size=0.1), before(90, 70)
    ours = see(CpuRasteriser().load(gaussians), camera, RasterOptions(antialiased=True), Threads(1))
    means, quats, scales, sh = (
        torch.from_numpy(array) for array in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.sh)
    )
    pose, intrinsics = (
        torch.from_numpy(matrix.astype(np.float32))[None] for matrix in (camera.world_to_camera, camera.intrinsics)
    )
    covariances, _ = peer._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    radii, centres, depths, conics, compensations = (
        array[0].numpy()
        for array in peer._fully_fused_projection(
            means, covariances, pose, intrinsics, camera.width, camera.height, calc_compensations=True
        )
    )
    directions = means - torch.from_numpy(camera.position.astype(np.float32))
    colours = (peer._spherical_harmonics(degree, directions, sh) + 0.5).clamp_min(0).numpy()

    i, values = ours.order, ours.values
    assert len(i) > 1000
    assert (np.diff(values[:, DEPTH]) >= 0).all()
    # They are culled by wider boxes there, which know nothing of opacities.
    assert (radii[i] >= np.ceil(values[:, [REACH_X, REACH_Y]]) - 1).all()
    assert np.allclose(values[:, U : U + 2], centres[i], rtol=1e-4, atol=1e-3)
    assert np.allclose(values[:, DEPTH], depths[i], rtol=1e-5)
    assert np.allclose(values[:, OPACITY], (gaussians.opacities * compensations)[i], rtol=1e-3, atol=1e-4)
    a, b, c = values[:, A], values[:, B], values[:, C]
    ours_as_conics = np.stack([2 * a * a, 2 * a * b, 2 * (b * b + c * c)], axis=1)
    assert np.allclose(ours_as_conics, conics[i], rtol=2e-3, atol=1e-4)
    assert np.allclose(values[:, RED : RED + 3], colours[i], rtol=1e-4, atol=1e-5)


def test_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    case = benchmark.Case("cloud 100k", cloud(200), before(48, 32), True)
    monkeypatch.setattr(benchmark, "_cases", lambda quick: [case])
    report = benchmark.run(rounds=1, quick=False)
    assert [row["threads"] for row in report.rows] == [1, 2]
    assert all(row["psnr_db"] > 60 and row["fps"] > 0 and row["reference_s"] > 0 for row in report.rows)
    monkeypatch.setattr(benchmark, "_FPS", 1e9)
    monkeypatch.setattr(benchmark, "_DECIBELS", 1e9)
    assert len(benchmark.run(rounds=1, quick=False).misses) == 3
