"""How far a picture is from a photo."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

_RADIUS: Final = 5
_SIGMA: Final = 1.5
_C1, _C2 = 0.01**2, 0.03**2
# Weight of the structural part, as Kerbl et al. 2023.
_STRUCTURE: Final = 0.2
_BELL: Final = np.exp(-(np.arange(-_RADIUS, _RADIUS + 1) ** 2) / (2 * _SIGMA * _SIGMA))
_ROW: Final = (_BELL / _BELL.sum()).astype(np.float32)


def photo_loss(rendered: Tensor, photo: Tensor) -> Tensor:
    """0.8 L1 + 0.2 (1 - SSIM), as Kerbl et al. 2023.

    Args:
        rendered, photo: (height, width, 3), from 0 to 1.
    """
    return (1 - _STRUCTURE) * (rendered - photo).abs().mean() + _STRUCTURE * (1 - ssim(rendered, photo))


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al. 2004): a Gaussian window of 11 pixels, sigma 1.5, black outside.

    Args:
        first, second: (height, width, 3), from 0 to 1.
    """
    # One pass over all five sums of each channel.
    sums = blurred(torch.cat([first, second, first * first, second * second, first * second], dim=2))
    mean_x, mean_y, xx, yy, xy = sums.chunk(5, dim=2)
    square_x, square_y, product = mean_x * mean_x, mean_y * mean_y, mean_x * mean_y
    similar = (2 * product + _C1) * (2 * (xy - product) + _C2)
    return (similar / ((square_x + square_y + _C1) * (xx - square_x + yy - square_y + _C2))).mean()


def blurred(values: Tensor) -> Tensor:
    """(height, width, C) blurred by the window."""
    if values.is_cuda:
        row = torch.from_numpy(_ROW).to(values)
        channels = values.permute(2, 0, 1)[:, None]
        across = conv2d(channels, row[None, None, None, :], padding=(0, _RADIUS))
        return conv2d(across, row[None, None, :, None], padding=(_RADIUS, 0))[:, 0].permute(1, 2, 0)
    result: Tensor = _Blur.apply(values)  # type: ignore[no-untyped-call]
    return result


class _Blur(torch.autograd.Function):
    """On the CPU: ten times as fast as torch's convolutions with so few channels. The window is even and what is beyond
    the border is zero, so the operator is its own transpose, and so its own gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _filtered(values)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return _filtered(slopes[0])


def _filtered(values: Tensor) -> Tensor:
    array = np.ascontiguousarray(values.detach().numpy())
    return torch.from_numpy(cv2.sepFilter2D(array, -1, _ROW, _ROW, borderType=cv2.BORDER_CONSTANT))
