"""A scene of 3D Gaussians as arrays, activated: what is drawn, not logarithms of scales and logits of opacities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deployments.splat.motion import Motion

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.bool_] | npt.NDArray[np.intp]

# Of degree 0; a colour is 0.5 + SH_C0 * coefficient.
SH_C0 = 0.28209479177387814


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """N Gaussians. All arrays are C-contiguous float32 and finite.

    Attributes:
        means: (N, 3): centres, in the scene's own unit.
        quats: (N, 4): unit quaternions w, x, y, z, from a Gaussian's axes to the world's.
        scales: (N, 3): standard deviations along its axes, above 0.
        opacities: (N,): from 0 to 1.
        sh: (N, K, 3): spherical harmonics of red, green, blue; K is 1, 4, 9 or 16, by degree 0 to 3, in the order of
            Kerbl et al.
        motion: how they move; None when they do not.
    """

    means: Float32
    quats: Float32
    scales: Float32
    opacities: Float32
    sh: Float32
    motion: Motion | None = None

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return {1: 0, 4: 1, 9: 2, 16: 3}[self.sh.shape[1]]

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        own = sum(array.nbytes for array in (self.means, self.quats, self.scales, self.opacities, self.sh))
        return own + (self.motion.nbytes if self.motion else 0)

    def select(self, which: Index) -> Gaussians:
        """Those at `which`: a mask of N booleans, or indices."""
        return Gaussians(
            np.ascontiguousarray(self.means[which]),
            np.ascontiguousarray(self.quats[which]),
            np.ascontiguousarray(self.scales[which]),
            np.ascontiguousarray(self.opacities[which]),
            np.ascontiguousarray(self.sh[which]),
            None if self.motion is None else self.motion.select(which),
        )

    def at(self, time_s: float) -> Gaussians:
        """As they stand at a moment, motionless."""
        if self.motion is None:
            return self
        means, quats = self.motion.apply(self.means, self.quats, time_s)
        return replace(self, means=means, quats=quats, motion=None)


def concatenate(parts: Sequence[Gaussians]) -> Gaussians:
    """All in one, in order; harmonics that a part lacks are zero, and what does not move stays where it is."""
    most = max(part.sh.shape[1] for part in parts)
    padded = [np.pad(part.sh, ((0, 0), (0, most - part.sh.shape[1]), (0, 0))) for part in parts]
    motions = [part.motion for part in parts]
    motion = Motion.concatenate(motions, [len(part) for part in parts]) if any(motions) else None
    return Gaussians(
        np.concatenate([part.means for part in parts]),
        np.concatenate([part.quats for part in parts]),
        np.concatenate([part.scales for part in parts]),
        np.concatenate([part.opacities for part in parts]),
        np.concatenate(padded),
        motion,
    )
