"""Gaussians drawn on the CPU, beside a plain reference in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.rendering.camera import Camera, look_at, orbit
from deployments.rendering.messages import RasterOptions, Rendered
from deployments.splat import cpu, scene_file
from deployments.splat.coverage import weights
from deployments.splat.differentiable import render_differentiable
from deployments.splat.gaussians import Gaussians, concatenate
from deployments.splat.motion import Motion
from deployments.splat.rasteriser import make_rasteriser
from serve.errors import Unavailable
from tests.support import splat_reference
from tests.support.splat_reference import psnr
from tests.support.splat_scenes import before, cloud, real

PLAIN = RasterOptions()


def render(
    gaussians: Gaussians, camera: Camera, options: RasterOptions = PLAIN, *, time_s: float = 0.0, threads: int = 1
) -> Rendered:
    rasteriser = make_rasteriser("cpu", threads)
    (picture,) = rasteriser.render(rasteriser.load(gaussians), [camera], options, time_s)
    return picture


def check(gaussians: Gaussians, camera: Camera, options: RasterOptions = PLAIN) -> None:
    ours, right = render(gaussians, camera, options), splat_reference.render(gaussians, camera, options)
    assert right["alpha"].max() > 0.1, "nothing is drawn: the scene tests nothing"
    assert psnr(ours.rgb, right["rgb"]) > 60
    assert psnr(ours.alpha, right["alpha"]) > 60
    # A contribution close to 1/255 may be drawn by one and left out by the other.
    covered = right["alpha"] > 0.05
    error = np.abs(ours.depth - right["depth"])[covered] / right["depth"][covered]
    assert np.quantile(error, 0.99) < 1e-3


def same(one: Rendered, other: Rendered, decibels: float = 60) -> None:
    assert psnr(one.rgb, other.rgb) > decibels
    assert psnr(one.alpha, other.alpha) > decibels


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        RasterOptions(antialiased=True, background=(0.2, 0.9, 0.4)),
        RasterOptions(sh_degree=1, radius_clip=3),
        RasterOptions(near=3.8, far=4.4, background=(1, 1, 1)),
    ],
    ids=["plain", "antialiased", "clipped", "sliced"],
)
def test_beside_the_reference(degree: int, options: RasterOptions) -> None:
    check(cloud(400, degree=degree, seed=degree), before(61, 45), options)


@pytest.mark.parametrize("size", [0.003, 0.02, 0.8])
def test_beside_the_reference_from_dust_to_fog(size: float) -> None:
    gaussians = cloud(1500 if size < 0.1 else 60, size=size)
    for antialiased in (False, True):
        check(gaussians, before(50, 37), RasterOptions(antialiased=antialiased))


def test_beside_the_reference_from_within() -> None:
    """The camera stands among them: some are behind it, some reach far past the picture's edge."""
    check(cloud(300, size=0.2), look_at((0.1, 0, 0.2), (1, 0.3, 0), (0, 1, 0), 70, 52, 40))


def test_long_thin_ellipses() -> None:
    gaussians = cloud(40)
    gaussians.scales[:] = (3, 0.001, 0.001)
    gaussians.opacities[:] = 1
    check(gaussians, before(90, 70))


@pytest.mark.parametrize(("name", "step"), [("spot_10k", 3), ("plant", 30)])
def test_real_scenes(name: str, step: int) -> None:
    scene = real(name)
    scene = scene.select(np.arange(0, len(scene), step))
    least, most = np.quantile(scene.means, [0.02, 0.98], axis=0)
    centre = tuple(((least + most) / 2).tolist())
    radius = float(np.linalg.norm(most - least))
    check(scene, orbit(centre, radius, 40, 20, (0, -1, 0), 40, 72, 56))  # type: ignore[arg-type]


def test_it_stops_where_no_light_is_left() -> None:
    """A wall of 50 nearly opaque layers: the second hides all the others, and is not drawn itself."""
    layers = np.arange(50, dtype=np.float32)
    gaussians = Gaussians(
        np.stack([0 * layers, 0 * layers, 0.01 * layers], axis=1),
        np.tile(np.float32([1, 0, 0, 0]), (50, 1)),
        np.tile(np.float32([2, 2, 0.001]), (50, 1)),
        np.ones(50, np.float32),
        np.tile(np.float32([[[1, 0, -1]]]), (50, 1, 1)),
    )
    gaussians.sh[1:] *= -1
    check(gaussians, before(20, 20))
    all_, first = render(gaussians, before(20, 20)), render(gaussians.select(np.array([0])), before(20, 20))
    assert 0.99 < first.alpha[10, 10] < 0.999
    assert (all_.rgb[10, 10] == first.rgb[10, 10]).all()
    assert all_.depth[10, 10] == pytest.approx(4, abs=1e-4)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 50), (50, 1), (16, 16), (17, 33), (15, 31)])
