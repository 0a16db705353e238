"""Pictures of fields that are known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from deployments.nerf.rays import CameraRays, pixel_rays
from deployments.nerf.render import draw, quality, reduced, render
from deployments.nerf.settings import Variant
from deployments.rendering.camera import Camera, look_at
from tests.support.analytic_fields import AnalyticField, ball

VARIANTS: tuple[Variant, ...] = ("hash", "mlp")


def camera(width: int = 48, height: int = 40) -> Camera:
    return look_at((1.0, -2.0, 3.0), (0.1, 0.05, 0.0), (0, -1, 0), 35, width, height)


def test_rays_go_through_the_middles_of_pixels() -> None:
    view = camera()
    rays = pixel_rays(view)
    depth = 2.5
    points = (rays.origins + depth / rays.forward[:, None] * rays.directions).numpy()
    seen = points @ view.world_to_camera[:3, :3].T + view.world_to_camera[:3, 3]
    assert np.allclose(seen[:, 2], depth, atol=1e-5)
    pixels = seen[:, :2] / seen[:, 2:] * (view.fx, view.fy) + (view.cx, view.cy)
    rows, columns = np.divmod(np.arange(48 * 40), 48)
    assert np.allclose(pixels, np.stack([columns, rows], 1) + 0.5, atol=1e-3)
    assert torch.allclose(rays.directions.norm(dim=1), torch.ones(len(rays)))


def test_any_pixels_of_several_cameras_can_be_asked_at_once() -> None:
    views = [camera(), camera(20, 30)]
    chosen = CameraRays(views).through(torch.tensor([1, 0]), torch.tensor([3, 40]), torch.tensor([29, 7]))
    for number, (view, pixel) in enumerate(((views[1], 29 * 20 + 3), (views[0], 7 * 48 + 40))):
        alone = pixel_rays(view, pixel, pixel + 1)
        for name in ("origins", "directions", "forward"):
            assert torch.allclose(getattr(chosen, name)[number], getattr(alone, name)[0], atol=1e-6)


def sphere_seen(view: Camera, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pixel's ray: whether it hits a sphere at the origin, how near it comes to the sphere's rim, and the depth
    along z of where it hits."""
    rays = pixel_rays(view)
    origins, directions = rays.origins.double().numpy(), rays.directions.double().numpy()
    middle = -(origins * directions).sum(1)
    passing = np.linalg.norm(origins + middle[:, None] * directions, axis=1)
    half = np.sqrt(np.maximum(radius**2 - passing**2, 0))
    depth = (middle - half) * rays.forward.numpy()
    shape = (view.height, view.width)
    return (passing < radius).reshape(shape), np.abs(passing - radius).reshape(shape), depth.reshape(shape)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_hard_sphere_has_its_silhouette_and_depth(variant: Variant) -> None:
    field = AnalyticField(ball(0.6), variant=variant)
    view = render(field, camera(), background=(0.0, 0.0, 1.0))
    hit, rim, depth = sphere_seen(camera(), 0.6)
    sure = rim > 0.03
    assert 200 < hit.sum() < 1500
    assert np.allclose(view.alpha[sure], hit[sure], atol=1e-3)
    assert np.allclose(view.rgb[sure & hit], (1.0, 0.5, 0.25), atol=2e-3)
    assert np.allclose(view.rgb[sure & ~hit], (0.0, 0.0, 1.0), atol=1e-6)
    assert np.abs(view.depth - depth)[sure & hit].max() < 0.03
    assert (view.depth[sure & ~hit] == 0).all()


def test_a_slab_is_as_exact_through_the_grid() -> None:
    """Light through a homogeneous box, along its axis: alpha = 1 - exp(-density * thickness)."""
    field = AnalyticField(lambda points: torch.full((len(points),), 0.8), most=(1.0, 1.0, 0.5))
    view = look_at((0, 0, -200), (0, 0, 0), (0, -1, 0), 0.2, 5, 5)
    for effort in (0.5, 1.0):
        drawn = render(field, view, effort=effort)
        assert np.allclose(drawn.alpha, 1 - math.exp(-0.8 * 1.5), atol=1e-3)


