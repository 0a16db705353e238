"""Rays through the pixels of cameras (deployments/rendering/camera.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from deployments.rendering.camera import Camera


@dataclass(frozen=True, slots=True, eq=False)
class Rays:
    """N rays, float32.

    Attributes:
        origins: (N, 3).
        directions: (N, 3), unit vectors.
        forward: (N,): by how much a unit of a ray's length goes along the camera's axis: depth along z is a distance
            times this.
    """

    origins: Tensor
    directions: Tensor
    forward: Tensor

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, which: Tensor | slice) -> Rays:
        return Rays(self.origins[which], self.directions[which], self.forward[which])


def join(parts: Sequence[Rays]) -> Rays:
    """All, in order."""
    if len(parts) == 1:
        return parts[0]
    return Rays(
        torch.cat([part.origins for part in parts]),
        torch.cat([part.directions for part in parts]),
        torch.cat([part.forward for part in parts]),
    )


def moved(rays: Rays, device: torch.device) -> Rays:
    """On another device."""
    return Rays(rays.origins.to(device), rays.directions.to(device), rays.forward.to(device))


def pixel_rays(camera: Camera, start: int = 0, stop: int | None = None) -> Rays:
    """Rays through the middles of pixels `start` up to `stop`, counted row by row; of all by default. On the CPU."""
    number = torch.arange(start, camera.width * camera.height if stop is None else stop)
    return CameraRays([camera]).through(torch.zeros_like(number), number % camera.width, number // camera.width)


class CameraRays:
    """Rays of several cameras, for any of their pixels."""

    def __init__(self, cameras: Sequence[Camera]) -> None:
        poses = np.stack([camera.world_to_camera for camera in cameras])
        self._to_world = torch.from_numpy(poses[:, :3, :3].transpose(0, 2, 1).astype(np.float32))
        self._positions = torch.from_numpy(np.stack([camera.position for camera in cameras]).astype(np.float32))
        self._lenses = torch.tensor([[c.fx, c.fy, c.cx, c.cy] for c in cameras], dtype=torch.float32)

    def through(self, camera: Tensor, column: Tensor, row: Tensor) -> Rays:
        """Rays (N,) through the middles of pixels, for the numbers (N,) of cameras, columns and rows."""
        fx, fy, cx, cy = self._lenses[camera].unbind(1)
        seen = torch.stack([(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, torch.ones_like(fx)], 1)
        length = seen.norm(dim=1)
        directions = (self._to_world[camera] @ seen[..., None]).squeeze(-1) / length[:, None]
        return Rays(self._positions[camera], directions, 1 / length)
