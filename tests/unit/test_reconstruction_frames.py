"""The scene's frame, the path of the film, and the folder that work lies in."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.reconstruction import similarity
from deployments.reconstruction.film import arc, focus, path, turntable
from deployments.reconstruction.folder import WorkFolder, replacing
from deployments.reconstruction.messages import CPU_PLANS, CUDA_PLANS, STAGES, Spec
from deployments.reconstruction.pipeline import fraction_of
from deployments.reconstruction.views import UP, View, Views, moved, upright_frame
from deployments.rendering.camera import Camera, orbit

Floats = NDArray[np.float64]


def rotation(seed: int) -> Floats:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return np.asarray(q * np.sign(np.linalg.det(q)))


def cameras(
    azimuths: Floats, elevation: float = 30.0, up: tuple[float, float, float] = (0.0, -1.0, 0.0)
) -> list[Camera]:
    return [orbit((0.1, 0.2, 0.3), 2.0, float(azimuth), elevation, up, 50.0, 160, 120) for azimuth in azimuths]


def seen(around: list[Camera]) -> Views:
    points = np.random.default_rng(1).normal(0, 0.3, (200, 3)).astype(np.float32)
    views = tuple(View(str(i), Path(str(i)), camera, held_out=False) for i, camera in enumerate(around))
    return Views(views, points, np.zeros((200, 3), np.uint8), np.eye(4))


class TestFrame:
    @pytest.mark.parametrize("seed", [1, 2, 3])
    def test_however_the_aligned_frame_lies_the_scene_stands_upright(self, seed: int) -> None:
        """As after structure from motion, whose frame is any similarity of the true one."""
        turn, scale, shift = rotation(seed), 3.7, np.array([5.0, -2.0, 1.0])
        points = np.random.default_rng(seed).normal(0, 1, (500, 3))
        truth = cameras(np.linspace(0, 330, 12))
        world = np.eye(4)
        world[:3, :3], world[:3, 3] = scale * turn, shift
        poses = moved(np.stack([camera.world_to_camera for camera in truth]), world)
        frame = upright_frame(poses, points @ (scale * turn).T + shift, "auto")
        whole = frame @ world
        np.testing.assert_allclose(whole[:3, :3] @ UP / np.cbrt(np.linalg.det(whole[:3, :3])), UP, atol=1e-6)
        found = points @ whole[:3, :3].T + whole[:3, 3]
        np.testing.assert_allclose(np.median(found, axis=0), 0, atol=0.1)
        assert np.percentile(np.linalg.norm(found - np.median(found, axis=0), axis=1), 80) == pytest.approx(1, abs=0.1)

    def test_moved_cameras_see_the_same(self) -> None:
        (camera,) = cameras(np.array([20.0]))
        frame = np.eye(4)
        frame[:3, :3], frame[:3, 3] = 0.4 * rotation(4), [1.0, 2.0, 3.0]
        (pose,) = moved(camera.world_to_camera[None], frame)
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-9)
        points = np.random.default_rng(1).normal(size=(9, 3))
        before = points @ camera.world_to_camera[:3, :3].T + camera.world_to_camera[:3, 3]
        after = (points @ frame[:3, :3].T + frame[:3, 3]) @ pose[:3, :3].T + pose[:3, 3]
        np.testing.assert_allclose(after[:, :2] / after[:, 2:], before[:, :2] / before[:, 2:], atol=1e-9)

    @pytest.mark.parametrize(
        ("up", "axis"), [("x", (1, 0, 0)), ("-z", (0, 0, -1)), ("y", (0, 1, 0)), ("-y", (0, -1, 0))]
    )
    def test_up_as_told(self, up: str, axis: tuple[int, int, int]) -> None:
        poses = np.stack([camera.world_to_camera for camera in cameras(np.arange(3.0))])
        frame = upright_frame(poses, np.random.default_rng(1).normal(size=(50, 3)), up)  # type: ignore[arg-type]
        turned = frame[:3, :3] @ axis
        np.testing.assert_allclose(turned / np.linalg.norm(turned), UP, atol=1e-9)
        assert np.linalg.det(frame[:3, :3]) > 0

    def test_a_similarity_is_found_again(self) -> None:
        source, turn = np.random.default_rng(1).normal(size=(10, 3)), rotation(7)
        scale, found, shift = similarity(source, 2.5 * source @ turn.T + [1, 2, 3])
        assert scale == pytest.approx(2.5)
        np.testing.assert_allclose(found, turn, atol=1e-9)
        np.testing.assert_allclose(shift, [1, 2, 3], atol=1e-9)


class TestFilm:
    @pytest.mark.parametrize(
        ("azimuths", "start", "width"),
        [([0, 90, 180, 280], 280, 260), ([350, 10, 30], 350, 40), ([5], 5, 0), ([100, 80, 90], 80, 20)],
    )
    def test_arcs(self, azimuths: list[float], start: float, width: float) -> None:
        assert arc(np.array(azimuths, float)) == pytest.approx((start, width))

    def test_around_where_the_photos_go_around(self) -> None:
        views = seen(cameras(np.linspace(0, 345, 24)))
        np.testing.assert_allclose(focus(views), [0.1, 0.2, 0.3], atol=1e-6)
        film = path(views, 160)
        places = np.stack([camera.position for camera in film]) - [0.1, 0.2, 0.3]
        np.testing.assert_allclose(np.linalg.norm(places, axis=1), 2.0, atol=1e-3)
        np.testing.assert_allclose(places.mean(axis=0)[[0, 2]], 0, atol=1e-6)
        assert {(camera.width, camera.height) for camera in film} == {(160, 120)}

    def test_to_and_fro_where_they_do_not(self) -> None:
        taken = cameras(np.array([40.0, 60.0, 80.0]))
        film = path(seen(taken), 160)
        near = [min(np.linalg.norm(a.position - b.position) for b in taken) for a in film]
        assert max(near) < 0.4
        np.testing.assert_allclose(film[0].position, film[-1].position, atol=0.05)

    def test_parallel_views_have_a_focus_before_them(self) -> None:
        """As of photos of a facade: lines of sight do not meet."""
        taken = []
        for x in (-0.2, 0.0, 0.2):
            pose = np.eye(4)
            pose[:3, 3] = [-x, 0, 3]  # looking along z from 3 behind
            taken.append(Camera(160, 120, 150, 150, 80, 60, pose))
        assert focus(seen(taken)) == pytest.approx([0, 0, 0], abs=0.1)

    def test_the_film_is_a_film(self) -> None:
        drawn: list[Camera] = []

        def draw(camera: Camera) -> NDArray[np.uint8]:
            drawn.append(camera)
            return np.full((camera.height, camera.width, 3), len(drawn), np.uint8)

        data = turntable(seen(cameras(np.linspace(0, 345, 24))), 65, draw, lambda done, total: None)
        with av.open(io.BytesIO(data)) as video:
            stream = video.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (64, 48, len(drawn))


class TestFolder:
    def test_it_is_made_once(self, tmp_path: Path) -> None:
        spec = Spec(method="nerf", steps=20, max_photos=7)
        first = WorkFolder.create(tmp_path / "job", spec, [b"one", b"two"])
        WorkFolder.create(tmp_path / "job", Spec(), [b"other"])
        assert first.spec() == spec
        assert first.names() == ["photo 1", "photo 2"]
        assert [path.read_bytes() for path in sorted(first.media.iterdir())] == [b"one", b"two"]
        assert (first.status().state, first.finished()) == ("queued", [])
        assert [path.name for path in tmp_path.iterdir()] == ["job"]

    def test_what_fails_half_way_leaves_what_was(self, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("old")
        with pytest.raises(RuntimeError), replacing(target) as new:
            new.write_text("half")
            raise RuntimeError
        assert target.read_text() == "old"
        with replacing(tmp_path / "folder") as new:
            new.mkdir()
            (new / "a").write_text("a")
        with replacing(tmp_path / "folder") as new:
            new.mkdir()
            (new / "b").write_text("b")
        assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]

    def test_stages_are_done_when_they_say_so(self, tmp_path: Path) -> None:
        folder = WorkFolder.create(tmp_path / "job", Spec(), [])
        folder.mark("features", {"found": 3})
        folder.mark("intake", {"used": 9})
        assert folder.finished() == ["intake", "features"]
        assert folder.report("intake") == {"used": 9}
        assert not folder.is_done("matching")

    def test_a_plan_is_the_qualitys_but_for_what_is_told(self) -> None:
        assert Spec(quality="high").plan(cuda=False) == CPU_PLANS["3dgs"]["high"]
        told = Spec(method="nerf", steps=7).plan(cuda=True)
        assert told == replace(CUDA_PLANS["nerf"]["standard"], steps=7)

    def test_progress_only_grows(self) -> None:
        fractions = [fraction_of(stage, done, 4) for stage in STAGES for done in range(5)]
        assert fractions == sorted(fractions)
        assert (fractions[0], fractions[-1]) == (0.0, pytest.approx(1.0))
