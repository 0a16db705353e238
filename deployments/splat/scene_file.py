"""The store's own file of a scene: safetensors, so that loading it is a copy and nothing in it can run."""

from __future__ import annotations

import json
import math
import struct
from typing import Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from deployments.splat.gaussians import Gaussians
from deployments.splat.motion import Motion
from serve.errors import InvalidMedia

FORMAT: Final = "argus.gaussians.1"
_KEY: Final = "argus"
_CODE: Final = "invalid_scene"
_ARRAYS: Final = ("means", "quats", "scales", "opacities", "sh")


def write(gaussians: Gaussians) -> bytes:
    """The file's bytes; the same Gaussians give the same bytes."""
    tensors = {name: getattr(gaussians, name) for name in _ARRAYS}
    metadata: dict[str, object] = {"format": FORMAT}
    if gaussians.motion is not None:
        tensors |= {"motion.waves": gaussians.motion.waves, "motion.turns": gaussians.motion.turns}
        metadata["period_s"] = gaussians.motion.period_s
    # One key: safetensors writes several in an order that changes from run to run.
    return save(tensors, {_KEY: json.dumps(metadata, sort_keys=True)})


def read(data: bytes) -> Gaussians:
    """The scene in a file that `write` made.

    Raises:
        InvalidMedia: it is another file, or a damaged one.
    """
    try:
        metadata = _metadata(data)
        tensors = load(data)
        motion = None
        if "period_s" in metadata:
            motion = Motion(float(str(metadata["period_s"])), tensors["motion.waves"], tensors["motion.turns"])
        means, quats, scales, opacities, sh = (tensors[name] for name in _ARRAYS)
        gaussians = Gaussians(means, quats, scales, opacities, sh, motion)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError, struct.error) as error:
        raise InvalidMedia(f"This is not a scene file of ours: {type(error).__name__}: {error}", code=_CODE) from error
    check(gaussians)
    return gaussians


def check(gaussians: Gaussians) -> None:
    """Raises `InvalidMedia` when the arrays are not what `Gaussians` promises."""
    count = len(gaussians.means)
    shapes = {"means": (count, 3), "quats": (count, 4), "scales": (count, 3), "opacities": (count,)}
    for name in _ARRAYS:
        array = getattr(gaussians, name)
        if array.dtype != np.float32 or (name in shapes and array.shape != shapes[name]):
            right = f"float32 {shapes.get(name, '')}"
            raise InvalidMedia(f"{name} of the scene is {array.dtype} {array.shape}; {right} is right.", code=_CODE)
        if not np.isfinite(array).all():
            raise InvalidMedia(f"{name} of the scene has a value that is not a number or infinite.", code=_CODE)
    if gaussians.sh.ndim != 3 or gaussians.sh.shape[0] != count or gaussians.sh.shape[1:] not in _SH_SHAPES:
        raise InvalidMedia(
            f"sh of the scene is {gaussians.sh.shape}; ({count}, 1, 4, 9 or 16, 3) is right.", code=_CODE
        )
    if count and (gaussians.scales.min() <= 0 or gaussians.opacities.min() < 0 or gaussians.opacities.max() > 1):
        raise InvalidMedia("The scene has scales that are not above 0, or opacities outside 0 to 1.", code=_CODE)
    motion = gaussians.motion
    if motion is not None and not (
        _SHORTEST_PERIOD_S <= motion.period_s < math.inf
        and motion.waves.dtype == motion.turns.dtype == np.float32
        and motion.waves.ndim == 4
        and motion.waves.shape == (count, motion.waves.shape[1], 2, 3)
        and motion.turns.shape == (count, 3)
        and np.isfinite(motion.waves).all()
        and np.isfinite(motion.turns).all()
    ):
        raise InvalidMedia("The scene's motion does not fit its Gaussians.", code=_CODE)


# Below it, the place within a period is lost in rounding.
_SHORTEST_PERIOD_S: Final = 1e-3
_SH_SHAPES: Final = ((1, 3), (4, 3), (9, 3), (16, 3))


def _metadata(data: bytes) -> dict[str, object]:
    (length,) = struct.unpack_from("<Q", data)
    metadata: dict[str, object] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][_KEY])
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {metadata['format']!r}")
    return metadata
