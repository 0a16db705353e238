"""Scene files of every format: what is written is read again, by us and by others, and what others write by us."""

from __future__ import annotations

import math
import struct
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.spatial import cKDTree

from deployments.rendering.camera import orbit
from deployments.rendering.messages import RasterOptions
from deployments.splat import formats, scene_file
from deployments.splat.formats import FORMATS, FormatName
from deployments.splat.gaussians import Gaussians
from deployments.splat.rasteriser import make_rasteriser
from serve.errors import Unsupported
from tests.support.gaussians import Precision, assert_kept, moving_scene, random_scene, real_file
from tests.support.scene_bytes import (
    ONE,
    forge,
    lossless,
    ply_by_hand,
    sog_with,
    spz_by_hand,
)

PRECISION: dict[FormatName, Precision] = {
    "argus": Precision(0, 1e-6, 1e-6, 0, 0, 0),
    "ply": Precision(0, 1e-6, 1e-5, 1e-6, 0, 0),
    "splat": Precision(0, 0.006, 1e-6, 0.002, 0.007, None),
    # 11 bits of a chunk's extent; a byte for a range of 8.
    "compressed_ply": Precision(2e-3, 0.002, 3e-3, 0.002, 0.005, 0.0157),
    # Scales in steps of 1/16 of a logarithm; harmonics in steps of 1/16, or 1/8 above degree 1.
    "spz": Precision(2e-6, 0.002, 0.033, 0.002, 0.014, 0.07),
    "sog": Precision(6e-5, 0.006, 0.03, 0.002, 0.02, 0.05),
}


def read(data: bytes, format: FormatName | None = None, most: int = 200_000) -> Gaussians:
    scene = formats.read(data, format, max_gaussians=most)
    scene_file.check(scene)
    assert np.allclose(np.linalg.norm(scene.quats, axis=1), 1, atol=1e-5)
    return scene


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("degree", range(4))
def test_what_is_written_is_read_again(format: FormatName, degree: int) -> None:
    scene = random_scene(700, degree)
    data = formats.write(scene, format)
    assert formats.detect(data) == format
    assert_kept(read(data), scene, PRECISION[format])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("count", [1, 2, 255, 256, 257])
def test_any_number_of_gaussians_is_kept(format: FormatName, count: int) -> None:
    scene = random_scene(count, 1)
    assert_kept(read(formats.write(scene, format)), scene, PRECISION[format])


@pytest.mark.parametrize(
    ("far", "shift", "scale"),
    [(1e7, 0, 1), (2e5, 0, 1), (0, 5e6, 1), (0, 0, 1e8), (0, 0, 1e-5)],
    ids=["one beyond 24 bits", "one far away", "far from the origin", "too wide", "too small"],
)
def test_spz_refuses_a_scene_whose_places_it_cannot_hold(far: float, shift: float, scale: float) -> None:
    scene = random_scene(300, 0)
    means = scene.means * np.float32(scale) + np.float32(shift)
    means[0] += far
    wide = replace(scene, means=means, scales=scene.scales * np.float32(scale))
    with pytest.raises(Unsupported) as caught:
        formats.write(wide, "spz")
    assert (caught.value.code, caught.value.param) == ("scene_too_wide", "format")
    assert len(read(formats.write(wide, "ply"))) == 300


def test_spz_refuses_gaussians_that_it_would_make_smaller() -> None:
    scene = random_scene(300, 0)
    scales = scene.scales.copy()
    scales[7] = (1, np.exp(5.96), 1)  # a byte holds logarithms up to 5.9375, and rounds to the nearest sixteenth
    again = read(formats.write(replace(scene, scales=scales), "spz"))
    assert np.log(again.scales[7, 1]) == pytest.approx(5.9375, abs=1e-4)
    scales[7:9, 1] = np.exp(5.98), np.exp(7)
    with pytest.raises(Unsupported, match="2 Gaussians are larger") as caught:
        formats.write(replace(scene, scales=scales), "spz")
    assert (caught.value.code, caught.value.param) == ("scene_too_wide", "format")


