"""Profiles of cards that we do not have: derived here, written by `python -m benchmarks.capacity.estimates`.

What a published figure states is cited with its date; the rest is a roofline (`rooflines.py`). All of it is to be
replaced by `argus profile` on the card itself. `tests/unit/test_estimates.py` compares the committed files with this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from benchmarks.capacity.hosted import hosted
from benchmarks.capacity.profiles import (
    SHIPPED,
    ForwardPass,
    Generation,
    HardwareClass,
    HardwareProfile,
    ModelProfile,
    Provenance,
    RouterProfile,
    rounded,
    save_profile,
)
from benchmarks.capacity.rooflines import (
    CARDS,
    RASTER_PIXELS,
    Card,
    batches,
    lognormal,
    pass_seconds,
    prompt_token_seconds,
    sequence_seconds,
    steady,
    step_seconds,
    transformer_flops,
)
from deployments.generation.published import config_of
from deployments.generation.sizing import MemoryPlan, Quantization, plan, weights
from deployments.gpu import CONTEXT_GB

MADE = date(2026, 11, 26)
HARDWARE: tuple[HardwareClass, ...] = ("t4", "a10", "a100")
COMMENT = (
    "Estimates, not measurements: made by `python -m benchmarks.capacity.estimates`; do not edit.\n"
    "Replace them on the card itself with: argus profile --all --hardware CLASS"
)

# Reading weights: 16 GB in 47.99 s with the usual safetensors loader from a gp3 volume.
_LOAD_BYTES_S = 16.06e9 / 47.99
_LOAD_SOURCE = (
    "Run:ai Model Streamer benchmarks (run.ai, 2024-10-29): Llama 3 8B, safetensors loader, gp3 SSD, 47.99 s; "
    "start = weights / that rate + a fixed part for processes, imports and warm-up (an assumption)"
)
_FIXED_START_S, _ENGINE_START_S = 12.0, 40.0

# Of a JPEG of 100 KB and 1,024 pixels, exact decoding, on a core of our build machine.
_DECODE_S, _DECODE_P95_S = 0.011, 0.016
_HOP_S, _HOP_P95_S = 0.0025, 0.005
_OUR_SOURCE = (
    "docs/performance.md (2 cores, no accelerator): 11 ms to decode a JPEG of 100 KB, 2.5 ms for the hop from router "
    "to replica and back; spreads are assumptions"
)

_VIT_SOURCES = (
    "AITemplate, examples/04_vit (PyTorch 1.12 eager, A100 40 GB): ViT-L/16 at 384 pixels, batch 1: 9.88 ms, batch 32: "
    "217 images/s = 27 % of peak; FlagPerf, vit_l_16 (A100, TensorRT, 16 bits): 26.2 % of peak",
    "wanliAlex/fast-clip-research (AWS g4, CLIP ViT-L/14 at 16 bits): 22 ms for one image, taken as dispatch",
)
_DECODE_SOURCES = (
    "johnmusgrave.com, vLLM 0.23 throughput-latency sweep (A100 40 GB, Llama 3.1 8B): decoding at 77 % of bandwidth; "
    "huggingface/text-generation-inference #586 (2023-07-12, A10G, Falcon 7B): 31.8 ms a token, 75 % of bandwidth",
    "prompts at 50 % of peak arithmetic: an assumption",
)
_NF4_SOURCE = (
    "huggingface/text-generation-inference #586 (2023-07-12): a step takes twice as long with bitsandbytes' 4 bits; "
    "bitsandbytes #611 (2023-11-22): 36.5 against 48.6 tokens/s at batch 1"
)
_INT8_SOURCE = (
    "bitsandbytes #347 (2023-04-26, RTX 3090, LLaMA 7B): 154.55 ms with 8 bits, 32.89 at 16: a step takes 4.7 times as "
    "long, between 3.9 (dohu012/llm-quantization-benchmark, T4, Qwen2.5-0.5B) and 6.7 (bitsandbytes #181, 2024-03-25, "
    "A100, LLaMA 7B: 15 % of the speed)"
)
# Steps of quantised weights, beside 16 bits: they are turned into 16 bits before each product.
_STEP_FACTOR: Mapping[Quantization, float] = {"none": 1.0, "4bit": 2.0, "int8": 4.7}
# A conversation's text, and an answer, where a batch is static and its length has to be assumed.
_TEXT_TOKENS, _ANSWER_TOKENS = 100, 16
_STATIC_BATCH = 16


@dataclass(frozen=True, slots=True)
class Generative:
    """One way of serving a published checkpoint.

    Attributes:
        budget_gb: `gpu_memory_gb` as in the shipped cluster files, or what leaves a cache of the same kind.
        pictures: that the vision tower reads for one image.
        image_tokens: that one image becomes.
    """

    checkpoint: str
    kind: str
    quantization: Quantization
    budget_gb: float
    pictures: int
    image_tokens: int


GENERATIVE = (
    Generative("Salesforce/blip2-opt-2.7b", "blip2", "none", 12, 1, 32),
    Generative("Salesforce/blip2-opt-2.7b", "blip2", "int8", 8, 1, 32),
    Generative("Salesforce/blip2-opt-2.7b", "blip2", "4bit", 6, 1, 32),
    Generative("llava-hf/llava-1.5-7b-hf", "llava", "none", 22, 1, 576),
    Generative("llava-hf/llava-1.5-7b-hf", "llava", "4bit", 8, 1, 576),
    Generative("llava-hf/llava-v1.6-mistral-7b-hf", "llava", "none", 22, 5, 2880),
    Generative("llava-hf/llava-v1.6-mistral-7b-hf", "llava", "4bit", 10, 5, 2880),
)
_SUFFIX: Mapping[Quantization, str] = {"none": "", "int8": "@8bit", "4bit": "@4bit"}


def estimate(hardware: HardwareClass) -> HardwareProfile:
    """The profile of a class of hardware, at the precision of a file."""
    card = CARDS[hardware]
    models = {"openai/clip-vit-large-patch14": _clip(card), "splat": _splat(card)}
    models["florence-community/Florence-2-large-ft"] = _florence(card)
    models["MCG-NJU/videomae-base-finetuned-kinetics"] = _video(card, "MCG-NJU/videomae-base-finetuned-kinetics", 0)
    models["facebook/timesformer-base-finetuned-k400"] = _video(card, "facebook/timesformer-base-finetuned-k400", 8)
    for one in GENERATIVE:
        if one.budget_gb <= card.memory_gb:
            models[one.checkpoint + _SUFFIX[one.quantization]] = _generative(card, one)
    return rounded(HardwareProfile(hardware=hardware, router=_router(), models=models, providers=hosted(MADE)))


def _router() -> RouterProfile:
    return RouterProfile(
        latency=lognormal(0.003, 0.005),
        cpu=steady(1 / 489),
        provenance=Provenance(
            kind="estimate",
            date=MADE,
            sources=(
                "docs/performance.md: 489 requests/s with a no-op model on 2 cores that also run the load generator, "
                "so a server's core does more",
            ),
        ),
    )


def _model(
    card: Card, model: str, kind: str, memory_gb: float, read_bytes: float, sources: tuple[str, ...], **more: Any
) -> ModelProfile:
    fixed_s = _ENGINE_START_S if "generation" in more else _FIXED_START_S
    return ModelProfile(
        model=model,
        kind=kind,
        preprocess=lognormal(_DECODE_S, _DECODE_P95_S),
        overhead=lognormal(_HOP_S, _HOP_P95_S),
        memory_gb=memory_gb,
        start_s=fixed_s + read_bytes / _LOAD_BYTES_S,
        cpu_s=_HOP_S / 2,
        provenance=Provenance(kind="estimate", date=MADE, sources=(card.source, *sources, _OUR_SOURCE, _LOAD_SOURCE)),
        **{"dtype": "float16", **more},
    )


def _forward(largest: int, seconds: Callable[[int], float], unit: float = 1.0) -> tuple[ForwardPass, ...]:
    return tuple(ForwardPass(items=size, cost=size * unit, seconds=steady(seconds(size))) for size in batches(largest))


def _clip(card: Card) -> ModelProfile:
    """ViT-L/14 at 224 pixels: 257 tokens, width 1,024, 24 layers (Radford et al. 2021, table 20)."""
    flops = transformer_flops(257, 1024, 24, 4096)
    return _model(
        card,
        "openai/clip-vit-large-patch14",
        "clip",
        4.0,
        428e6 * 4,
        _VIT_SOURCES,
        forward=_forward(64, lambda size: pass_seconds(card, size * flops, 24)),
    )


def _video(card: Card, model: str, frames: int) -> ModelProfile:
    """Both read 1,568 patches at width 768 in 12 layers; `frames`: TimeSformer's, which attends in two parts.

    VideoMAE: Tong et al. 2022 (360 GFLOP counted as 180 multiply-adds). TimeSformer: Bertasius et al. 2021, with a
    second attention and its projection (10 width^2 more a token), one over 196 patches, one over 8 frames.
    """
    if frames:
        flops = transformer_flops(1568, 768, 12, 3072 + 5 * 768 // 2, attended=1568 / frames + frames)
    else:
        flops = transformer_flops(1568, 768, 12, 3072)
    layers = 24 if frames else 12
    return _model(
        card,
        model,
        "video_classifier",
        3.0,
        121e6 * 4 if frames else 87e6 * 4,
        (*_VIT_SOURCES, "preprocessing as of an image: decoding a clip takes longer; measure it"),
        forward=_forward(32, lambda size: pass_seconds(card, size * flops, layers)),
    )


def _florence(card: Card) -> ModelProfile:
    """DaViT of 360 M parameters at 768 pixels, once an image; then a BART-large that writes 20 tokens with 3 beams."""
    tower = 2 * 4.54e9 / 28.36e6 * 360e6 * (768 / 224) ** 2
    prompt = transformer_flops(577 + 10, 1024, 12, 4096)
    token = 2 * 203e6

    def seconds(size: int) -> float:
        encode = pass_seconds(card, size * tower, 22) + pass_seconds(card, size * prompt, 12)
        # A decoder layer dispatches two attentions: as much as two layers of an encoder.
        return encode + 20 * pass_seconds(card, size * 3 * token, 24)

    return _model(
        card,
        "florence-community/Florence-2-large-ft",
        "florence2",
        8.0,
        0.77e9 * 2,
        (
            *_VIT_SOURCES,
            "DaViT (mmpretrain, papers/davit): 4.54 G multiply-adds for 28.36 M parameters at 224 pixels, scaled to "
            "360 M parameters and 768 pixels; answers of 20 tokens, 3 beams (assumptions)",
        ),
        forward=_forward(32, seconds, unit=(577 + 10) * 3),
    )


def _splat(card: Card) -> ModelProfile:
    """Views of a million Gaussians; their cost is in pixels, without the scene's share."""
    return _model(
        card,
        f"1 million Gaussians, {RASTER_PIXELS:,} pixels",
        "splat",
        4.0,
        236e6,
        (
            "Kerbl et al. 2023, table 1: 134 frames/s of 3.1 million Gaussians (734 MB) on an A6000, at the sizes at "
            "which Mip-NeRF 360 is evaluated, on average 1.29 million pixels; in proportion to the Gaussians and to "
            "the geometric mean of bandwidth and 32-bit arithmetic",
        ),
        dtype="float32",
        forward=_forward(32, lambda size: size * card.raster_s, unit=RASTER_PIXELS),
    )