def test_any_size(width: int, height: int) -> None:
    camera = replace(before(50, 50), width=width, height=height, cx=width / 2, cy=height / 2)
    picture = render(cloud(300), camera)
    assert picture.rgb.shape == (height, width, 3)
    assert picture.alpha.shape == picture.depth.shape == (height, width)
    assert psnr(picture.rgb, splat_reference.render(cloud(300), camera, PLAIN)["rgb"]) > 60


def test_nothing() -> None:
    options = RasterOptions(background=(0.25, 0.5, 1))
    for gaussians in (cloud(0, degree=2), cloud(3).select(np.zeros(3, bool))):
        picture = render(gaussians, before(20, 10), options)
        assert (picture.rgb == np.float32([0.25, 0.5, 1])).all()
        assert not picture.alpha.any()
        assert not picture.depth.any()


def extreme() -> Gaussians:
    """Each in its own way impossible to draw, or hardly."""
    parts = []
    for mean, scale, opacity, colour in [
        ((0, 0, -4), 1, 1, 1),  # where the camera of `before` stands
        ((0, 0, -3.99), 1, 1, 1),  # within near
        ((0, 0, -50), 30, 1, 1),  # behind, and reaching before
        ((0, 0, -3.98), 1e8, 0.5, 1),  # larger than all
        ((3e37, -3e37, 3e37), 1, 1, 1),
        ((3e37, 0, 0), 3e37, 1, 1),
        ((0, 0, 3e38), 1e30, 1, 1),
        ((0, 0, 0), 3e38, 1, 1),
        ((0, 0, 0), 1e-38, 1, 1),
        ((0, 0, 0), 1e-10, 0.5, 3e38),
        ((0, 0, 0), 0.5, 0, 1),
    ]:
        part = cloud(1, degree=3)
        part.means[:], part.scales[:], part.opacities[:] = mean, scale, opacity
        part.sh[:] = np.sign(part.sh) * colour
        parts.append(part)
    return concatenate(parts)


@pytest.mark.parametrize("antialiased", [False, True])
def test_extreme_gaussians_do_no_harm(antialiased: bool) -> None:
    """Beside them the others are drawn as they would be alone, or are covered; all is finite where colours are."""
    options = RasterOptions(antialiased=antialiased)
    strange = extreme()
    for i in range(len(strange)):
        picture = render(concatenate([strange.select(np.array([i])), cloud(50, degree=3)]), before(40, 30), options)
        assert not np.isnan(picture.rgb).any(), i
        assert np.isfinite(picture.alpha).all(), i
        assert np.isfinite(picture.depth).all(), i
        assert (picture.alpha >= 0).all(), i
        assert (picture.alpha <= 1).all(), i
    invisible = [0, 1, 2, 4, 6, 10]
    plain = render(cloud(50, degree=3), before(40, 30), options)
    same(
        render(concatenate([strange.select(np.array(invisible)), cloud(50, degree=3)]), before(40, 30), options), plain
    )


def test_a_scene_of_huge_gaussians_is_drawn_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussians = cloud(200, size=1.0)
    whole = render(gaussians, before(100, 80))
    lists = []
    list_tiles = cpu.list_tiles

    def listed(*arguments: object) -> object:
        lists.append(list_tiles(*arguments))  # type: ignore[arg-type]
        return lists[-1]

    monkeypatch.setattr(cpu, "_PAIRS_AT_ONCE", 500)
    monkeypatch.setattr(cpu, "list_tiles", listed)
    banded = render(gaussians, before(100, 80))
    assert len(lists) > 3
    assert max(len(each) for each in lists) <= 500
    assert (banded.rgb == whole.rgb).all()


def test_threads_change_nothing() -> None:
    gaussians = cloud(2000, degree=1)
    one, three = render(gaussians, before(120, 90)), render(gaussians, before(120, 90), threads=3)
    assert (one.rgb == three.rgb).all()
    assert (one.depth == three.depth).all()


def test_rasterisers_work_beside_each_other() -> None:
    gaussians = cloud(500)
    expected = render(gaussians, before(80, 60))
    with ThreadPoolExecutor(4) as pool:
        pictures = pool.map(lambda _: render(gaussians, before(80, 60), threads=2), range(16))
        assert all((picture.rgb == expected.rgb).all() for picture in pictures)


