"""From what a file holds to `Gaussians`: activation, and the checks that every file passes."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from deployments.splat.gaussians import Float32, Gaussians
from deployments.splat.motion import Motion
from serve.errors import InvalidMedia, PayloadTooLarge

Numbers = npt.NDArray[np.floating[Any]]

# Beyond it a number is damage, not geometry; its square still fits into float32.
LARGEST: Final = 1e9
# Files hold flat Gaussians, with a scale of 0; as thin as this they are drawn the same, and can be inverted.
LEAST_SCALE: Final = 1e-9


def refuse(message: str) -> InvalidMedia:
    """The error of a file that cannot be read; the message is a sentence that says what is wrong, and where."""
    return InvalidMedia(message, code="invalid_scene")


def check_count(count: int, most: int) -> None:
    """Refuses what a header announces, before anything is allocated for it.

    Raises:
        InvalidMedia: there are none.
        PayloadTooLarge: `too_many_gaussians`.
    """
    if count < 1:
        raise refuse("The file has no Gaussians.")
    if count > most:
        raise PayloadTooLarge(
            f"The file has {count:,} Gaussians; at most {most:,} are allowed.", code="too_many_gaussians"
        )


def activated(means: Numbers, quats: Numbers, log_scales: Numbers, logits: Numbers, sh: Numbers) -> Gaussians:
    """Gaussians from the parameters that training optimises (Kerbl et al. 2023): logarithms of scales, logits of
    opacities, quaternions of any length.

    Raises:
        InvalidMedia: see `checked`.
    """
    with np.errstate(over="ignore"):
        # Converters write the logit of an opacity of 1, and the logarithm of a scale of 0, as infinities.
        scales, opacities = np.exp(log_scales), 1 / (1 + np.exp(-logits))
    return checked(means, quats, scales, opacities, sh)


def checked(
    means: Numbers, quats: Numbers, scales: Numbers, opacities: Numbers, sh: Numbers, motion: Motion | None = None
) -> Gaussians:
    """Gaussians whose quaternions are of length 1 and whose scales are at least `LEAST_SCALE`.

    Raises:
        InvalidMedia: a value is not a number or beyond `LARGEST`, a quaternion is zero, or a scale is negative; the
            message names the first such Gaussian. One bad Gaussian means that the file is damaged, or was read as
            what it is not: what is left of it is not what its maker saw.
    """
    arrays = {"a position": means, "a rotation": quats, "a scale": scales, "an opacity": opacities, "a colour": sh}
    for name, array in arrays.items():
        # The least and the most are NaN where any value is: one pass, and no array of booleans for each.
        if not (array.min() >= -LARGEST and array.max() <= LARGEST):
            bad = ~(np.abs(array) <= LARGEST).reshape(len(array), -1).all(axis=1)
            raise _first(bad, f"has {name} that is not a number, or beyond {LARGEST:g}")
    lengths = np.linalg.norm(quats.astype(np.float64), axis=1)
    if not lengths.min() > 0:
        raise _first(~(lengths > 0), "has a rotation of length 0")
    if scales.min() < 0:
        raise _first((scales < 0).any(axis=1), "has a negative scale")
    return Gaussians(
        _array(means),
        _array(quats / lengths[:, None]),
        _array(np.maximum(scales, LEAST_SCALE)),
        _array(np.clip(opacities, 0, 1)),
        _array(sh),
        motion,
    )


def _first(bad: Any, what: str) -> InvalidMedia:
    others = int(bad.sum()) - 1
    return refuse(f"Gaussian {int(bad.argmax())} {what}{f'; so have {others:,} others' if others else ''}.")


def _array(values: npt.NDArray[Any]) -> Float32:
    return np.ascontiguousarray(values, np.float32)
