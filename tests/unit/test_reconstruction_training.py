"""Training: the loss, the optimiser, where Gaussians go, and going on exactly where a run was stopped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity

from demo.scenes3d.views import photos
from deployments.reconstruction import densify
from deployments.reconstruction.folder import WorkFolder
from deployments.reconstruction.losses import blurred, photo_loss, ssim
from deployments.reconstruction.messages import CPU_PLANS, CUDA_PLANS, Method, Plan, Quality, Spec
from deployments.reconstruction.parameters import NAMES, Parameters
from deployments.reconstruction.pipeline import Pipeline
from deployments.reconstruction.splat_training import SplatTrainer
from deployments.reconstruction.views import View, Views
from deployments.splat.scene_file import read, write
from serve.config.cluster import MAX_MESSAGE_BYTES, MIB

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Views:
    """Views whose cameras are the true ones, and points on what they see."""
    folder = tmp_path_factory.mktemp("studio")
    views = []
    for number, photo in enumerate(photos(8, 96, 72)):
        path = folder / f"{number}.png"
        Image.fromarray(photo.pixels).save(path)
        views.append(View(photo.name, path, photo.camera, held_out=number == 3))
    from demo.scenes3d.world import build

    scene = build("studio").gaussians
    some = np.random.default_rng(1).choice(len(scene), 800, replace=False)
    colours = np.clip(255 * (0.5 + 0.28209479 * scene.sh[some, 0]), 0, 255).astype(np.uint8)
    return Views(tuple(views), scene.means[some], colours, np.eye(4))


def trainer(views: Views, path: Path, steps: int = 60, count: int = 1500) -> SplatTrainer:
    return SplatTrainer(views, Plan(96, steps, count, 1), seed=1, threads=1, device=CPU, checkpoint=path)


@pytest.mark.parametrize(
    ("gpu_memory_gb", "device", "plans"),
    [(0.0, "cpu", CPU_PLANS), (6.0, "cuda", CUDA_PLANS), (None, "cuda", CUDA_PLANS)],
)
def test_a_gpu_that_can_be_seen_is_used_by_whom_its_memory_was_given_to(
    studio: Views,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu_memory_gb: float | None,
    device: str,
    plans: Mapping[Method, Mapping[Quality, Plan]],
) -> None:
    class Begun(Exception):
        pass

    def begin(views: Views, plan: Plan, *, device: torch.device, **_: object) -> None:
        raise Begun(device.type, plan)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("deployments.reconstruction.splat_training.SplatTrainer", begin)
    monkeypatch.setattr("deployments.reconstruction.pipeline.load_views", lambda folder: studio)
    folder = WorkFolder.create(tmp_path / "job", Spec(quality="high", gpu_memory_gb=gpu_memory_gb), [])
    for stage in ("intake", "features", "matching", "mapping", "views"):
        folder.mark(stage, {"advice": [], "not_aligned": []})
    with pytest.raises(Begun) as caught:
        Pipeline(folder).run()
    assert caught.value.args == (device, plans["3dgs"]["high"])


@pytest.mark.parametrize("plan", [*CPU_PLANS["3dgs"].values(), *CUDA_PLANS["3dgs"].values()])
def test_a_finished_scene_fits_the_message_to_its_store(plan: Plan) -> None:
    def size(count: int) -> int:
        sh = torch.zeros(count, (plan.sh_degree + 1) ** 2 - 1, 3)
        return len(write(Parameters.of(parameters(count).values | {"sh_rest": sh}).gaussians()))

    film_and_report = 24 * MIB  # a film of 96 frames of 640 pixels has a few
    each = (size(1100) - size(100)) / 1000
    assert plan.count * each + film_and_report < MAX_MESSAGE_BYTES


def parameters(count: int, seed: int = 1) -> Parameters:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"means": (3,), "quats": (4,), "scales": (3,), "opacities": (), "sh0": (1, 3), "sh_rest": (3, 3)}
    return Parameters.of({name: torch.randn(count, *shape, generator=draw) for name, shape in shapes.items()})


class TestLoss:
    def test_structural_similarity_is_that_of_scikit_image(self) -> None:
        """Away from the border, where the two differ in what they take to be outside."""
        rng = np.random.default_rng(1)
        first = rng.random((60, 70, 3)).astype(np.float32)
        second = np.clip(first + 0.2 * rng.standard_normal(first.shape), 0, 1).astype(np.float32)
        _, theirs = structural_similarity(
            first, second, channel_axis=2, data_range=1.0, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, full=True,
        )  # fmt: skip
        inner = (slice(10, -10), slice(10, -10))
        # The mean over a picture whose rim is cut away from both.
        ours = [float(ssim(torch.from_numpy(first[i : i + 41, 10:61]), torch.from_numpy(second[i : i + 41, 10:61])))
                for i in (5, 10)]  # fmt: skip
        assert abs(np.mean(ours) - theirs[inner].mean()) < 0.03
        assert float(ssim(torch.from_numpy(first), torch.from_numpy(first))) == pytest.approx(1.0, abs=1e-6)

    def test_the_blur_is_its_own_gradient(self) -> None:
        values, slopes = torch.rand(9, 13, 2, requires_grad=True), torch.rand(9, 13, 2)
        (found,) = torch.autograd.grad((blurred(values) * slopes).sum(), values)
        step = 0.5
        for place in ((0, 0, 0), (4, 6, 1), (8, 12, 0)):
            more = values.detach().clone()
            more[place] += step
            numeric = ((blurred(more) - blurred(values.detach())) * slopes).sum() / step
            assert float(found[place]) == pytest.approx(float(numeric), rel=1e-3)

    def test_a_shift_costs_more_than_nothing(self) -> None:
        picture = torch.rand(40, 40, 3)
        assert float(photo_loss(picture, picture)) == pytest.approx(0.0, abs=1e-6)
        assert float(photo_loss(picture.roll(2, 1), picture)) > 0.1


class TestParameters:
    def test_steps_are_adams(self) -> None:
        ours = parameters(7)
        theirs = {name: value.detach().clone().requires_grad_() for name, value in ours.values.items()}
        rates = dict(zip(NAMES, (0.1, 0.01, 0.05, 0.2, 0.03, 0.002), strict=True))
        groups = [{"params": [theirs[name]], "lr": rates[name]} for name in NAMES]
        adam = torch.optim.Adam(groups, eps=1e-15)
        for step in range(5):
            for values in (ours.values, theirs):
                sum((value * value * (step + 1)).sum() for value in values.values()).backward()  # type: ignore[union-attr]
            ours.step(rates)
            adam.step()
            adam.zero_grad()
        for name in NAMES:
            torch.testing.assert_close(ours.values[name].detach(), theirs[name].detach())

    def test_rows_that_come_have_no_past(self) -> None:
        gaussians = parameters(4)
        sum(value.square().sum() for value in gaussians.values.values()).backward()  # type: ignore[union-attr]
        gaussians.step(dict.fromkeys(NAMES, 0.1))
        gaussians.append(gaussians.rows(torch.tensor([1, 2])))
        assert len(gaussians) == 6
        assert torch.equal(gaussians.values["means"][4:], gaussians.values["means"][1:3])
        assert float(gaussians.first["means"][4:].abs().sum()) == 0
        assert float(gaussians.first["means"][:4].abs().sum()) > 0


class TestDensify:
    @pytest.mark.parametrize("copies", [2, 5, 16])
    def test_copies_look_as_the_one_did(self, copies: int) -> None:
        """Along a line through the middle: what n of them cover against what the one covered, in sum."""
        opacity, scale = torch.tensor([0.8]), torch.full((1, 3), 0.5)
        weaker, smaller = densify.shares(opacity, scale, torch.tensor([copies]))
        x = torch.linspace(-4, 4, 4001)
        one = opacity * torch.exp(-(x**2) / (2 * scale[0, 0] ** 2))
        many = 1 - (1 - weaker * torch.exp(-(x**2) / (2 * smaller[0, 0] ** 2))) ** copies
        assert float(many.sum()) == pytest.approx(float(one.sum()), rel=0.01)
        assert float(many.max()) == pytest.approx(float(one.max()), rel=1e-4)

    def test_the_faded_move_to_where_the_pictures_pull(self) -> None:
        gaussians = parameters(50)
        with torch.no_grad():
            gaussians.values["opacities"].fill_(1.0)
            gaussians.values["opacities"][:10] = math.log(0.001)
        pull = torch.zeros(50)
        pull[30] = pull[0] = 1.0  # a faded one pulls nothing
        place = gaussians.values["means"][30].detach().clone()
        moved = densify.refine(gaussians, pull, 5, torch.Generator().manual_seed(1))
        assert (moved, len(gaussians)) == (15, 55)
        at = (gaussians.values["means"].detach() == place).all(dim=1)
        assert at.nonzero()[:, 0].tolist() == [*range(10), 30, *range(50, 55)]
        assert float(gaussians.values["opacities"][30].detach()) < 1.0

    def test_without_pull_nothing_moves(self) -> None:
        gaussians = parameters(5)
        assert densify.refine(gaussians, torch.zeros(5), 3, torch.Generator()) == 0
        assert len(gaussians) == 5

    def test_only_the_faint_are_shaken(self) -> None:
        gaussians = parameters(2)
        with torch.no_grad():
            gaussians.values["opacities"][:] = torch.tensor([5.0, -9.0])
        before = gaussians.values["means"].detach().clone()
        densify.shake(gaussians, 1e-4, torch.Generator().manual_seed(1))
        shift = (gaussians.values["means"].detach() - before).norm(dim=1)
        assert float(shift[0]) < 1e-6 < 1e-3 < float(shift[1])


class TestTrainer:
    def test_views_that_were_not_trained_on_come_closer(self, studio: Views, tmp_path: Path) -> None:
        trained = trainer(studio, tmp_path / "a")
        (held_out,) = studio.held_out
        photo = held_out.pixels().astype(float)
        before = np.square(trained.picture(held_out.camera) - photo).mean()
        now = trained.train(60)
        after = np.square(trained.picture(held_out.camera) - photo).mean()
        assert (now.step, now.count) == (60, 1500)
        assert after < 0.85 * before
        scene = read(trained.scene())
        assert 0 < len(scene) <= 1500
        assert scene.sh_degree == 1

    def test_a_stopped_run_ends_as_one_that_never_stopped(self, studio: Views, tmp_path: Path) -> None:
        whole = trainer(studio, tmp_path / "a", steps=40)
        whole.train(40)
        first = trainer(studio, tmp_path / "b", steps=40)
        first.train(17)
        first.save()
        second = trainer(studio, tmp_path / "b", steps=40)
        assert second.step == 17
        second.train(40)
        assert second.scene() == whole.scene()