def test_spz_refuses_gaussians_that_it_would_make_larger_to_be_seen() -> None:
    scene = random_scene(300, 0)
    dust = replace(scene, scales=scene.scales * np.float32(1e-6))
    assert len(read(formats.write(dust, "spz"))) == 300  # as large as 1/40,000 of the scene, nobody sees it
    small = replace(scene, means=scene.means * np.float32(0.01), scales=scene.scales * np.float32(0.01))
    assert len(read(formats.write(small, "spz"))) == 300
    small.scales[7:9, 2] = 1e-9
    with pytest.raises(Unsupported, match="2 Gaussians are smaller") as caught:
        formats.write(small, "spz")
    assert (caught.value.code, caught.value.param) == ("scene_too_small", "format")


@pytest.mark.parametrize("format", ["sog", "compressed_ply"])
def test_places_far_from_the_origin_are_as_exact_as_their_numbers(format: FormatName) -> None:
    scene = random_scene(300, 0)
    scene = replace(scene, means=scene.means + np.float32(1e4))
    found = read(formats.write(scene, format))
    distance, _ = cKDTree(found.means).query(scene.means)
    # A step of float32 on each axis, or of the format's own bits.
    assert distance.max() <= max(2 * float(np.spacing(np.float32(1e4))), PRECISION[format].means)


def test_sog_keeps_the_few_scales_and_colours_that_are_not_as_all_others() -> None:
    scene = random_scene(4000, 0)
    scene.scales[:] = 0.01
    scene.scales[:8] = np.linspace(0.2, 2, 24, dtype=np.float32).reshape(8, 3)
    found = read(formats.write(scene, "sog"))
    _, order = cKDTree(found.means).query(scene.means)
    np.testing.assert_allclose(found.scales[order], scene.scales, rtol=1e-3)


@pytest.mark.parametrize("start", [b"\x1f\x8b\x00\x41", b"\x00" * 8 + b"{\x00\x00A"], ids=["gzip", "safetensors"])
def test_a_splat_file_may_begin_like_another(start: bytes) -> None:
    data = formats.write(random_scene(20, 0), "splat")
    data = start + data[len(start) :]
    assert formats.detect(data) == "splat"
    assert len(read(data)) == 20


@pytest.mark.parametrize(("far", "shift", "scale"), [(1e3, 0, 1), (0, 1e3, 1), (0, 0, 1e6), (0, 0, 1e-2)])
def test_spz_places_a_wide_scene_as_finely_as_its_bits_allow(far: float, shift: float, scale: float) -> None:
    scene = random_scene(300, 0)
    means = scene.means * np.float32(scale) + np.float32(shift)
    means[0] += far
    again = read(formats.write(replace(scene, means=means), "spz"))
    assert np.abs(again.means - means).max() <= max(float(np.abs(means).max()), 1.0) / (1 << 20)


@pytest.mark.parametrize("format", FORMATS)
def test_a_scene_looks_the_same_through_a_format(format: FormatName) -> None:
    scene = random_scene(400)
    camera = orbit((0, 0, 0), 4, 30, 20, (0, 1, 0), 45, 96, 72)
    rasteriser = make_rasteriser("cpu")
    # .splat files have no harmonics above degree 0.
    options = RasterOptions(sh_degree=0 if format == "splat" else None)
    pictures = [
        rasteriser.render(rasteriser.load(one), [camera], options)[0].rgb
        for one in (scene, read(formats.write(scene, format)))
    ]
    assert pictures[0].std() > 0.1
    error = float(((pictures[0] - pictures[1]) ** 2).mean())
    assert 10 * math.log10(1 / max(error, 1e-12)) > 38


@pytest.mark.parametrize("format", FORMATS)
def test_what_moves_is_written_as_it_stands_at_time_0(format: FormatName) -> None:
    scene = moving_scene(50)
    found = read(formats.write(scene, format))
    assert_kept(found, scene, PRECISION[format])
    if format == "argus":
        assert found.motion is not None and scene.motion is not None
        assert np.array_equal(found.motion.waves, scene.motion.waves)
    else:
        assert found.motion is None


@pytest.mark.parametrize("format", FORMATS)
def test_the_same_scene_gives_the_same_file(format: FormatName) -> None:
    scene = random_scene(1500, 1)
    assert formats.write(scene, format) == formats.write(scene, format)


