"""Estimates for cards: the formulas against published tables, their order, and that the committed files are theirs."""

from __future__ import annotations

from itertools import pairwise

import pytest

from benchmarks.capacity import estimates
from benchmarks.capacity.estimates import HARDWARE, estimate
from benchmarks.capacity.hosted import HOSTED, hosted
from benchmarks.capacity.planner.catalogue import load_catalogue
from benchmarks.capacity.profiles import PROBABILITIES, SHIPPED, ForwardPass, load_profile
from benchmarks.capacity.rooflines import (
    CARDS,
    batches,
    lognormal,
    pass_seconds,
    sequence_seconds,
    step_seconds,
    transformer_flops,
)

# AITemplate, examples/04_vit, A100 40 GB, PyTorch 1.12 eager: milliseconds by batch size.
VIT_B_224 = {1: 4.95, 2: 5.26, 4: 5.51, 8: 5.56, 16: 8.59, 32: 15.95, 64: 31.48, 128: 59.86, 256: 115.0}
VIT_L_384 = {1: 9.88, 2: 11.90, 4: 21.20, 8: 39.33, 16: 76.00, 32: 147.24}


@pytest.mark.parametrize(
    ("tokens", "width", "layers", "published"), [(197, 768, 12, VIT_B_224), (577, 1024, 24, VIT_L_384)]
)
def test_passes_come_near_the_table_that_their_share_was_taken_from(
    tokens: int, width: int, layers: int, published: dict[int, float]
) -> None:
    flops = transformer_flops(tokens, width, layers, 4 * width)
    for size, milliseconds in published.items():
        assert 1e3 * pass_seconds(CARDS["a100"], size * flops, layers) == pytest.approx(milliseconds, rel=0.2)


def test_operations_are_those_that_papers_state() -> None:
    # Dosovitskiy et al.: ViT-B/16 at 224 pixels, 17.6 G multiply-adds; Tong et al.: VideoMAE ViT-B, 180 G.
    assert transformer_flops(197, 768, 12, 3072) / 2 == pytest.approx(17.6e9, rel=0.02)
    assert transformer_flops(1568, 768, 12, 3072) / 2 == pytest.approx(180e9, rel=0.02)


def test_one_image_of_clip_on_a_t4_is_as_published() -> None:
    first = estimate("t4").models["openai/clip-vit-large-patch14"].forward[0]
    assert first.seconds.mean == pytest.approx(0.022, rel=0.05)


def test_decoding_is_as_fast_as_published() -> None:
    # vLLM on an A100 40 GB: 75 tokens/s of Llama 3.1 8B; TGI on an A10G: 31.8 ms a token of Falcon 7B.
    a100_40 = step_seconds(CARDS["a100"], 16.06e9) * 2039 / 1555
    assert 1 / a100_40 == pytest.approx(75, rel=0.05)
    assert step_seconds(CARDS["a10"], 14.4e9) == pytest.approx(0.0318, rel=0.05)
    assert sequence_seconds(CARDS["a100"], 7e9, 0.3e9) < 0.1 * step_seconds(CARDS["a100"], 14e9)


@pytest.mark.parametrize("hardware", HARDWARE)
def test_the_card_is_the_one_that_the_catalogue_rents(hardware: str) -> None:
    rented = {node.gpu: node for node in load_catalogue().nodes.values() if node.hardware == hardware}
    ((gpu, node),) = rented.items()
    assert gpu is not None and CARDS[hardware].name.split(" ")[0] == gpu
    assert CARDS[hardware].memory_gb == node.gpu_memory_gb


def test_a_view_is_as_fast_as_published_at_the_size_at_which_it_was_measured() -> None:
    """Kerbl et al. time the sizes at which Mip-NeRF 360 is evaluated; 1080p has more pixels and costs more."""
    for hardware in HARDWARE:
        (first, *_) = estimate(hardware).models["splat"].forward
        assert first.cost == pytest.approx((5 * 1237 * 822 + 4 * 1559 * 1039) / 9, rel=0.02)
        assert first.seconds.mean == pytest.approx(CARDS[hardware].raster_s, rel=1e-3)


