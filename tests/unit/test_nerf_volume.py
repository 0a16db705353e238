"""Sampling and volume rendering against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from deployments.nerf.volume import box_range, composite, importance, ray_weights, stratified, within

BLACK = torch.zeros(3)


def test_a_slab_of_constant_density_stops_light_as_beer_and_lambert_say() -> None:
    density = torch.tensor([0.1, 0.7, 3.0, 40.0])
    near, far = torch.full((4,), 2.0), torch.full((4,), 3.5)
    edges, samples = stratified(near, far, 512, None)
    weights = ray_weights(density[:, None].expand(4, 512), edges.diff(dim=1))
    drawn = composite(weights, torch.ones(4, 512, 3), samples, BLACK)
    alpha = 1 - torch.exp(-1.5 * density)
    assert torch.allclose(drawn.alpha, alpha, atol=1e-5)
    assert torch.allclose(drawn.rgb, alpha[:, None].expand(4, 3), atol=1e-5)
    # The mean of an exponential distribution that is cut off after 1.5.
    mean = 2 + 1 / density - 1.5 * torch.exp(-1.5 * density) / alpha
    assert torch.allclose(drawn.depth, mean, atol=2e-4)


def test_how_an_interval_is_divided_does_not_matter() -> None:
    edges = torch.tensor([[0.0, 0.1, 0.15, 0.7, 1.0]])
    weights = ray_weights(torch.full((1, 4), 2.0), edges.diff(dim=1))
    assert weights.sum().item() == pytest.approx(1 - math.exp(-2))
    assert weights[0, :2].sum().item() == pytest.approx(1 - math.exp(-2 * 0.15))


def test_what_is_in_front_hides_what_is_behind() -> None:
    weights = ray_weights(torch.tensor([[1e4, 1e4]]), torch.tensor([[0.1, 0.1]]))
    drawn = composite(weights, torch.eye(3)[None, :2], torch.tensor([[1.0, 2.0]]), torch.tensor([0.0, 0.0, 1.0]))
    assert drawn.rgb.tolist() == [[1.0, 0.0, 0.0]]
    assert drawn.depth.tolist() == [1.0]


def test_the_background_fills_what_is_left() -> None:
    drawn = composite(torch.tensor([[0.25]]), torch.tensor([[[1.0, 0.0, 0.0]]]), torch.tensor([[1.0]]), torch.ones(3))
    assert drawn.rgb.tolist() == [[1.0, 0.75, 0.75]]
    nothing = composite(torch.zeros(1, 1), torch.zeros(1, 1, 3), torch.ones(1, 1), torch.tensor([[0.1, 0.2, 0.3]]))
    assert torch.equal(nothing.rgb, torch.tensor([[0.1, 0.2, 0.3]]))
    assert (nothing.alpha.item(), nothing.depth.item()) == (0, 0)


@pytest.mark.parametrize("seed", [None, 5])
def test_stratified_samples_lie_one_in_each_equal_part(seed: int | None) -> None:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    edges, samples = stratified(torch.tensor([1.0, 4.0]), torch.tensor([3.0, 12.0]), 8, generator)
    assert torch.allclose(edges[0], torch.linspace(1, 3, 9)) and torch.allclose(edges[1], torch.linspace(4, 12, 9))
    assert (samples >= edges[:, :-1]).all() and (samples <= edges[:, 1:]).all()
    assert (seed is None) == torch.allclose(samples, (edges[:, :-1] + edges[:, 1:]) / 2)


def test_importance_samples_are_distributed_as_the_weights() -> None:
    edges = torch.tensor([[0.0, 1.0, 1.5, 4.0, 5.0]])
    weights = torch.tensor([[0.2, 0.5, 0.0, 0.3]])
    places = importance(edges, weights, 20_000, torch.Generator().manual_seed(0))[0]
    assert (places.diff() >= 0).all()
    for low, high, share in ((0.0, 1.0, 0.2), (1.0, 1.5, 0.5), (1.5, 4.0, 0.0), (4.0, 5.0, 0.3)):
        inside = places[(places > low) & (places < high)]
        assert len(inside) / len(places) == pytest.approx(share, abs=2e-3)
        if share:
            # Uniform within an interval: the mean is its middle, the variance a twelfth of its length squared.
            assert inside.mean().item() == pytest.approx((low + high) / 2, abs=0.01 * (high - low))
            assert inside.var().item() == pytest.approx((high - low) ** 2 / 12, rel=0.02)


def test_without_chance_importance_samples_are_quantiles() -> None:
    edges, weights = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    assert importance(edges, weights, 4, None)[0].tolist() == pytest.approx([0.25, 0.75, 1.5, 2.5], abs=1e-4)


def test_a_ray_through_nothing_is_sampled_evenly() -> None:
    edges = torch.linspace(2, 6, 9)[None]
    places = importance(edges, torch.zeros(1, 8), 4, None)[0]
    assert places.tolist() == pytest.approx([2.5, 3.5, 4.5, 5.5], abs=1e-4)


def test_no_gradient_flows_into_where_samples_lie() -> None:
    weights = torch.rand(2, 4, requires_grad=True)
    assert not importance(torch.linspace(0, 1, 5).repeat(2, 1), weights, 8, None).requires_grad


def test_rays_meet_a_box_where_geometry_says() -> None:
    least, most = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([1.0, 2.0, 1.0])
    origins = torch.tensor([[0.0, 0, -3], [0, 0, 0], [0, 5, -3], [0, 0, 3], [-3, -3, 0], [0.5, 0.5, -3]])
    root = math.sqrt(0.5)
    directions = torch.tensor([[0.0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 1], [root, root, 0], [-0.0, 0, 1]])
    near, far = box_range(origins, directions, least, most)
    expected = [(2, 4), (0, 2), (0, 0), (0, 0), (2 / root, 4 / root), (2, 4)]
    for got, wanted in zip(zip(near.tolist(), far.tolist(), strict=True), expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)


def test_samples_within_intervals_follow_their_lengths() -> None:
    edges = torch.tensor([[0.0, 0.0, 2.0]])
    assert within(edges, torch.Generator().manual_seed(1))[0, 0].item() == 0