def test_several_cameras_keep_their_order() -> None:
    gaussians = cloud(300)
    cameras = [before(40, 30), before(20, 50), before(40, 30, 6.0)]
    rasteriser = make_rasteriser("cpu")
    pictures = rasteriser.render(rasteriser.load(gaussians), cameras, PLAIN)
    for picture, camera in zip(pictures, cameras, strict=True):
        assert (picture.rgb == render(gaussians, camera).rgb).all()


def test_time_moves_what_moves() -> None:
    still = cloud(200, size=0.1)
    rng = np.random.default_rng(0)
    motion = Motion(
        4.0, rng.normal(0, 0.2, (200, 2, 2, 3)).astype(np.float32), rng.normal(0, 1, (200, 3)).astype(np.float32)
    )
    moving = replace(still, motion=motion)
    start, later = render(moving, before(50, 40)), render(moving, before(50, 40), time_s=1.3)
    same(start, render(still, before(50, 40)))
    assert psnr(start.rgb, later.rgb) < 35
    same(later, render(moving.at(1.3), before(50, 40)))
    assert psnr(later.rgb, splat_reference.render(moving.at(1.3), before(50, 40), PLAIN)["rgb"]) > 60


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), antialiased=st.booleans())
def test_the_order_in_the_file_says_nothing(seed: int, antialiased: bool) -> None:
    gaussians = cloud(120, degree=2, seed=seed)
    shuffled = gaussians.select(np.random.default_rng(seed).permutation(120))
    options = RasterOptions(antialiased=antialiased)
    same(render(gaussians, before(40, 30), options), render(shuffled, before(40, 30), options), 90)


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), where=st.tuples(*[st.floats(-20, 20)] * 3))
def test_world_and_camera_may_move_together(seed: int, where: tuple[float, float, float]) -> None:
    """Degree 0, since harmonics belong to the world's axes."""
    gaussians = cloud(120, seed=seed)
    camera = before(40, 30)
    quat = np.random.default_rng(seed).normal(size=4)
    motion = Motion(1.0, np.zeros((120, 1, 2, 3), np.float32), np.zeros((120, 3), np.float32))
    w, x, y, z = quat / np.linalg.norm(quat)
    angle = 2 * np.arctan2(np.linalg.norm([x, y, z]), w)
    motion.turns[:] = np.array([x, y, z]) / np.linalg.norm([x, y, z]) * angle / np.pi
    _, quats = motion.apply(gaussians.means, gaussians.quats, 0.5)
    turn = np.eye(4)
    turn[:3, :3] = _matrix(w, x, y, z)
    turn[:3, 3] = where
    moved = replace(gaussians, means=(gaussians.means @ turn[:3, :3].T + where).astype(np.float32), quats=quats)
    with_it = replace(camera, world_to_camera=camera.world_to_camera @ np.linalg.inv(turn))
    same(render(gaussians, camera), render(moved, with_it))


