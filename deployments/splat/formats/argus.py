"""The store's own scene files, as clients may send them back: see `deployments.splat.scene_file`."""

from __future__ import annotations

import numpy as np

from deployments.splat import scene_file
from deployments.splat.formats.checks import LARGEST, check_count, checked, refuse
from deployments.splat.gaussians import Gaussians
from deployments.splat.motion import Motion
from deployments.splat.scene_file import write

__all__ = ["read", "write"]


def read(data: bytes, max_gaussians: int) -> Gaussians:
    """The scene in a file. Nothing in it is packed, so its arrays are never larger than the file.

    Raises:
        InvalidMedia: `invalid_scene`.
        PayloadTooLarge: `too_many_gaussians`.
    """
    found = scene_file.read(data)
    check_count(len(found), max_gaussians)
    if found.motion is not None:
        _check_motion(found.motion)
    return checked(found.means, found.quats, found.scales, found.opacities, found.sh, found.motion)


def _check_motion(motion: Motion) -> None:
    reach = max(float(np.abs(array).max(initial=0)) for array in (motion.waves, motion.turns))
    if reach > LARGEST:
        raise refuse(f"The scene moves further than {LARGEST:g}.")
