"""Training: a field learns a scene that it is shown, and can be stopped and taken up again to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.nerf.checkpoint import write
from deployments.nerf.occupancy import OccupancyGrid
from deployments.nerf.render import render
from deployments.nerf.settings import FieldSettings
from deployments.nerf.train import Progress, TrainSettings, train
from deployments.rendering.camera import Camera, orbit
from tests.support.analytic_fields import AnalyticField, ball

SIDE = 40


def cameras(count: int, start_deg: float = 0.0) -> list[Camera]:
    return [
        orbit((0, 0, 0), 3.5, start_deg + 360 * n / count, (-35, 10, 50)[n % 3], (0, -1, 0), 36, SIDE, SIDE)
        for n in range(count)
    ]


def pictures(views: list[Camera], channels: int) -> list[np.ndarray]:
    """Of an orange ball that is not in the middle; before white, or transparent."""
    truth = AnalyticField(ball(0.5, centre=(0.3, -0.2, 0.1)))
    drawn = [render(truth, view, background=(1.0, 1.0, 1.0)) for view in views]
    if channels == 3:
        return [(view.rgb * 255 + 0.5).astype(np.uint8) for view in drawn]
    colour = np.broadcast_to(np.uint8([255, 128, 64]), (SIDE, SIDE, 3))
    return [np.dstack([colour, (view.alpha * 255 + 0.5).astype(np.uint8)]) for view in drawn]


def settings(variant: str = "hash", **options: Any) -> FieldSettings:
    given = {"levels": 4, "log2_table": 12, "coarsest": 8, "finest": 48, "hidden": 16, "occupancy": 16, "width": 32}
    return FieldSettings.model_validate(
        {"variant": variant, "least": (-1.0, -1.0, -1.0), "most": (1.0, 1.0, 1.0), **given, **options}
    )


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return -10 * float(np.log10(((one - other) ** 2).mean()))


def test_a_hash_grid_learns_a_ball_and_where_there_is_nothing() -> None:
    views, held = cameras(12), cameras(3, 17.0)
    options = TrainSettings(steps=200, points=2048, samples=32, rate=3e-2)
    field = train(pictures(views, 4), views, settings(levels=3, coarsest=6, finest=24), options)
    for view in held:
        drawn = render(field, view, background=(1.0, 1.0, 1.0))
        truth = render(AnalyticField(ball(0.5, centre=(0.3, -0.2, 0.1))), view, background=(1.0, 1.0, 1.0))
        assert psnr(drawn.rgb, truth.rgb) > 26
        sure = (truth.alpha > 0.99) & (drawn.alpha > 0.9)
        assert sure.sum() > 0.85 * (truth.alpha > 0.5).sum()
        assert np.median(np.abs(drawn.depth - truth.depth)[sure]) < 0.06
    assert field.grid is not None
    # The ball is 1/15 of the box.
    assert 0.03 < field.grid.bits.float().mean() < 0.4


def test_mlps_learn_from_coarse_to_fine() -> None:
    views = cameras(9)
    seen: list[Progress] = []
    options = TrainSettings(steps=160, rays=128, samples=8, rate=5e-3)
    train(pictures(views, 3), views, settings("mlp", background=(1.0, 1.0, 1.0)), options, progress=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 161))
    assert seen[-1].psnr > seen[5].psnr + 3
    assert seen[-1].psnr > 17


@pytest.mark.parametrize("variant", ["hash", "mlp"])
def test_training_that_was_stopped_ends_as_if_it_had_not_been(variant: str, tmp_path: Path) -> None:
    views = cameras(4)
    images = pictures(views, 4)
    options = TrainSettings(steps=40, points=1024, rays=32, samples=16, seed=3)
    whole = train(images, views, settings(variant), options)

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.step == 23:
            raise Stop

    state = tmp_path / "state"
    with pytest.raises(Stop):
        train(images, views, settings(variant), options, state=state, progress=stop)
    seen: list[Progress] = []
    again = train(images, views, settings(variant), options, state=state, progress=seen.append)
    assert [progress.step for progress in seen] == list(range(24, 41))
    assert write(again) == write(whole)


def test_the_state_of_another_training_is_refused(tmp_path: Path) -> None:
    views = cameras(3)
    images = pictures(views, 4)
    state = tmp_path / "state"
    options = TrainSettings(steps=2, points=256, samples=8)
    train(images, views, settings(), options, state=state)
    with pytest.raises(ValueError, match="another training"):
        train(images, views, settings(), TrainSettings(steps=3, points=256, samples=8), state=state)
    with pytest.raises(ValueError, match="another training"):
        train(images, views, settings(hidden=8), options, state=state)
    # It was over: nothing is left to do.
    assert write(train(images, views, settings(), options, state=state))


def test_a_seed_gives_the_same_field_and_leaves_other_chance_alone() -> None:
    views = cameras(3)
    images = pictures(views, 4)

    def made(seed: int) -> bytes:
        return write(train(images, views, settings(), TrainSettings(steps=3, points=256, samples=8, seed=seed)))

    torch.manual_seed(11)
    first = made(1)
    after = torch.rand(1)
    torch.manual_seed(11)
    assert torch.equal(torch.rand(1), after)
    assert made(1) == first != made(2)


@pytest.mark.parametrize(
    ("images", "count", "background"),
    [
        ([], 0, None),
        ([np.zeros((SIDE, SIDE, 4), np.uint8)], 2, None),
        ([np.zeros((SIDE, SIDE, 3), np.uint8)], 1, None),
        ([np.zeros((SIDE, SIDE, 4), np.uint8)], 1, (1.0, 1.0, 1.0)),
        ([np.zeros((SIDE, SIDE, 4), np.float32)], 1, None),
        ([np.zeros((SIDE, SIDE + 1, 4), np.uint8)], 1, None),
    ],
)
def test_images_must_fit_their_cameras(images: list[np.ndarray], count: int, background: Any) -> None:
    with pytest.raises(ValueError):
        train(images, cameras(3)[:count], settings(background=background), TrainSettings(steps=1))


def test_a_grid_forgets_what_is_no_longer_there() -> None:
    grid, generator = OccupancyGrid(8), torch.Generator().manual_seed(0)

    def left_half(places: torch.Tensor) -> torch.Tensor:
        return 100.0 * (places[:, 0] < 0.5)

    assert grid.bits.all()
    grid.update(left_half, 0.1, generator)
    cells = grid.bits.view(8, 8, 8)
    assert cells[:4].all() and not cells[4:].any()
    for _ in range(200):
        grid.update(lambda places: 100.0 * (places[:, 2] > 0.75), 0.1, generator)
    cells = grid.bits.view(8, 8, 8)
    assert cells[..., 6:].all() and not cells[..., :6].any()


def test_a_share_of_the_cells_is_looked_at_until_all_were() -> None:
    grid, generator = OccupancyGrid(8), torch.Generator().manual_seed(0)
    asked: list[int] = []

    def everything(places: torch.Tensor) -> torch.Tensor:
        asked.append(len(places))
        return torch.full((len(places),), 5.0)

    grid.update(everything, 0.1, generator, share=0.25)
    assert asked[-1] <= 0.25 * 512
    for _ in range(60):
        grid.update(everything, 0.1, generator, share=0.25)
    assert grid.bits.all()
