"""The gradient of a picture of Gaussians: beside torch's own in float64, and in use."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from deployments.rendering.messages import RasterOptions
from deployments.splat.differentiable import Differentiable, render_differentiable
from deployments.splat.gaussians import Gaussians
from deployments.splat.rasteriser import make_rasteriser
from tests.support import splat_dense
from tests.support.splat_scenes import before, cloud

NAMES = ("means", "quats", "scales", "opacities", "sh")


def leaves(gaussians: Gaussians, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.tensor(getattr(gaussians, name), dtype=dtype).requires_grad_() for name in NAMES]


def loss_of(rgb: Tensor, alpha: Tensor, depth: Tensor, seed: int = 0) -> Tensor:
    """Uses every output with random weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(out.shape, generator=generator, dtype=torch.float64) for out in (rgb, alpha, depth))
    return sum((out.double() * weight).sum() for out, weight in zip((rgb, alpha, depth), weights, strict=True))


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("count", "size", "solid", "spread"),
    [(12, 0.15, 0.0, 0.4), (30, 0.3, 0.0, 0.4), (40, 0.5, 0.97, 0.4), (40, 0.7, 0.0, 1.5)],
    ids=["few", "many", "opaque", "past the edge"],
)
def test_gradients_are_torchs_own(
    count: int, size: float, solid: float, spread: float, degree: int, antialiased: bool
) -> None:
    gaussians = cloud(count, degree=degree, size=size, seed=count)
    gaussians.means[:] *= spread
    gaussians = gaussians.select(gaussians.means[:, 2] > -3)
    gaussians.opacities[:] = solid + (1 - solid) * gaussians.opacities
    camera = before(25, 18)
    ours, theirs = leaves(gaussians), leaves(gaussians, torch.float64)

    drawn = render_differentiable(*ours, camera, antialiased=antialiased)
    expected = splat_dense.render(*theirs, camera, antialiased=antialiased)
    for out, right in zip((drawn.rgb, drawn.alpha, drawn.depth), expected, strict=True):
        assert (out - right).abs().max() < 1e-4

    loss_of(drawn.rgb, drawn.alpha, drawn.depth).backward()
    loss_of(*expected).backward()
    for name, one, other in zip(NAMES, ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        difference = (one.grad - other.grad).norm() / other.grad.norm()
        assert difference < 2e-3, f"{name}: {difference:.2g}"


def test_the_background_counts() -> None:
    gaussians = cloud(30, size=0.2)
    camera = before(30, 20)
    black, sky = leaves(gaussians), leaves(gaussians)
    behind = torch.tensor([0.2, 0.5, 0.9])
    plain = render_differentiable(*black, camera)
    loss_of(plain.rgb + (1 - plain.alpha[..., None]) * behind, plain.alpha, plain.depth).backward()
    drawn = render_differentiable(*sky, camera, background=(0.2, 0.5, 0.9))
    loss_of(drawn.rgb, drawn.alpha, drawn.depth).backward()
    for one, other in zip(black, sky, strict=True):
        assert one.grad is not None
        assert torch.allclose(one.grad, other.grad, rtol=1e-3, atol=1e-3 * float(one.grad.abs().max()))


def draw(parameters: list[Tensor], threads: int = 1) -> Differentiable:
    return render_differentiable(*parameters, before(50, 40), threads=threads)


def test_the_picture_is_the_rasterisers() -> None:
    gaussians = cloud(500, degree=3)
    rasteriser = make_rasteriser("cpu")
    (expected,) = rasteriser.render(rasteriser.load(gaussians), [before(50, 40)], RasterOptions())
    drawn = draw(leaves(gaussians))
    assert np.abs(drawn.rgb.detach().numpy() - expected.rgb).max() < 1e-4
    assert np.abs(drawn.alpha.detach().numpy() - expected.alpha).max() < 1e-4
    assert np.abs(drawn.depth.detach().numpy() - expected.depth).max() < 1e-3


def test_what_a_trainer_needs_to_know() -> None:
    """Which are seen, how large, and how much a centre's place in the picture matters."""
    gaussians = cloud(200)
    gaussians.means[:50, 2] -= 10
    drawn = draw(leaves(gaussians))
    drawn.rgb.square().mean().backward()
    seen = set(drawn.visible.tolist())
    assert seen
    assert not seen & set(range(50))
    assert (drawn.radii > 0).nonzero().flatten().tolist() == sorted(seen)
    assert drawn.means2d.grad is not None
    assert drawn.means2d.grad.shape == (200, 2)
    assert (drawn.means2d.grad[:50] == 0).all()
    assert (drawn.means2d.grad != 0).any()


def test_threads_change_nothing() -> None:
    one, three = leaves(cloud(400, degree=1)), leaves(cloud(400, degree=1))
    for parameters, threads in ((one, 1), (three, 3)):
        drawn = draw(parameters, threads)
        loss_of(drawn.rgb, drawn.alpha, drawn.depth).backward()
    for alone, together in zip(one, three, strict=True):
        assert alone.grad is not None
        assert torch.allclose(alone.grad, together.grad, rtol=1e-3, atol=1e-4 * float(alone.grad.abs().max()))


@pytest.mark.parametrize("count", [0, 3])
def test_nothing_to_see_has_no_gradient(count: int) -> None:
    gaussians = cloud(count)
    gaussians.means[:, 2] = -100
    parameters = leaves(gaussians)
    drawn = draw(parameters)
    (drawn.rgb.sum() + drawn.depth.sum()).backward()
    assert len(drawn.visible) == 0
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in parameters)


def test_a_scene_is_found_again_from_its_picture() -> None:
    """Adam brings displaced and recoloured Gaussians back."""
    right = cloud(40, size=0.2, seed=3)
    camera = before(40, 30)
    target = render_differentiable(*leaves(right), camera).rgb.detach()
    parameters = leaves(right)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        parameters[0] += 0.05 * torch.randn(parameters[0].shape, generator=generator)
        parameters[4] += 0.3 * torch.randn(parameters[4].shape, generator=generator)
    optimiser = torch.optim.Adam([{"params": [parameters[0]], "lr": 0.003}, {"params": [parameters[4]], "lr": 0.02}])
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        loss = (render_differentiable(*parameters, camera).rgb - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 20
