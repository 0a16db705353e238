"""How long a model takes on a card that nobody here has: its operations and bytes over what the card can do.

A pass is as slow as the slowest of three things: operations over the arithmetic rate that dense models reach, bytes
over the bandwidth that decoding reaches, and one dispatch of kernels a layer, which bounds small batches (Williams et
al. 2009, "Roofline", with the dispatch as a third ceiling). The shares of a card's peak that are reached come from
published measurements, named with each constant. `tests/unit/test_estimates.py` holds the formulas to the tables from
which those shares were taken, which shows that their form fits and not that they are right for another card or model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log

from benchmarks.capacity.profiles import PROBABILITIES, Distribution

# Share of peak that vision transformers reach in PyTorch at 16 bits and large batches. AITemplate's table for an A100
# (PyTorch 1.12, eager), to which this share was fitted: ViT-L/16 at 384 pixels, batch 32, 217 images/s; FlagPerf has
# 26.2 % for ViT-L/16.
ARITHMETIC_SHARE = 0.27
# Of prompts through a language model of 7 billion parameters, whose matrices are larger. An assumption.
PREFILL_SHARE = 0.5
# Share of bandwidth that decoding reaches: 0.77 on an A100 (vLLM 0.23, Llama 3.1 8B), 0.75 on an A10G (TGI, Falcon 7B).
BANDWIDTH_SHARE = 0.76
# How soft the corner between two ceilings is; 4 fits AITemplate's table best.
_SOFTNESS = 4.0
# Of a pass around its mean, on a GPU: the spread of TGI's table for an A10G at batch 32 (lowest, P90, P99, highest).
_STEADY = (0.995, 0.996, 0.997, 0.998, 0.999, 1.0, 1.001, 1.002, 1.005, 1.010, 1.012)
# The standard normal distribution's quantiles at `PROBABILITIES`; its ends stand for 1 in 1,000.
_NORMAL = (-3.09, -2.3263, -1.6449, -1.2816, -0.6745, 0.0, 0.6745, 1.2816, 1.6449, 2.3263, 3.09)


@dataclass(frozen=True, slots=True)
class Card:
    """An accelerator.

    Attributes:
        flops: dense operations a second at 16 bits, peak.
        bandwidth: bytes a second of its memory, peak.
        memory_gb: in GB (1e9 bytes).
        dispatch_s: seconds from one transformer layer's kernels to the next's while the card waits for them.
        raster_s: of one view of a million Gaussians with `RASTER_PIXELS`.
        source: where these come from.
    """

    name: str
    flops: float
    bandwidth: float
    memory_gb: float
    dispatch_s: float
    raster_s: float
    source: str


def transformer_flops(tokens: float, width: int, layers: int, inner: int, attended: float | None = None) -> float:
    """Operations of an encoder's pass: 2 for each weight and token, and attention's two products.

    Args:
        inner: width of the feed-forward.
        attended: tokens that one token attends to; all by default.
    """
    weights = 4 * width * width + 2 * width * inner
    attention = 4 * tokens * (tokens if attended is None else attended) * width
    return layers * (2 * weights * tokens + attention)


def pass_seconds(card: Card, flops: float, layers: int) -> float:
    """One forward pass of a batch that takes `flops` altogether."""
    return _softest(flops / (card.flops * ARITHMETIC_SHARE), layers * card.dispatch_s)


def step_seconds(card: Card, weight_bytes: float) -> float:
    """One decoding step without any cache: every weight is read once. CUDA graphs dispatch it as one."""
    return weight_bytes / (card.bandwidth * BANDWIDTH_SHARE)


def sequence_seconds(card: Card, parameters: float, kv_bytes: float) -> float:
    """What one more sequence adds to a decoding step: its cache is read, and its token computed."""
    return kv_bytes / (card.bandwidth * BANDWIDTH_SHARE) + 2 * parameters / (card.flops * PREFILL_SHARE)


def prompt_token_seconds(card: Card, parameters: float) -> float:
    """What one prompt token adds to a step."""
    return 2 * parameters / (card.flops * PREFILL_SHARE)


def steady(mean: float) -> Distribution:
    """Of GPU work, which hardly varies."""
    return Distribution(seconds=tuple(mean * share for share in _STEADY), mean=mean)


def lognormal(median: float, p95: float) -> Distribution:
    """With a given median and 95th percentile."""
    sigma = log(p95 / median) / _NORMAL[PROBABILITIES.index(0.95)]
    return Distribution(seconds=tuple(median * exp(sigma * z) for z in _NORMAL), mean=median * exp(sigma * sigma / 2))


def batches(largest: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to `largest`."""
    sizes = [1]
    while sizes[-1] * 2 <= largest:
        sizes.append(sizes[-1] * 2)
    return tuple(sizes)


def _softest(*seconds: float) -> float:
    return float(sum(one**_SOFTNESS for one in seconds) ** (1 / _SOFTNESS))


_VIT_L_384_ONE_S, _CLIP_L_ONE_T4_S, _LAYERS_L = 9.88e-3, 22e-3, 24
# Kerbl et al. 2023, table 1: 134 frames/s and 734 MB (3.1 million Gaussians of 236 bytes) over the scenes of
# Mip-NeRF 360 on an A6000 (768 GB/s, 38.7 TFLOPS at 32 bits); taken to be in proportion to the Gaussians. Those scenes
# are evaluated at 1.0 (outdoors, a quarter of 4,946 x 3,286) and 1.6 (indoors, half of 3,118 x 2,078) million pixels:
# over five of the one and four of the other, 1.29.
RASTER_PIXELS = 1_290_000
_A6000_S, _A6000_BANDWIDTH, _A6000_FLOPS = 1 / 134 / 3.1, 768e9, 38.7e12


def _raster(bandwidth: float, flops_32: float) -> float:
    """Rasterising is bound by bandwidth (sorting) and by arithmetic at 32 bits (blending): their geometric mean."""
    return float(_A6000_S * ((_A6000_BANDWIDTH / bandwidth) * (_A6000_FLOPS / flops_32)) ** 0.5)


CARDS: Mapping[str, Card] = {
    "t4": Card(
        "T4",
        65e12,
        320e9,
        16,
        _CLIP_L_ONE_T4_S / _LAYERS_L,
        _raster(320e9, 8.1e12),
        "NVIDIA T4 data sheet (2018): 65 TFLOPS at 16 bits, 8.1 at 32, 320 GB/s, 16 GB",
    ),
    "a10": Card(
        "A10G",
        70e12,
        600e9,
        24,
        _VIT_L_384_ONE_S / _LAYERS_L,
        _raster(600e9, 35e12),
        "NVIDIA A10G, which AWS rents as g5 (baseten.co, NVIDIA A10 vs A10G for ML model inference): 70 TFLOPS at "
        "16 bits where the A10 has 125, 35 at 32, 600 GB/s, 24 GB",
    ),
    "a100": Card(
        "A100 80 GB",
        312e12,
        2039e9,
        80,
        _VIT_L_384_ONE_S / _LAYERS_L,
        _raster(2039e9, 19.5e12),
        "NVIDIA A100 80 GB SXM data sheet (2021): 312 TFLOPS at 16 bits, 19.5 at 32, 2,039 GB/s, 80 GB",
    ),
}
