"""Rendered views as files: what a reader gets back is what was drawn, to the format's own precision."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import get_args

import numpy as np
import numpy.typing as npt
import OpenEXR
import pytest
from PIL import Image

from deployments.rendering.encode import MEDIA_TYPES, check_outputs, check_size, encode_view
from deployments.rendering.messages import Encoding, Output, Rendered
from serve.errors import InvalidRequest

ALL: tuple[Output, ...] = get_args(Output)


def view(height: int = 30, width: int = 41, seed: int = 1) -> Rendered:
    """Any picture, with values outside 0 to 1 and depths beyond what 16 bits hold."""
    rng = np.random.default_rng(seed)
    rgb = rng.uniform(-0.2, 1.3, (height, width, 3)).astype(np.float32)
    alpha = rng.uniform(0, 1, (height, width)).astype(np.float32)
    depth = rng.uniform(0, 80, (height, width)).astype(np.float32)
    depth[0, 0] = 0
    return Rendered(rgb, alpha, depth)


def smooth(height: int = 120, width: int = 160) -> Rendered:
    """A picture as lossy encoders like them."""
    rows, columns = np.mgrid[0:height, 0:width] / 40
    rgb = np.stack([0.5 + 0.4 * np.sin(rows + shift + columns) for shift in range(3)], -1).astype(np.float32)
    return Rendered(rgb, rgb[..., 0].copy(), rgb[..., 1].copy())


def data_of(rendered: Rendered, output: Output, encoding: Encoding, quality: int = 90) -> bytes:
    data = encode_view(rendered, (output,), encoding, quality).files[output]
    assert isinstance(data, bytes)
    return data


def opened(data: bytes, kind: str) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind
        return np.asarray(image)


def eight_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """To the nearest, halves to the even one, in Python's own arithmetic."""
    flat = [round(min(max(float(value), 0.0), 1.0) * 255) for value in values.ravel()]
    return np.array(flat).reshape(values.shape)


@pytest.mark.parametrize("output", ["rgb", "alpha"])
def test_png_holds_8_bits_exactly(output: Output) -> None:
    rendered = view()
    read = opened(data_of(rendered, output, "png"), "PNG")
    # A float32 product may fall on the other side of a half.
    difference = np.abs(read.astype(int) - eight_bits(getattr(rendered, output)))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01


def test_png_holds_depth_in_thousandths_of_a_unit() -> None:
    rendered = view()
    read = opened(data_of(rendered, "depth", "png"), "PNG")
    assert read.dtype == np.uint16
    near = rendered.depth < 65.535
    assert np.abs(read[near] / 1000 - rendered.depth[near]).max() <= 0.0005 + 1e-6
    assert (~near).any() and (read[~near] == 65_535).all()
    assert read[0, 0] == 0


@pytest.mark.parametrize(("encoding", "kind"), [("jpeg", "JPEG"), ("webp", "WEBP")])
@pytest.mark.parametrize("output", ["rgb", "alpha"])
def test_lossy_pictures_look_like_what_was_drawn(encoding: Encoding, kind: str, output: Output) -> None:
    rendered = smooth()
    read = opened(data_of(rendered, output, encoding), kind)
    drawn: npt.NDArray[np.float32] = getattr(rendered, output)
    if read.ndim > drawn.ndim:
        drawn = np.repeat(drawn[..., None], 3, -1)
    assert np.abs(read / 255 - drawn).mean() < 0.02


@pytest.mark.parametrize("encoding", ["jpeg", "webp"])
def test_quality_is_paid_in_bytes(encoding: Encoding) -> None:
    sizes = [len(data_of(view(100, 100), "rgb", encoding, quality)) for quality in (10, 50, 95)]
    assert sizes == sorted(set(sizes))


def test_exr_holds_all_as_it_was_drawn() -> None:
    rendered = view()
    files = encode_view(rendered, ALL, "exr", 90).files
    channels: dict[Output, Sequence[str]] = {"rgb": "RGB", "alpha": "A", "depth": "Z"}
    for output, names in channels.items():
        data = files[output]
        assert isinstance(data, bytes)
        read = OpenEXR.File(io.BytesIO(data), separate_channels=True).channels()
        assert set(read) == set(names)
        planes = np.atleast_3d(getattr(rendered, output))
        for place, name in enumerate(names):
            assert np.array_equal(read[name].pixels, planes[..., place])


def test_arrays_are_the_same_raw_and_as_files() -> None:
    rendered = view()
    raw = encode_view(rendered, ALL, "raw", 90).files
    types = {"rgb": np.uint8, "alpha": np.uint8, "depth": np.float32}
    shapes = {"rgb": (30, 41, 3), "alpha": (30, 41), "depth": (30, 41)}
    for output in ALL:
        array = raw[output]
        assert isinstance(array, np.ndarray)
        assert array.dtype == types[output] and array.shape == shapes[output]
        read = np.load(io.BytesIO(data_of(rendered, output, "npy")), allow_pickle=False)
        assert read.dtype == array.dtype and np.array_equal(read, array)
    assert np.array_equal(raw["depth"], rendered.depth)
    assert np.array_equal(raw["rgb"], opened(data_of(rendered, "rgb", "png"), "PNG"))


def test_only_what_was_asked_for_is_made() -> None:
    made = encode_view(view(), ("alpha", "depth"), "png", 90, samples=7)
    assert (list(made.files), made.samples) == (["alpha", "depth"], 7)


def test_every_allowed_combination_can_be_encoded() -> None:
    refused = set()
    for encoding, output in itertools.product(get_args(Encoding), ALL):
        try:
            check_outputs((output,), encoding)
        except InvalidRequest as error:
            assert (error.code, error.param) == ("invalid_field", "encoding")
            refused.add((output, encoding))
        else:
            assert output in encode_view(view(), (output,), encoding, 90).files
    assert refused == {("depth", "jpeg"), ("depth", "webp")}


@pytest.mark.parametrize("outputs", [(), ("rgb", "rgb")])
def test_outputs_are_named_once(outputs: tuple[Output, ...]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_outputs(outputs, "png")
    assert (refused.value.code, refused.value.param) == ("invalid_field", "outputs")


@pytest.mark.parametrize(("encoding", "longest"), [("jpeg", 65_500), ("webp", 16_383)])
def test_a_side_that_the_format_cannot_hold_is_refused_before_it_is_drawn(encoding: Encoding, longest: int) -> None:
    check_size(2, longest, encoding)
    assert opened(data_of(view(1, longest), "rgb", encoding), encoding.upper()).shape == (1, longest, 3)
    for width, height in ((longest + 1, 2), (2, longest + 1)):
        with pytest.raises(InvalidRequest) as refused:
            check_size(width, height, encoding)
        assert refused.value.param == "encoding"
    check_size(longest + 1, 2, "png")


def test_every_encoding_has_a_media_type() -> None:
    assert set(MEDIA_TYPES) == set(get_args(Encoding))
