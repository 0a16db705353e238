"""Every architecture that vLLM serves for us answers as transformers does; what it cannot serve is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from deployments.generation.vllm_engine import VllmEngine
from serve.errors import ConfigError, InvalidRequest
from tests.support import tiny_models, vllm_cases
from tests.support.vllm_cases import (
    A,
    B,
    V,
    W,
    answer,
    ask_about,
    assert_parity,
    engine_processes,
    model,
    only,
    prompt,
    video,
)

# pytest finds fixtures by the names of a module.
checkpoint = vllm_cases.checkpoint
forked_engines = vllm_cases.forked_engines
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]


async def test_what_vllm_cannot_serve_is_refused_before_it_loads(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="8-bit"):
        await VllmEngine(model(checkpoint, quantization="int8")).start()
    (tmp_path / "config.json").write_text('{"architectures": ["Florence2ForConditionalGeneration"]}')
    with pytest.raises(ConfigError, match="safetensors"):
        await VllmEngine(model(tmp_path)).start()
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ConfigError, match="does not serve Florence2"):
        await VllmEngine(model(tmp_path)).start()


async def test_llava_next_answers_as_transformers_does(tmp_path: Path) -> None:
    folder = tiny_models.llava_next(tmp_path)
    engine = VllmEngine(model(folder, max_model_len=None))
    await engine.start()
    try:
        await assert_parity(engine, folder, ask_about(A))
        await assert_parity(engine, folder, ask_about(A, B))
    finally:
        await engine.close()


async def test_blip2_answers_as_transformers_does(tmp_path: Path) -> None:
    folder = tiny_models.blip2(tmp_path)
    engine = VllmEngine(model(folder, kind="blip2", max_model_len=None))
    await engine.start()
    try:
        await assert_parity(engine, folder, prompt("Question: what is it? Answer:", (A,)))
        await assert_parity(engine, folder, prompt("", (B,)))
        with pytest.raises(InvalidRequest, match="takes 1"):
            await answer(engine, prompt("", (A, B)))
    finally:
        await engine.close()


@pytest.mark.parametrize("hub_names", [False, True], ids=["names of transformers 5", "names of the hub"])
async def test_video_llava_answers_as_transformers_does(tmp_path: Path, hub_names: bool) -> None:
    folder = tiny_models.video_llava(tmp_path, hub_names=hub_names)
    engine = VllmEngine(
        model(folder, kind="video_llava", max_model_len=None, max_videos=2, video_frames=tiny_models.FRAMES)
    )
    await engine.start()
    try:
        for media in [(V,), (A, B), (A, V)] if hub_names else [(A,), (V,), (A, B), (A, V), (V, A, B), (V, W)]:
            await assert_parity(engine, folder, ask_about(*media))
        short = await answer(engine, ask_about(V, video(frames=2)))
        assert short.prompt_tokens == len("USER: \n\nwhat is it? ASSISTANT:") + 1 + 17 * (tiny_models.FRAMES + 2)
    finally:
        await engine.close()


async def test_llava_next_video_answers_as_transformers_does(tmp_path: Path) -> None:
    folder = tiny_models.llava_next_video(tmp_path)
    engine = VllmEngine(
        model(folder, kind="video_llava", max_model_len=None, max_videos=2, video_frames=tiny_models.FRAMES)
    )
    await engine.start()
    try:
        for media in [(V,), (video(frames=2),), ()]:
            await assert_parity(engine, folder, ask_about(*media))
        assert (await only(engine, ask_about(V))).token_ids != (await only(engine, ask_about(W))).token_ids
        with pytest.raises(InvalidRequest, match="takes none") as caught:
            await answer(engine, ask_about(A))
        assert caught.value.code == "too_many_images"
        with pytest.raises(InvalidRequest, match="takes 1"):
            await answer(engine, ask_about(V, W))
    finally:
        await engine.close()


async def test_four_bit_weights(checkpoint: Path) -> None:
    if importlib.util.find_spec("vllm_bnb_plugin") is None:
        pytest.skip("vllm-bnb-plugin is not installed")
    before = engine_processes()
    engine = VllmEngine(model(checkpoint, quantization="4bit", dtype="bfloat16"))
    quantised = (await engine.start()).weights_bytes
    try:
        one = await only(engine, ask_about(A))
        assert one.token_ids
    finally:
        await engine.close()
    # Half of the stored 32 bits would be 16; embeddings and norms stay there.
    assert quantised < 0.3 * (checkpoint / "model.safetensors").stat().st_size
    assert engine_processes() == before
