"""Encodings and networks against their papers, and against independent ways of working them out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's customary name

from deployments.nerf.encoding import HashGrid, frequencies, spherical_harmonics
from deployments.nerf.field import RadianceField
from deployments.nerf.hash_field import HashField
from deployments.nerf.mlp import NerfMlp
from deployments.nerf.settings import FieldSettings


def test_encodings_have_the_published_sizes() -> None:
    assert frequencies(torch.zeros(2, 3), 10).shape == (2, 63)
    assert frequencies(torch.zeros(2, 3), 4).shape == (2, 27)


def test_frequencies_are_sines_and_cosines_of_doubling_multiples() -> None:
    x, y, z = 0.3, -0.7, 0.05
    expected = [x, y, z]
    for power in (1, 2, 4):
        expected += [math.sin(power * v) for v in (x, y, z)] + [math.cos(power * v) for v in (x, y, z)]
    assert frequencies(torch.tensor([[x, y, z]]), 3)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_spherical_harmonics_are_orthonormal() -> None:
    index = torch.arange(20_000, dtype=torch.float64)
    height, angle = 1 - (2 * index + 1) / len(index), index * math.pi * (3 - math.sqrt(5))
    level = (1 - height**2).sqrt()
    values = spherical_harmonics(torch.stack([level * angle.cos(), level * angle.sin(), height], 1))
    products = 4 * math.pi * values.T @ values / len(index)
    assert torch.allclose(products, torch.eye(16, dtype=torch.float64), atol=2e-3)


def test_the_mlp_is_the_papers() -> None:
    network = NerfMlp()
    assert sum(parameter.numel() for parameter in network.parameters()) == 595_844
    shapes = [tuple(layer.weight.shape) for layer in network.layers]
    assert shapes == [(256, 63), *[(256, 256)] * 4, (256, 319), *[(256, 256)] * 2]
    assert (network.view.in_features, network.view.out_features) == (283, 128)


def test_density_does_not_depend_on_the_direction_and_colour_does() -> None:
    torch.manual_seed(0)
    places, directions = torch.rand(20, 3), F.normalize(torch.randn(20, 3), dim=1)
    for network in (NerfMlp(32), HashField(settings("hash"))):
        density, hidden = network.density(places)
        assert density.shape == (20,) and (density > 0).all()
        one, other = network.colour(hidden, directions), network.colour(hidden, -directions)
        assert one.shape == (20, 3) and ((one > 0) & (one < 1)).all()
        assert not torch.allclose(one, other)


def grid_of(levels: int, coarsest: int, finest: int, log2_table: int = 14) -> HashGrid:
    torch.manual_seed(1)
    grid = HashGrid(levels, 2, log2_table, coarsest, finest)
    with torch.no_grad():
        grid.table.normal_()
    return grid


def test_a_grid_that_fits_is_trilinear_interpolation() -> None:
    grid = grid_of(1, 12, 12)
    places = torch.cat([torch.rand(500, 3), torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5]])])
    volume = grid.table.view(1, 2, 13, 13, 13)
    found = F.grid_sample(volume, 2 * places[None, None, None] - 1, align_corners=True).view(2, -1).T
    assert torch.allclose(grid(places), found, atol=1e-5)


def test_a_finer_grid_is_exact_at_its_vertices() -> None:
    grid = grid_of(1, 100, 100, log2_table=10)
    vertices = torch.tensor([[0, 0, 0], [3, 50, 99], [100, 100, 100], [17, 64, 2], [99, 1, 40]])
    entries = [(x ^ y * 2_654_435_761 ^ z * 805_459_861) % 1024 for x, y, z in vertices.tolist()]
    assert torch.allclose(grid(vertices / 100), grid.table[:, entries].T, atol=1e-3)


def test_levels_grow_geometrically_and_share_no_entries() -> None:
    grid = HashGrid(5, 2, 12, 4, 64)
    assert grid.cells == (4, 8, 16, 32, 64)
    assert grid.starts == (0, 125, 125 + 729, 854 + 4096, 4950 + 4096, 9046 + 4096)
    with torch.no_grad():
        grid.table.zero_()
        grid.table[:, grid.starts[1] : grid.starts[2]] = 1
    assert torch.allclose(grid(torch.rand(50, 3)), torch.tensor([0.0, 0, 1, 1, 0, 0, 0, 0, 0, 0]).expand(50, 10))


def test_interpolation_is_continuous_across_cells() -> None:
    grid = grid_of(4, 8, 200, log2_table=12)
    borders = torch.rand(200, 3, dtype=torch.float32)
    borders[:, 0] = torch.randint(1, 8, (200,)) / 8  # between cells of the coarsest level, and inside the others'
    step = torch.tensor([2e-6, 0, 0])
    before, after = grid(borders - step), grid(borders + step)
    assert (before - after).abs().max() < 200 * 4e-6 * 20
    assert (grid(borders) - grid((borders + 0.05).clamp(max=1))).abs().max() > 0.5


def settings(variant: str, **options: object) -> FieldSettings:
    given = {"levels": 4, "log2_table": 10, "finest": 40, "hidden": 16, "occupancy": 8, "width": 16, **options}
    return FieldSettings.model_validate(
        {"variant": variant, "least": (-1.0, -2.0, 0.0), "most": (1.0, 2.0, 1.0), **given}
    )


@pytest.mark.parametrize("variant", ["hash", "mlp"])
def test_gradients_reach_every_weight(variant: str) -> None:
    torch.manual_seed(0)
    field = RadianceField(settings(variant))
    points = torch.rand(400, 3) * torch.tensor([2.0, 4, 1]) + torch.tensor([-1.0, -2, 0])
    directions = F.normalize(torch.randn(400, 3), dim=1)
    total = torch.tensor(0.0)
    for coarse in (False, True):
        density, colours = field.query(points, directions, coarse=coarse)
        total = total + density.sum() + colours.sum()
    total.backward()
    for name, parameter in field.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("variant", ["hash", "mlp"])
def test_density_is_per_unit_of_the_worlds_length(variant: str) -> None:
    """A scene that is written in another unit, ten times larger, stops as much light along the same way."""
    torch.manual_seed(0)
    small = RadianceField(settings(variant))
    large = RadianceField(settings(variant, least=(-10.0, -20.0, 0.0), most=(10.0, 20.0, 10.0)))
    large.load_state_dict(small.state_dict())
    points, directions = torch.rand(50, 3), F.normalize(torch.randn(50, 3), dim=1)
    density, colours = small.query(points, directions)
    stretched, same = large.query(10 * points, directions)
    assert torch.allclose(density, 10 * stretched, rtol=1e-3)
    assert torch.allclose(colours, same, atol=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"most": (1.0, -2.0, 1.0)},
        {"levels": 0},
        {"log2_table": 40},
        {"occupancy": 100_000},
        {"width": 1 << 20},
        {"coarsest": 64, "finest": 32},
        {"least": (float("nan"), 0.0, 0.0)},
        {"most": (1e30, 1e30, 1e30)},
        {"least": (0.0, 0.0, 0.0), "most": (1e-20, 1e-20, 1e-20)},
        {"unknown": 1},
    ],
)
def test_settings_are_bounded(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        settings("hash", **wrong)
