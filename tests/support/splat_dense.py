"""A few Gaussians drawn by torch alone, every one on every pixel, so that torch's own gradient can be compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from deployments.rendering.camera import Camera


def render(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, sh: Tensor, camera: Camera, *, antialiased: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (height, width, 3) on black, alpha and depth (height, width), float64, of Gaussians before the camera."""
    pose = torch.as_tensor(camera.world_to_camera)
    local = means @ pose[:3, :3].T + pose[:3, 3]
    x, y, z = local.unbind(1)
    zero = torch.zeros_like(x)
    across = _limited(x / z, camera.fx, camera.cx, camera.width)
    down = _limited(y / z, camera.fy, camera.cy, camera.height)
    jacobian = torch.stack(
        [camera.fx / z, zero, -camera.fx * across / z, zero, camera.fy / z, -camera.fy * down / z], dim=1
    ).reshape(-1, 2, 3)
    axes = jacobian @ pose[:3, :3] @ _turns(quats) @ torch.diag_embed(scales)
    flat = axes @ axes.mT
    wide = flat + 0.3 * torch.eye(2, dtype=flat.dtype)
    if antialiased:
        opacities = opacities * (torch.linalg.det(flat) / torch.linalg.det(wide)).sqrt()
    centres = torch.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], dim=1)
    rows, columns = torch.meshgrid(torch.arange(camera.height), torch.arange(camera.width), indexing="ij")
    offsets = torch.stack([columns, rows], dim=-1) + 0.5 - centres[:, None, None]
    exponents = 0.5 * torch.einsum("nyxi,nij,nyxj->nyx", offsets, torch.linalg.inv(wide), offsets)
    colours = _colours(means - torch.as_tensor(camera.position), sh)
    light, done = torch.ones(camera.height, camera.width, dtype=means.dtype), torch.tensor(False)
    rgb, far = torch.zeros(camera.height, camera.width, 3, dtype=means.dtype), torch.zeros_like(light)
    for i in z.argsort():
        cover = (opacities[i] * torch.exp(-exponents[i])).clamp_max(0.999)
        cover = torch.where(cover < 1 / 255, 0.0, cover)
        done = done | ((light * (1 - cover) <= 1e-4) & (cover > 0))
        weight = torch.where(done, 0.0, cover * light)
        rgb, far, light = rgb + weight[..., None] * colours[i], far + weight * z[i], light - weight
    alpha = 1 - light
    return rgb, alpha, torch.where(alpha > 0, far / alpha.clamp_min(1e-10), 0.0)


def _limited(slopes: Tensor, focal: float, middle: float, size: int) -> Tensor:
    return slopes.clamp(-(middle + 0.15 * size) / focal, (size - middle + 0.15 * size) / focal)


def _turns(quats: Tensor) -> Tensor:
    """(N, 3, 3), by turning the unit vectors: v + 2 w (q x v) + 2 q x (q x v)."""
    w, q = torch.nn.functional.normalize(quats, dim=1).split([1, 3], dim=1)
    turned = []
    for axis in torch.eye(3, dtype=quats.dtype).expand(len(quats), 3, 3).unbind(1):
        once = torch.linalg.cross(q, axis)
        turned.append(axis + 2 * w * once + 2 * torch.linalg.cross(q, once))
    return torch.stack(turned, dim=2)


def _colours(directions: Tensor, sh: Tensor) -> Tensor:
    x, y, z = (directions / directions.norm(dim=1, keepdim=True)).unbind(1)
    # Polynomials without their norms, which follow: the table of Kerbl et al. 2023.
    bases = torch.stack(
        [
            torch.ones_like(x),
            *(-y, z, -x),
            *(x * y, -y * z, 2 * z**2 - x**2 - y**2, -x * z, x**2 - y**2),
            *(-y * (3 * x**2 - y**2), x * y * z, -y * (4 * z**2 - x**2 - y**2)),
            *(z * (2 * z**2 - 3 * x**2 - 3 * y**2), -x * (4 * z**2 - x**2 - y**2)),
            *(z * (x**2 - y**2), -x * (x**2 - 3 * y**2)),
        ],
        dim=1,
    )
    norms = [0.28209479177387814, *[0.4886025119029199] * 3]
    norms += [1.0925484305920792, 1.0925484305920792, 0.31539156525252005, 1.0925484305920792, 0.5462742152960396]
    norms += [0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154]
    norms += [0.4570457994644658, 1.445305721320277, 0.5900435899266435]
    count = sh.shape[1]
    weighted = (bases * torch.tensor(norms, dtype=x.dtype))[:, :count, None] * sh
    return (0.5 + weighted.sum(dim=1)).clamp_min(0)
