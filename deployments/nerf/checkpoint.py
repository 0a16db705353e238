"""Files of radiance fields: safetensors, so that loading one is a copy and nothing in it can run."""

from __future__ import annotations

import json
import struct
from typing import Final

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from deployments.nerf.field import RadianceField
from deployments.nerf.settings import FieldSettings
from serve.errors import InvalidMedia

FORMAT: Final = "argus.nerf.1"
_KEY: Final = "argus"
# Of the occupancy grid, eight cells a byte.
_BITS: Final = "grid.bits"
_MOST_HEADER: Final = 1 << 20


def write(field: RadianceField) -> bytes:
    """The file's bytes; the same field gives the same bytes."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in field.state_dict().items()}
    if _BITS in tensors:
        tensors[_BITS] = _packed(tensors[_BITS])
    metadata = {"format": FORMAT, "settings": field.settings.model_dump(mode="json")}
    # One key: safetensors writes several in an order that changes from run to run.
    return save(tensors, {_KEY: json.dumps(metadata, sort_keys=True)})


def read_settings(data: bytes) -> FieldSettings:
    """What the file says of itself; the head of the file is enough.

    Raises:
        InvalidMedia: it is another file, or a damaged one.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        if length > min(_MOST_HEADER, len(data) - 8):
            raise ValueError("its header is longer than itself, or too long")
        metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}")
        return FieldSettings.model_validate(metadata["settings"])
    except (KeyError, TypeError, ValueError, RecursionError, struct.error, ValidationError) as error:
        raise InvalidMedia(f"This is not a radiance field of ours: {type(error).__name__}: {error}") from error


def read(data: bytes, device: torch.device | str = "cpu") -> RadianceField:
    """The field in a file that `write` made, ready to be drawn.

    Raises:
        InvalidMedia: it is another file, a damaged one, or its tensors are not those that its settings need.
    """
    settings = read_settings(data)
    # Shapes first, without memory: a small file must not make a large field.
    with torch.device("meta"):
        wanted = {
            name: _stored(name, tensor.shape, tensor.dtype)
            for name, tensor in RadianceField(settings).state_dict().items()
        }
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InvalidMedia(f"This is not a radiance field of ours: {type(error).__name__}: {error}") from error
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if found != wanted:
        wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise InvalidMedia(f"Tensors of the radiance field are not as its settings say: {', '.join(wrong[:5])}.")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise InvalidMedia(f"{name} of the radiance field has a value that is not a number or infinite.")
    if _BITS in tensors:
        tensors[_BITS] = _unpacked(tensors[_BITS], settings.occupancy**3)
    field = RadianceField(settings)
    field.load_state_dict(tensors)
    return field.to(device).eval().requires_grad_(False)


def _stored(name: str, shape: torch.Size, dtype: torch.dtype) -> tuple[tuple[int, ...], torch.dtype]:
    """How a tensor lies in the file."""
    if name == _BITS:
        return ((shape[0] + 7) // 8,), torch.uint8
    return tuple(shape), dtype


def _packed(bits: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def _unpacked(packed: Tensor, count: int) -> Tensor:
    return ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).bool().flatten()[:count]