def test_a_splat_file_begins_with_what_is_large_and_opaque() -> None:
    found = read(formats.write(random_scene(500), "splat"))
    weight = found.opacities * found.scales.prod(axis=1)
    # Opacities were rounded after sorting.
    assert (np.diff(weight) <= 0.02 * weight[:-1]).all() and weight[0] > 10 * weight[-1]


def test_a_palette_finds_the_harmonics_that_a_large_scene_repeats() -> None:
    scene = random_scene(6000)
    kinds = np.random.default_rng(5).integers(0, 40, 6000)
    scene = replace(scene, sh=np.concatenate([scene.sh[:, :1], scene.sh[kinds, 1:]], axis=1))
    found = read(formats.write(scene, "sog"))
    distance, order = cKDTree(found.means).query(scene.means)
    assert distance.max() <= PRECISION["sog"].means
    errors = (found.sh[order] - scene.sh)[:, 1:]
    assert np.sqrt((errors**2).mean()) < 0.1 * scene.sh[:, 1:].std()


def test_a_palette_may_be_larger_than_the_rest_of_its_file() -> None:
    """PlayCanvas' splat-transform writes 32,768 entries for 40,000 Gaussians; noise is the least that WebP can pack."""
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 256, (512, 64 * 15, 3), np.uint8)
    which = rng.integers(0, 32_768, (200, 200))
    labels = np.stack([which & 255, which >> 8, which * 0], axis=2).astype(np.uint8)
    book = np.linspace(-1, 1, 256)
    meta = {"count": 32_768, "bands": 3, "codebook": book.tolist(), "files": ["shN_centroids.webp", "shN_labels.webp"]}
    data = sog_with(random_scene(40_000, 0), shN=meta, shN_centroids=lossless(codes), shN_labels=lossless(labels))
    expected = book[codes].reshape(32_768, 15, 3)[which.ravel()]
    assert np.allclose(read(data).sh[:, 1:], expected, atol=1e-6)


@pytest.mark.parametrize(("name", "count"), [("plant.splat", 113_648), ("spot_10k.splat", 10_000)])
def test_real_scenes_are_read(name: str, count: int) -> None:
    data = real_file(name)
    assert formats.detect(data) == "splat"
    scene = read(data)
    assert len(scene) == count
    again = read(formats.write(scene, "splat"))
    assert np.array_equal(np.sort(again.means, axis=0), np.sort(scene.means, axis=0))


# Another program that reads and writes all of them.
FORGE_NAMES: dict[FormatName, str] = {
    "ply": "ply",
    "splat": "splat",
    "compressed_ply": "compressed.ply",
    "spz": "spz",
    "sog": "sog",
}


def half_turn_about_x(scene: Gaussians) -> Gaussians:
    """By the general rule, not by signs as in the code."""
    from deployments.splat.edits import All, Rotate, apply

    def fetch(name: str, version: int | None) -> Gaussians:
        raise AssertionError(name)

    turned = apply(scene, [Rotate(All(), (1, 0, 0), 180, (0, 0, 0))], fetch, max_gaussians=len(scene))
    # A Gaussian's own axes have no sign; other quaternions of the same shape make them point the other way.
    w, x, y, z = turned.quats.T
    return replace(turned, quats=np.stack([x, -w, -z, y], axis=1))


@pytest.mark.parametrize("format", FORGE_NAMES)
def test_what_is_written_is_read_by_another_program(format: FormatName) -> None:
    scene = random_scene(300)
    found = read(forge(formats.write(scene, format), FORGE_NAMES[format], "ply"), "ply")
    # It leaves SPZ's axes as they are: right, up, back.
    assert_kept(half_turn_about_x(found) if format == "spz" else found, scene, PRECISION[format])


# gaussforge puts a compressed PLY's harmonics in another order than the format's makers, so only degree 0 is compared.
@pytest.mark.parametrize(
    ("format", "options", "degree"),
    [
        ("ply", {}, 3),
        ("compressed_ply", {}, 0),
        ("spz", {"spz_version": 3}, 3),
        ("spz", {"spz_version": 4}, 3),
        ("sog", {}, 3),
    ],
)
def test_what_another_program_writes_is_read(format: FormatName, options: dict[str, Any], degree: int) -> None:
    scene = random_scene(300, degree)
    data = forge(formats.write(scene, "ply"), "ply", FORGE_NAMES[format], **options)
    assert formats.detect(data) == format
    found = read(data)
    loose = Precision(5e-3, 0.006, 0.04, 0.004, 0.02, 0.07)
    assert_kept(half_turn_about_x(found) if format == "spz" else found, scene, loose)


