"""How Gaussians move: a short Fourier series of each centre, and a steady turn of each about its own.

A rigid turn about any axis, a swing and an orbit are exact in it with one harmonic; what has no period is approximated.
The idea of a small basis of time for each Gaussian is that of Li et al. 2024 (Spacetime Gaussian Feature Splatting),
there with polynomials.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Index = npt.NDArray[np.bool_] | npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Motion:
    """With u = time / period_s: a centre moves by the sum over k = 1..M of a_k sin(2 pi k u) + b_k (cos(2 pi k u) - 1),
    and a Gaussian turns about its own centre by the rotation vector `turns` times 2 pi u. At time 0 nothing has moved.

    Attributes:
        period_s: seconds after which all is as before, above 0.
        waves: (N, M, 2, 3) float32: a_k and b_k.
        turns: (N, 3) float32: axis of the turn; its length is turns a period, a whole number where it shall be closed.
    """

    period_s: float
    waves: Float32
    turns: Float32

    @property
    def nbytes(self) -> int:
        """Memory of the arrays, in bytes."""
        return self.waves.nbytes + self.turns.nbytes

    def select(self, which: Index) -> Motion:
        """That of the Gaussians at `which`."""
        return Motion(self.period_s, np.ascontiguousarray(self.waves[which]), np.ascontiguousarray(self.turns[which]))

    def apply(self, means: Float32, quats: Float32, time_s: float) -> tuple[Float32, Float32]:
        """Centres (N, 3) and quaternions (N, 4) at a moment."""
        phase = 2 * np.pi * ((time_s / self.period_s) % 1.0)
        harmonics = np.arange(1, self.waves.shape[1] + 1)
        basis = np.stack([np.sin(harmonics * phase), np.cos(harmonics * phase) - 1], axis=1).astype(np.float32)
        moved = means + np.einsum("nkcd,kc->nd", self.waves, basis)
        return np.ascontiguousarray(moved, np.float32), _turned(quats, self.turns * np.float32(phase))

    @staticmethod
    def concatenate(motions: Sequence[Motion | None], counts: Sequence[int]) -> Motion:
        """Of several groups of Gaussians.

        Raises:
            ValueError: none of them moves, or their periods differ.
        """
        periods = {motion.period_s for motion in motions if motion is not None}
        if len(periods) != 1:
            raise ValueError(f"motions of one period can be put together; these have {sorted(periods)}")
        most = max(motion.waves.shape[1] for motion in motions if motion is not None)
        waves, turns = [], []
        for motion, count in zip(motions, counts, strict=True):
            if motion is None:
                waves.append(np.zeros((count, most, 2, 3), np.float32))
                turns.append(np.zeros((count, 3), np.float32))
            else:
                waves.append(np.pad(motion.waves, ((0, 0), (0, most - motion.waves.shape[1]), (0, 0), (0, 0))))
                turns.append(motion.turns)
        return Motion(periods.pop(), np.concatenate(waves), np.concatenate(turns))


def _turned(quats: Float32, vectors: Float32) -> Float32:
    """Quaternions turned, in the world, by rotation vectors (N, 3) in radians."""
    angle = np.linalg.norm(vectors, axis=1, keepdims=True)
    # sin(x/2)/x stays finite at 0.
    factor = 0.5 * np.sinc(angle / (2 * np.pi))
    by = np.concatenate([np.cos(angle / 2), vectors * factor], axis=1)
    aw, ax, ay, az = by.T
    bw, bx, by_, bz = quats.T
    product = np.stack(
        [
            aw * bw - ax * bx - ay * by_ - az * bz,
            aw * bx + ax * bw + ay * bz - az * by_,
            aw * by_ - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by_ - ay * bx + az * bw,
        ],
        axis=1,
    )
    return np.ascontiguousarray(product, np.float32)
