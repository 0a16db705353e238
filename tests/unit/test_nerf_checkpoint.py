"""Files of radiance fields: what is written is read to the bit, and no file can do harm."""

from __future__ import annotations

import json
import pickle
import struct
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from deployments.nerf.checkpoint import FORMAT, read, read_settings, write
from deployments.nerf.field import RadianceField
from deployments.nerf.render import render
from deployments.nerf.settings import FieldSettings
from deployments.rendering.camera import look_at
from deployments.splat import scene_file
from serve.errors import InvalidMedia
from tests.support.gaussians import random_scene

SMALL: dict[str, Any] = {
    "least": (-1.0, -1.0, -2.0),
    "most": (1.0, 1.0, 2.0),
    "levels": 3,
    "log2_table": 8,
    "finest": 32,
    "hidden": 8,
    "occupancy": 9,
    "width": 8,
}


def field_of(variant: str = "hash", **options: Any) -> RadianceField:
    torch.manual_seed(0)
    field = RadianceField(FieldSettings.model_validate({"variant": variant, **SMALL, **options}))
    if field.grid is not None:
        field.grid.bits = torch.rand(9**3) > 0.5
    return field


@pytest.mark.parametrize("variant", ["hash", "mlp"])
def test_a_field_comes_back_to_the_bit(variant: str) -> None:
    field = field_of(variant, background=(0.25, 0.5, 1.0))
    data = write(field)
    again = read(data)
    assert again.settings == field.settings
    assert again.state_dict().keys() == field.state_dict().keys()
    for name, tensor in field.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert write(again) == data
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_field_that_was_read_draws_the_same_picture() -> None:
    field, camera = field_of(), look_at((1, -2, -5), (0, 0, 0), (0, -1, 0), 40, 24, 16)
    assert np.array_equal(render(field, camera).rgb, render(read(write(field)), camera).rgb)


def test_the_head_of_a_file_says_what_it_is() -> None:
    data = write(field_of("mlp"))
    (length,) = struct.unpack_from("<Q", data)
    assert read_settings(data[: 8 + length]).variant == "mlp"


def test_the_grid_takes_a_bit_a_cell() -> None:
    assert load(write(field_of()))["grid.bits"].shape == ((9**3 + 7) // 8,)


def changed(**changes: Any) -> bytes:
    """A file whose settings, or whose tensors, are not what they were."""
    field = field_of()
    tensors = load(write(field))
    settings = field.settings.model_dump(mode="json")
    for name, value in changes.items():
        if name in settings:
            settings[name] = value
        elif value is None:
            del tensors[name.replace("__", ".")]
        else:
            tensors[name.replace("__", ".")] = value
    return save(tensors, {"argus": json.dumps({"format": FORMAT, "settings": settings})})


def lost(value: float) -> torch.Tensor:
    weights = torch.zeros(3)
    weights[1] = value
    return weights


def header(text: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "short": b"\x01\x02",
    "a pickle": pickle.dumps({"weights": [1, 2]}),
    "zeros": bytes(64),
    "a header without end": header(b"{}", 1 << 60),
    "a header that is no JSON": header(b"{{{{"),
    "a header nested deeply": header(b"[" * 100_000),
    "a list for a header": header(b"[]"),
    "no metadata": save({"a": torch.zeros(1)}),
    "another format": save({"a": torch.zeros(1)}, {"argus": json.dumps({"format": "argus.nerf.9", "settings": {}})}),
    "a scene of Gaussians": scene_file.write(random_scene(3)),
    "no settings": save({"a": torch.zeros(1)}, {"argus": json.dumps({"format": FORMAT})}),
    "settings of a wrong type": changed(levels="many"),
    "an empty box": changed(least=[3.0, 3.0, 3.0]),
    "a box that is not finite": changed(most=[1.0, 1.0, float("inf")]),
    "more levels than there are": changed(levels=20, log2_table=22, finest=8192),
    "the other variant": changed(variant="mlp", width=1024),
    "a larger grid": changed(occupancy=256),
    "a tensor too few": changed(fine__density_in__bias=None),
    "a tensor too many": changed(another=torch.zeros(2)),
    "a tensor of another shape": changed(fine__colour_out__bias=torch.zeros(4)),
    "a tensor of another type": changed(fine__colour_out__bias=torch.zeros(3, dtype=torch.float64)),
    "not a number": changed(fine__colour_out__bias=lost(float("nan"))),
    "infinite": changed(fine__colour_out__bias=lost(float("inf"))),
    "cut off": write(field_of())[:-7],
    "longer than it says": write(field_of()) + b"\x00",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidMedia):
        read(HOSTILE[name])


def test_damage_anywhere_is_refused_or_harmless() -> None:
    """A file with any byte of its header changed is another valid field, or none; it is never another error."""
    data = write(field_of())
    (length,) = struct.unpack_from("<Q", data)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, 8 + length, 150):
        bad = bytearray(data)
        bad[place] ^= 1 << int(rng.integers(8))
        try:
            field = read(bytes(bad))
        except InvalidMedia:
            continue
        assert isinstance(field, RadianceField)