def test_empty_space_and_what_is_hidden_are_not_asked() -> None:
    view = camera(64, 64)
    field = AnalyticField(ball(0.6), cells=64)
    render(field, view)
    sparse = field.asked
    assert field.grid is not None
    field.grid.bits.fill_(True)
    field.asked = 0
    full = render(field, view)
    assert sparse * 5 < field.asked
    # Opaque from the surface on: less is asked than a ray has samples, although nothing is known to be empty.
    assert field.asked < 0.8 * 64 * 64 * 256
    assert np.allclose(full.alpha, render(AnalyticField(ball(0.6), cells=64), view).alpha, atol=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_and_without_gradients_the_picture_is_the_same(variant: Variant) -> None:
    field = AnalyticField(ball(0.6, density=6.0), variant=variant)
    rays, behind = pixel_rays(camera()), torch.tensor([0.2, 0.4, 0.6])
    with torch.no_grad():
        one = draw(field, rays, 64, behind)
    with torch.enable_grad():
        other = draw(field, rays, 64, behind)
    # Where light is all but gone, the first stops.
    assert torch.allclose(one.rgb, other.rgb, atol=2e-3)
    assert torch.allclose(one.depth, other.depth, atol=1e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_chunks_do_not_show(variant: Variant) -> None:
    field = AnalyticField(ball(0.5, density=8.0), variant=variant)
    calls: list[None] = []
    whole = render(field, camera(), chunk=1 << 20)
    parts = render(field, camera(), chunk=97, between=lambda: calls.append(None))
    assert len(calls) == math.ceil(48 * 40 / 97)
    assert np.allclose(whole.rgb, parts.rgb, atol=1e-5)
    assert np.allclose(whole.depth, parts.depth, atol=1e-4)


def test_more_effort_is_more_samples_on_more_rays() -> None:
    field = AnalyticField(ball())
    asked = [quality(field, effort) for effort in (0.0, 0.3, 0.5, 1.0)]
    assert [one.stride for one in asked] == [4, 2, 1, 1]
    assert [one.samples for one in asked] == [32, 60, 91, 256]
    assert quality(AnalyticField(ball(), variant="mlp"), 1.0).samples == 64


def test_a_coarse_picture_is_the_same_view() -> None:
    field = AnalyticField(ball(0.6))
    exact = render(field, camera(50, 42))
    errors = []
    for effort in (0.0, 0.3, 0.6):
        coarse = render(field, camera(50, 42), effort=effort)
        assert coarse.rgb.shape == (42, 50, 3) and coarse.alpha.dtype == np.float32
        errors.append(float(np.abs(coarse.alpha - exact.alpha).mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] < 0.05


def test_a_picture_smaller_than_a_stride_has_a_ray() -> None:
    assert (reduced(camera(3, 2), 4).width, reduced(camera(3, 2), 4).height) == (1, 1)
    assert render(AnalyticField(ball()), camera(3, 2), effort=0.0).rgb.shape == (2, 3, 3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_camera_that_sees_nothing_gets_the_background(variant: Variant) -> None:
    away = look_at((0, 0, 5), (0, 0, 10), (0, -1, 0), 40, 8, 8)
    view = render(AnalyticField(ball(), variant=variant), away, background=(0.3, 0.2, 0.1))
    assert np.allclose(view.rgb, (0.3, 0.2, 0.1))
    assert not view.alpha.any() and not view.depth.any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("distance", [1e6, 1e12, 1e30])
def test_a_camera_that_is_farther_than_numbers_reach_draws_something_finite(variant: Variant, distance: float) -> None:
    """And takes no more samples for it: they are bounded, whatever rounding makes of a ray's length."""
    telescope = look_at((0, 0, -distance), (0, 0, 0), (0, -1, 0), math.degrees(2.2 / distance), 8, 8)
    field = AnalyticField(ball(), variant=variant)
    view = render(field, telescope)
    assert np.isfinite(view.rgb).all() and np.isfinite(view.depth).all()
    assert field.asked <= 64 * 257


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_camera_inside_sees_what_is_before_it(variant: Variant) -> None:
    inside = look_at((0, 0, 0), (0, 0, 1), (0, -1, 0), 40, 8, 8)
    view = render(AnalyticField(ball(0.3, centre=(0.0, 0.0, 0.6)), variant=variant), inside)
    assert view.alpha[4, 4] == pytest.approx(1, abs=1e-3)
    assert view.depth[4, 4] == pytest.approx(0.3, abs=0.02)