def _matrix(w: float, x: float, y: float, z: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    columns = []
    for axis in np.eye(3):
        once = np.cross([x, y, z], axis)
        columns.append(axis + 2 * w * once + 2 * np.cross([x, y, z], once))
    return np.stack(columns, axis=1)


def test_back_ends() -> None:
    assert make_rasteriser("cpu").device == "cpu"
    if torch.cuda.is_available():
        assert make_rasteriser("auto").device == "cuda"
    else:
        assert make_rasteriser("auto").device == "cpu"
        with pytest.raises(Unavailable, match="CUDA"):
            make_rasteriser("gsplat")


def test_nothing_is_compiled_anew_for_other_arrays() -> None:
    """A kernel is compiled for each kind of argument that it meets; a request must not wait for that."""
    render(cloud(20), before(20, 20))
    kernels = (
        cpu.project,
        cpu.arrange,
        cpu.order_by_depth,
        cpu.count_tiles,
        cpu.list_tiles,
        cpu.blend,
        cpu.covariances,
    )
    known = [len(kernel.signatures) for kernel in kernels]  # type: ignore[attr-defined]
    frozen = scene_file.read(scene_file.write(cloud(20, degree=3)))
    for name in ("means", "quats", "scales", "opacities", "sh"):
        getattr(frozen, name).setflags(write=False)
    camera = Camera(32, 32, 30, 30, 16, 16, np.asfortranarray(before(9, 9).world_to_camera.astype(np.float32)))
    options = RasterOptions(background=(0, 1, 0), antialiased=True, radius_clip=1, near=1, far=100)
    assert render(frozen, camera, options).alpha.max() > 0
    assert [len(kernel.signatures) for kernel in kernels] == known  # type: ignore[attr-defined]


def test_a_loaded_scene_knows_its_memory() -> None:
    rasteriser = make_rasteriser("cpu")
    small, large = rasteriser.load(cloud(100)), rasteriser.load(cloud(300))
    assert cloud(100).nbytes < small.nbytes < large.nbytes


def test_coverage_of_masks() -> None:
    gaussians = cloud(200, size=0.1)
    cameras = [before(50, 40), before(50, 40, 3.0)]
    masks = np.zeros((2, 40, 50), bool)
    masks[:, :, :25] = True
    inside, everywhere = weights(gaussians, cameras, masks)
    alphas = np.stack([render(gaussians, camera).alpha for camera in cameras])
    assert everywhere.sum() == pytest.approx(alphas.sum(), rel=1e-3)
    assert inside.sum() == pytest.approx(alphas[:, :, :25].sum(), rel=1e-3)
    assert (inside <= everywhere * 1.0001 + 1e-4).all()
    share, x = inside / np.maximum(everywhere, 1e-9), gaussians.means[:, 0]
    seen = everywhere > 1
    assert share[seen & (x < -0.4)].mean() > 0.95
    assert share[seen & (x > 0.4)].mean() < 0.05


def test_coverage_before_the_near_plane_is_not_counted() -> None:
    small = cloud(200, size=0.1)
    small = replace(small, means=small.means * np.float32(1e-3), scales=small.scales * np.float32(1e-3))
    camera = before(50, 40, 4e-3)
    picture = render(small, camera, RasterOptions(near=1e-5))
    assert picture.alpha.max() > 0.9
    masks = np.ones((1, 40, 50), bool)
    assert weights(small, [camera], masks, near=1e-5)[1].sum() == pytest.approx(picture.alpha.sum(), rel=1e-3)
    assert weights(small, [camera], masks)[1].sum() == 0


def test_coverage_of_one_gaussian_is_its_own_alpha() -> None:
    gaussians = cloud(1, size=0.3)
    gaussians.means[:] = 0
    picture = render(gaussians, before(30, 30))
    half = np.full((1, 30, 30), 0.5, np.float32)
    inside, everywhere = weights(gaussians, [before(30, 30)], half)
    assert everywhere[0] == pytest.approx(picture.alpha.sum(), rel=1e-4)
    assert inside[0] == pytest.approx(picture.alpha.sum() / 2, rel=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("antialiased", [False, True])
def test_gsplat_draws_the_same(antialiased: bool) -> None:
    options = RasterOptions(antialiased=antialiased, background=(0.1, 0.5, 0.9))
    gaussians = cloud(3000, degree=3)
    gaussians = replace(gaussians, motion=Motion(2.0, np.full((3000, 1, 2, 3), 0.1, np.float32), gaussians.means))
    cameras = [before(130, 90), before(60, 50), before(130, 90, 6.0)]
    theirs = make_rasteriser("gsplat")
    pictures = theirs.render(theirs.load(gaussians), cameras, options, 0.7)
    for picture, camera in zip(pictures, cameras, strict=True):
        ours = render(gaussians, camera, options, time_s=0.7)
        same(picture, ours, 45)
        covered = ours.alpha > 0.1
        assert np.median(np.abs(picture.depth - ours.depth)[covered]) < 1e-3
    masks = np.random.default_rng(0).random((1, 50, 60)) < 0.3
    for one, other in zip(
        weights(theirs.load(gaussians), cameras[1:2], masks, time_s=0.7),
        weights(gaussians, cameras[1:2], masks, time_s=0.7),
        strict=True,
    ):
        assert np.linalg.norm(one - other) < 0.01 * np.linalg.norm(other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("antialiased", [False, True])
def test_gsplats_gradient_is_the_same(antialiased: bool) -> None:
    gaussians = cloud(500, degree=2)
    names = ("means", "quats", "scales", "opacities", "sh")
    found = []
    for device in ("cpu", "cuda"):
        leaves = [torch.tensor(getattr(gaussians, name), device=device).requires_grad_() for name in names]
        drawn = render_differentiable(*leaves, before(60, 50), background=(0.3, 0.2, 0.1), antialiased=antialiased)
        (drawn.rgb.square().sum() + drawn.alpha.sum() + drawn.depth.square().mean()).backward()
        assert drawn.means2d.grad is not None
        found.append([*(leaf.grad.cpu() for leaf in leaves), drawn.means2d.grad.cpu()])  # type: ignore[union-attr]
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() < 0.01 * ours.norm()
