"""Gaussians drawn the slow and plain way: one after the other, in float64, a whole window of pixels at a time.

It follows the definitions, not the back ends: covariances as matrices, the exponent from the inverse covariance, and
harmonics from scipy's spherical harmonics.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.special import sph_harm_y

from deployments.rendering.camera import Camera
from deployments.rendering.messages import RasterOptions
from deployments.splat.gaussians import Gaussians

Float64 = npt.NDArray[np.float64]


def render(gaussians: Gaussians, camera: Camera, options: RasterOptions) -> dict[str, Float64]:
    """rgb (height, width, 3), alpha and depth (height, width)."""
    rotation, translation = camera.world_to_camera[:3, :3], camera.world_to_camera[:3, 3]
    means = gaussians.means.astype(np.float64)
    local = means @ rotation.T + translation
    colours = _colours(gaussians, means - camera.position, options.sh_degree)
    rgb = np.zeros((camera.height, camera.width, 3))
    far = np.zeros((camera.height, camera.width))
    light = np.ones((camera.height, camera.width))
    done = np.zeros((camera.height, camera.width), bool)
    for i in np.argsort(local[:, 2].astype(np.float32), kind="stable"):
        if not (options.near <= local[i, 2] <= options.far and local[i, 2] > 0):
            continue
        covariance = _covariance(gaussians.quats[i], gaussians.scales[i])
        centre, flat = _project(local[i], rotation @ covariance @ rotation.T, camera)
        wide = flat + 0.3 * np.eye(2)
        opacity = float(gaussians.opacities[i])
        if options.antialiased:
            opacity *= math.sqrt(max(0.0, np.linalg.det(flat) / np.linalg.det(wide)))
        if opacity < 1 / 255:
            continue
        extent = min(3.33, math.sqrt(2 * math.log(opacity * 255)))
        radius = np.ceil(extent * np.sqrt(np.diag(wide)))
        if (radius <= options.radius_clip).all():
            continue
        x0, y0 = np.maximum(0, np.floor(centre - radius - 1)).astype(int)
        x1, y1 = np.minimum([camera.width, camera.height], np.ceil(centre + radius + 1)).astype(int)
        if x0 >= x1 or y0 >= y1:
            continue
        window = np.s_[y0:y1, x0:x1]
        y, x = np.mgrid[window] + 0.5
        offset = np.stack([x - centre[0], y - centre[1]], axis=-1)
        exponent = 0.5 * np.einsum("yxi,ij,yxj->yx", offset, np.linalg.inv(wide), offset)
        cover = np.minimum(0.999, opacity * np.exp(-exponent))
        cover[cover < 1 / 255] = 0
        after = light[window] * (1 - cover)
        done[window] |= (after <= 1e-4) & (cover > 0)
        weight = np.where(done[window], 0.0, cover * light[window])
        rgb[window] += weight[..., None] * colours[i]
        far[window] += weight * local[i, 2]
        light[window] -= weight
    alpha = 1 - light
    return {
        "rgb": rgb + light[..., None] * np.asarray(options.background),
        "alpha": alpha,
        "depth": np.where(alpha > 0, far / np.maximum(alpha, 1e-10), 0.0),
    }


def psnr(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """In decibels, of pictures whose values are from 0 to 1."""
    error = np.mean((np.asarray(one, np.float64) - np.asarray(other, np.float64)) ** 2)
    return 99.0 if error == 0 else float(-10 * np.log10(error))


def _covariance(quat: npt.ArrayLike, scale: npt.ArrayLike) -> Float64:
    w, x, y, z = np.asarray(quat, np.float64) / np.linalg.norm(np.asarray(quat, np.float64))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    return np.asarray(turn @ np.diag(np.asarray(scale, np.float64) ** 2) @ turn.T)


def _project(point: Float64, covariance: Float64, camera: Camera) -> tuple[Float64, Float64]:
    x, y, z = point
    # The slope is kept within the picture and 15 % of its width and height around it.
    margin_x, margin_y = 0.15 * camera.width / camera.fx, 0.15 * camera.height / camera.fy
    slope_x = np.clip(x / z, -camera.cx / camera.fx - margin_x, (camera.width - camera.cx) / camera.fx + margin_x)
    slope_y = np.clip(y / z, -camera.cy / camera.fy - margin_y, (camera.height - camera.cy) / camera.fy + margin_y)
    jacobian = np.array(
        [[camera.fx / z, 0, -camera.fx * slope_x / z], [0, camera.fy / z, -camera.fy * slope_y / z]],
    )
    centre = np.array([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy])
    return centre, jacobian @ covariance @ jacobian.T


def _colours(gaussians: Gaussians, directions: Float64, degree: int | None) -> Float64:
    """(N, 3): what each Gaussian looks like along directions (N, 3)."""
    x, y, z = (directions / np.linalg.norm(directions, axis=1, keepdims=True)).T
    theta, phi = np.arccos(np.clip(z, -1, 1)), np.arctan2(y, x)
    degree = gaussians.sh_degree if degree is None else min(degree, gaussians.sh_degree)
    total = np.full((len(gaussians), 3), 0.5)
    for n in range(degree + 1):
        for m in range(-n, n + 1):
            wave = sph_harm_y(n, abs(m), theta, phi)
            # Real harmonics with scipy's sign (-1)^m kept, which is Kerbl et al.'s too.
            real = wave.real if m == 0 else math.sqrt(2) * (wave.imag if m < 0 else wave.real)
            total += real[:, None] * gaussians.sh[:, n * n + n + m].astype(np.float64)
    return np.maximum(total, 0)