def _generative(card: Card, one: Generative) -> ModelProfile:
    config = config_of(one.checkpoint)
    assert config is not None, "these are published"
    needs = plan(config, "float16", one.quantization)
    sources = (*_VIT_SOURCES, *_DECODE_SOURCES, *_quantised(one.quantization))
    parts: dict[str, Any] = {"quantization": None if one.quantization == "none" else one.quantization}
    engine = _engine(card, one, needs, config)
    if one.quantization == "int8":
        # vLLM makes no 8-bit weights of these: transformers' static batches serve them.
        parts["forward"] = _static(engine)
        sources = (*sources, f"{_TEXT_TOKENS} prompt tokens beside the image, answers of {_ANSWER_TOKENS} tokens")
    else:
        parts["generation"] = engine
    read = weights(config).size("float16", "none")
    return _model(card, one.checkpoint, one.kind, one.budget_gb, read, sources, **parts)


def _engine(card: Card, one: Generative, needs: MemoryPlan, config: Mapping[str, Any]) -> Generation:
    parameters = weights(config).count
    kv_tokens = needs.tokens_within((one.budget_gb - CONTEXT_GB) * 1e9)
    context = one.image_tokens + _TEXT_TOKENS
    full = weights(config).size("float16", "none")
    return Generation(
        encode_s=_encode(card, one),
        step_s=step_seconds(card, full) * _STEP_FACTOR[one.quantization],
        sequence_s=sequence_seconds(card, parameters, needs.kv_per_token * context),
        prompt_token_s=prompt_token_seconds(card, parameters),
        max_sequences=max(1, min(32, kv_tokens // context)),
        kv_tokens=kv_tokens,
        prompt_tokens_a_step=2048,
        image_tokens=one.image_tokens,
        residual=steady(1.0),
    )


def _encode(card: Card, one: Generative) -> float:
    """The vision tower: CLIP ViT-L/14 at 336 pixels, or BLIP-2's ViT-g/14 at 224 with its Q-Former (Li et al. 2023)."""
    if one.kind == "blip2":
        return pass_seconds(card, transformer_flops(257, 1408, 39, 6144), 39 + 12)
    return pass_seconds(card, one.pictures * transformer_flops(577, 1024, 24, 4096), 24)


def _static(engine: Generation) -> tuple[ForwardPass, ...]:
    prompt = engine.image_tokens + _TEXT_TOKENS

    def seconds(size: int) -> float:
        step = engine.step_s + engine.sequence_s * size
        return size * (engine.encode_s + engine.prompt_token_s * prompt) + _ANSWER_TOKENS * step

    return _forward(_STATIC_BATCH, seconds, unit=prompt + _ANSWER_TOKENS)


def _quantised(quantization: Quantization) -> tuple[str, ...]:
    return {"none": (), "4bit": (_NF4_SOURCE,), "int8": (_INT8_SOURCE,)}[quantization]


def main() -> None:
    """Writes the files."""
    for hardware in HARDWARE:
        save_profile(SHIPPED / f"{hardware}.yaml", estimate(hardware), COMMENT)


if __name__ == "__main__":
    main()