@pytest.mark.parametrize(
    ("version", "rotation", "expected"),
    [
        (2, bytes([255, 128, 128]), (0, 1, 0, 0)),
        # The largest is w (index 3); x is +511/511 of the square root of a half, y and z are 0.
        (3, struct.pack("<I", 3 << 30 | 511 << 20), (0.7071, 0.7071, 0, 0)),
        # The largest is x (index 0), then y, z, w: z is negative.
        (3, struct.pack("<I", 0 << 30 | (512 | 511) << 10), (0, 0.7071, 0, 0.7071)),
    ],
)
def test_spz_by_hand(version: int, rotation: bytes, expected: tuple[float, ...]) -> None:
    scene = read(spz_by_hand(version, rotation))
    # Up and back become down and forward.
    assert np.allclose(scene.means, (1, -2, 0.5))
    assert np.allclose(scene.scales, np.exp([0, -1, -2]))
    assert np.allclose(scene.opacities, 128 / 255)
    assert np.allclose(scene.quats, expected, atol=0.01)
    assert np.allclose(scene.sh[0, 0], (np.array([255, 0, 128]) / 255 - 0.5) / 0.15, atol=1e-5)


def test_ply_by_hand() -> None:
    rest = {f"f_rest_{index}": float(index) for index in range(9)}
    # The order of properties is free, further ones are left alone, quaternions have any length.
    for data in (ply_by_hand({**rest, "nx": 9.0, **ONE}), ply_by_hand({**ONE, **rest, "mine": 3.0}, kind="double")):
        scene = read(data)
        assert np.allclose(scene.means, 1.5) and np.allclose(scene.scales, math.exp(-1))
        assert np.allclose(scene.opacities, 0.5) and np.allclose(scene.quats, (1, 0, 0, 0))
        # Red first: its three harmonics, then those of green, then those of blue.
        assert np.allclose(scene.sh[0], np.array([[0.25] * 3, [0.0, 3.0, 6.0], [1.0, 4.0, 7.0], [2.0, 5.0, 8.0]]))


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
@pytest.mark.parametrize("kind", ["float", "double"])
def test_a_ply_file_may_be_text_or_big_endian(form: str, kind: str) -> None:
    one = {**ONE, "y": -2.5e-3, "scale_1": -math.inf, "f_dc_2": 0.1, **{f"f_rest_{n}": 0.01 * n for n in range(9)}}
    expected = read(ply_by_hand(one, kind=kind))
    for table_behind in (b"", b"3 0 1 2\n"):
        scene = read(ply_by_hand(one, form=form, kind=kind) + table_behind)
        for name in ("means", "quats", "scales", "opacities", "sh"):
            np.testing.assert_array_equal(getattr(scene, name), getattr(expected, name))


def test_infinite_logits_and_logarithms_are_what_they_stand_for() -> None:
    scene = read(ply_by_hand({**ONE, "opacity": math.inf, "scale_1": -math.inf}))
    assert scene.opacities[0] == 1
    assert 0 < scene.scales[0, 1] < 1e-6


def test_windows_line_ends_are_read() -> None:
    head, body = ply_by_hand(ONE).split(b"end_header\n")
    assert len(read(head.replace(b"\n", b"\r\n") + b"end_header\r\n" + body)) == 1


def test_tables_behind_the_gaussians_are_left_alone() -> None:
    head, body = ply_by_hand(ONE).split(b"end_header\n")
    for more in (b"element face 1\nproperty list uchar int corners\n", b"element camera 1\nproperty float x\n"):
        assert len(read(head + more + b"end_header\n" + body + bytes(40))) == 1


def test_their_names_alone_need_no_library() -> None:
    code = (
        "import sys, deployments.splat.formats, deployments.splat.edits\n"
        "print({'PIL', 'safetensors', 'faiss', 'gaussforge', 'torch', 'numba'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
