"""Pictures of the load tests: each another file and other pixels, all of the same scene."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from benchmarks.workloads.pictures import SIZE, Pictures, note_in, picture, split_rows
from demo.scenes import render
from serve.media.image import ImageLimits, inspect_image

SHOTS = 40


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGUS_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "bench-cache"))


def decoded(jpeg: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(jpeg)) as image:
        return np.asarray(image.convert("RGB"))


def test_all_shots_of_a_scene_differ_in_bytes_and_in_pixels() -> None:
    one = picture(3, "easy")
    files = [one.shot(number, b"salt") for number in range(SHOTS)]
    assert len(set(files)) == SHOTS
    assert len({decoded(file).tobytes() for file in files}) == SHOTS


def test_shots_differ_in_what_a_small_model_is_shown() -> None:
    one = picture(3, "easy")
    small = {
        Image.open(io.BytesIO(one.shot(number, b"salt"))).convert("RGB").resize((64, 64)).tobytes()
        for number in range(SHOTS)
    }
    assert len(small) == SHOTS


def test_every_shot_shows_the_scene() -> None:
    one = picture(5, "hard")
    scene = render(one.scene, SIZE).astype(float)
    for number in range(SHOTS):
        pixels = decoded(one.shot(number, b"salt"))
        assert pixels.shape == (SIZE, SIZE, 3)
        assert np.abs(pixels - scene).mean() < 6  # noise and JPEG, no torn rows
        assert np.abs(pixels.reshape(28, -1) - scene.reshape(28, -1)).mean(1).max() < 10


def test_the_scene_follows_from_the_number_and_no_file_is_shown_twice() -> None:
    one, other = Pictures("easy", (1, 2, 3)), Pictures("easy", (1, 2, 3))
    scenes = [[pictures.take(number)[0].scene.index for number in range(30)] for pictures in (one, other)]
    assert scenes[0] == scenes[1]
    assert set(scenes[0]) == {1, 2, 3}
    files = [pictures.take(number)[1] for pictures in (one, other, one) for number in range(30)]
    assert len(set(files)) == len(files)


def test_our_own_edge_takes_them() -> None:
    info = inspect_image(picture(1, "easy").shot(7, b"salt"), ImageLimits(2**20, 10**6, 1000, 4))
    assert (info.width, info.height, info.media_type) == (SIZE, SIZE, "image/jpeg")


def test_the_file_says_its_colour_and_only_if_it_has_a_note() -> None:
    one = picture(3, "easy")
    assert note_in(one.shot(1, b"salt")) == one.colour
    plain = io.BytesIO()
    Image.fromarray(render(one.scene, SIZE)).save(plain, "JPEG")
    assert note_in(plain.getvalue()) == ""


def test_rows_put_together_are_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(render(picture(1, "easy").scene, SIZE)).save(
        path, subsampling="4:2:2", restart_marker_rows=1, quality=90
    )
    head, rows = split_rows(path.read_bytes())
    assert len(rows) == SIZE // 8
    assert head + b"".join(rows) == path.read_bytes()