def _faster(left: tuple[ForwardPass, ...], right: tuple[ForwardPass, ...]) -> bool:
    return all(one.seconds.mean < two.seconds.mean for one, two in zip(left, right, strict=True))


@pytest.mark.parametrize(("better", "worse"), [("a100", "a10"), ("a10", "t4")])
def test_a_better_card_is_faster_at_everything(better: str, worse: str) -> None:
    fast, slow = estimate(better), estimate(worse)  # type: ignore[arg-type]
    for name, model in slow.models.items():
        mine = fast.models[name]
        if model.generation is None:
            assert _faster(mine.forward, model.forward), name
        else:
            assert mine.generation is not None
            for coefficient in ("encode_s", "step_s", "sequence_s", "prompt_token_s"):
                assert getattr(mine.generation, coefficient) < getattr(model.generation, coefficient), name


@pytest.mark.parametrize("hardware", HARDWARE)
def test_a_larger_batch_takes_longer_and_an_item_of_it_no_longer(hardware: str) -> None:
    for name, model in estimate(hardware).models.items():  # type: ignore[arg-type]
        for small, large in pairwise(model.forward):
            assert small.seconds.mean < large.seconds.mean, name
            assert large.seconds.mean / large.items <= small.seconds.mean / small.items * 1.0001, name


def test_fewer_bits_take_less_memory_and_longer_steps() -> None:
    models = estimate("a100").models
    for checkpoint in ("Salesforce/blip2-opt-2.7b", "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"):
        full, four = models[checkpoint], models[f"{checkpoint}@4bit"]
        assert four.memory_gb < full.memory_gb
        assert four.generation is not None and full.generation is not None
        assert four.generation.step_s > full.generation.step_s
    blip2 = [models[f"Salesforce/blip2-opt-2.7b{suffix}"].memory_gb for suffix in ("@4bit", "@8bit", "")]
    assert blip2 == sorted(blip2)


@pytest.mark.parametrize("hardware", HARDWARE)
def test_what_does_not_fit_the_card_is_not_listed(hardware: str) -> None:
    profile = estimate(hardware)  # type: ignore[arg-type]
    assert all(model.memory_gb <= CARDS[hardware].memory_gb for model in profile.models.values())
    assert ("llava-hf/llava-1.5-7b-hf" in profile.models) == (hardware != "t4")


@pytest.mark.parametrize("hardware", HARDWARE)
def test_the_committed_file_is_what_the_derivation_says(hardware: str) -> None:
    assert load_profile(SHIPPED / f"{hardware}.yaml") == estimate(hardware)  # type: ignore[arg-type]


@pytest.mark.parametrize("hardware", HARDWARE)
def test_every_estimate_names_sources_and_a_date(hardware: str) -> None:
    profile = estimate(hardware)  # type: ignore[arg-type]
    origins = [profile.router.provenance]
    origins += [model.provenance for model in profile.models.values()]
    origins += [provider.provenance for provider in profile.providers.values()]
    for one in origins:
        assert one.kind == "estimate"
        assert one.sources and all(len(source) > 20 for source in one.sources)
        assert one.date == estimates.MADE


def test_a_call_costs_what_the_table_of_prices_says() -> None:
    # 765 tokens of image (four tiles) and 120 of text at 2.50, 24 written at 10.00 dollars a million.
    assert hosted(estimates.MADE)["gpt-4o"].usd_per_call == pytest.approx((885 * 2.5 + 24 * 10) / 1e6)
    assert {one.model for one in HOSTED} >= {"gpt-4o", "gemini-2.5-flash", "claude-sonnet-4-6"}


def test_a_lognormal_has_its_median_and_tail() -> None:
    found = lognormal(0.010, 0.020)
    assert found.seconds[PROBABILITIES.index(0.5)] == pytest.approx(0.010)
    assert found.seconds[PROBABILITIES.index(0.95)] == pytest.approx(0.020)
    assert found.mean > 0.010


def test_batches_double() -> None:
    assert batches(1) == (1,)
    assert batches(20) == (1, 2, 4, 8, 16)
