"""The transformers engine on small random checkpoints: what `Engine` promises, compared with plain `generate`."""

from __future__ import annotations

import asyncio
import io
import json
import math
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from demo.scenes import render_video, sample_scene
from deployments.base import CpuPool
from deployments.generation.engine import Prompt
from deployments.generation.media import MediaLimits, load_image, load_prompt, low_detail_side
from deployments.generation.messages import (
    ChatEvent,
    ChatResult,
    Constraint,
    ImagePart,
    Message,
    Sampling,
    Text,
    VideoPart,
)
from deployments.generation.prompts import load_style, render
from deployments.generation.transformers_engine import TransformersEngine
from deployments.messages import RawImage
from serve.errors import (
    InvalidRequest,
)
from tests.support import tiny_models, transformers_cases
from tests.support.tiny_generation import Gate
from tests.support.transformers_cases import (
    BUILDERS,
    GREEDY,
    Observer,
    about,
    answer,
    config_of,
    film,
    picture,
    plain,
    together,
    until,
)

# pytest finds fixtures by the names of a module.
folders = transformers_cases.folders
gate = transformers_cases.gate
observer = transformers_cases.observer
llava = transformers_cases.llava
PROMPTS: dict[str, list[Prompt]] = {
    "llava": [about("hi", 1), about("no picture at all, but a longer text"), about("compare the two", 2, 3)],
    "llava_next": [
        about("tall", 1, sizes=[(90, 30)]),
        about("wide and small", 2, 3, sizes=[(30, 90), (20, 20)]),
        about("text alone"),
    ],
    "blip2": [Prompt("", (picture(1),)), Prompt("Question: what is it? Answer:", (picture(2),))],
    "blip2_t5": [Prompt("", (picture(1),)), Prompt("Question: what is it? Answer:", (picture(2),))],
    "video_llava": [
        film("go", 1),
        film("both of them", 2, 3),
        about("a picture", 4),
        film("other length", 5, frames=2),
    ],
    "llava_next_video": [
        film("go", 1),
        film("both of them", 2, 3),
        about("a tall picture", 4, sizes=[(90, 30)]),
        film("other length", 5, frames=2),
    ],
}


def reference(folder: Path, prompt: Prompt, max_new_tokens: int = 24) -> list[int]:
    """Plain greedy `generate` on one prompt."""
    model, processor = plain(folder)
    media = {"images": list(prompt.images) or None, "videos": list(prompt.videos) or None}
    inputs = processor(
        text=[prompt.text], return_tensors="pt", **{name: value for name, value in media.items() if value}
    )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)[0].tolist()
    # An encoder-decoder gives back the token its decoder starts with, the others the whole prompt.
    return output[1 if model.config.is_encoder_decoder else len(inputs["input_ids"][0]) :]


@pytest.mark.parametrize("name", sorted(BUILDERS))
async def test_tokens_are_those_of_plain_generate_alone_and_in_a_batch(
    name: str, folders: dict[str, Path], observer: Observer
) -> None:
    expected = [reference(folders[name], prompt) for prompt in PROMPTS[name]]
    engine = TransformersEngine(config_of(folders[name], name), observer)
    info = await engine.start()
    assert (info.engine, info.device) == ("transformers", "cpu")
    assert info.weights_bytes > 100_000
    assert {"load", "warm_up"} <= info.start_s.keys()
    alone = [(await answer(engine, prompt)).answers[0].token_ids for prompt in PROMPTS[name]]
    observer.sizes.clear()
    batched = await asyncio.gather(*(answer(engine, prompt) for prompt in PROMPTS[name] * 2))
    await until(lambda: max(observer.sizes, default=0) > 1)  # a batch is reported after its rows have ended
    await engine.close()
    assert [list(tokens) for tokens in alone] == expected
    assert [list(result.answers[0].token_ids) for result in batched] == expected * 2
    assert len({tuple(tokens) for tokens in expected}) == len(expected)  # else this test would prove little


async def test_a_conversation_with_a_clip_goes_all_the_way(folders: dict[str, Path]) -> None:
    """Messages to prompt, file to frames, both to tokens: as one would do by hand with transformers."""
    source = render_video(sample_scene(3), 64, 10, 10)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="webm") as output:
        stream: Any = output.add_stream("libvpx", rate=10, width=64, height=64, pix_fmt="yuv420p")
        for frame in source:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(stream.encode(None))
    messages = [
        Message("system", (Text("Be brief."),)),
        Message("user", (VideoPart(buffer.getvalue()), Text("What <video> moves?"))),
    ]
    folder, pool = folders["video_llava"], CpuPool(1)
    rendered = render(messages, load_style(str(folder)))
    prompt = await load_prompt(rendered, pool, MediaLimits(frames=tiny_models.FRAMES), time.monotonic() + 60)
    pool.close()
    with av.open(io.BytesIO(buffer.getvalue())) as file:
        decoded = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    frames = np.stack([decoded[index] for index in (0, 3, 6, 9)])
    by_hand = Prompt("Be brief. USER: <video>\nWhat <\u200bvideo> moves? ASSISTANT:", videos=(frames,))
    engine = TransformersEngine(config_of(folder, "video_llava"))
    await engine.start()
    (made,) = (await answer(engine, prompt)).answers
    await engine.close()
    assert list(made.token_ids) == reference(folder, by_hand)


async def test_a_streamed_answer_is_the_whole_answer(llava: TransformersEngine, folders: dict[str, Path]) -> None:
    prompt = about("tell me", 1)
    events: list[ChatEvent] = []
    async with aclosing(llava.generate(prompt, GREEDY, "test", math.inf)) as stream:
        async for event in stream:
            events.append(event)
    assert len(events) > 2
    tokens = [token for event in events for token in event.token_ids]
    words = AutoProcessor.from_pretrained(folders["llava"]).tokenizer
    assert "".join(event.text for event in events) == words.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
    assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].finish_reason == "length"
    assert {event.prompt_tokens for event in events} == {len(words(prompt.text)["input_ids"]) + 15}  # 16 an image


async def test_a_seed_repeats_an_answer_whatever_runs_beside_it(llava: TransformersEngine, gate: Gate) -> None:
    prompt = about("sample", 1)
    seeded = Sampling(max_tokens=24, temperature=1.0, top_p=0.9, seed=7)
    alone = await answer(llava, prompt, seeded)
    other = await answer(llava, prompt, Sampling(max_tokens=24, temperature=1.0, top_p=0.9, seed=8))
    beside = await together(
        llava,
        gate,
        (about("a neighbour with a much longer prompt", 2, 3), Sampling(max_tokens=30, temperature=1.5, seed=7)),
        (prompt, seeded),
        (about("unseeded"), Sampling(max_tokens=5)),
        (prompt, GREEDY),
    )
    assert isinstance(beside[1], ChatResult)
    assert beside[1].answers == alone.answers
    assert alone.answers[0].token_ids != other.answers[0].token_ids
    assert isinstance(beside[3], ChatResult)
    assert beside[3].answers == (await answer(llava, prompt)).answers


async def test_unseeded_answers_differ(llava: TransformersEngine) -> None:
    texts = {(await answer(llava, about("vary", 1), Sampling(max_tokens=16))).answers[0].text for _ in range(3)}
    assert len(texts) == 3


async def test_a_narrow_nucleus_is_greedy(llava: TransformersEngine) -> None:
    prompt = about("narrow", 1)
    narrow = await answer(llava, prompt, Sampling(max_tokens=24, temperature=1.0, top_p=1e-6, seed=1))
    cold = await answer(llava, prompt, Sampling(max_tokens=24, temperature=1e-9, seed=1))
    assert narrow.answers == cold.answers == (await answer(llava, prompt)).answers


async def test_several_answers_are_rows_of_their_own(llava: TransformersEngine) -> None:
    sampling = Sampling(max_tokens=16, seed=5, n=3)
    result = await answer(llava, about("thrice", 1), sampling)
    assert len({each.token_ids for each in result.answers}) == 3
    assert (await answer(llava, about("thrice", 1), sampling)).answers == result.answers
    greedy = await answer(llava, about("thrice", 1), Sampling(max_tokens=16, temperature=0, n=2))
    assert greedy.answers[0] == greedy.answers[1]


async def test_answers_to_one_request_share_its_encoded_images_and_equal_single_ones(
    llava: TransformersEngine, gate: Gate
) -> None:
    prompt, sampling = about("thrice", 1, 2), Sampling(max_tokens=16, seed=5)
    single = [(await answer(llava, prompt, replace(sampling, seed=seed))).answers[0] for seed in (5, 6, 7)]
    gate.pictures = 0
    shared = await answer(llava, prompt, replace(sampling, n=3))
    assert gate.pictures == 2
    assert [each.token_ids for each in shared.answers] == [each.token_ids for each in single]
    gate.pictures = 0
    pair = await together(llava, gate, (prompt, replace(sampling, n=3)), (about("another", 3), GREEDY))
    assert gate.pictures == 3
    assert isinstance(pair[0], ChatResult)
    assert [each.token_ids for each in pair[0].answers] == [each.token_ids for each in single]


def ascii_run(text: str) -> str:
    """Three characters of an answer, each its own token: a stop text that spans borders of tokens."""
    for at in range(2, len(text) - 3):
        if text[at : at + 3].isascii() and text.find(text[at : at + 3]) == at:
            return text[at : at + 3]
    raise AssertionError(f"the random model wrote no three plain characters: {text!r}")


async def test_a_stop_text_ends_the_answer_before_itself(llava: TransformersEngine) -> None:
    prompt, long = about("stop", 1), Sampling(max_tokens=120, temperature=0)
    text = (await answer(llava, prompt, long)).answers[0].text
    stop = ascii_run(text)
    sampling = Sampling(max_tokens=120, temperature=0, stop=("never said", stop))
    pieces: list[ChatEvent] = []
    async with aclosing(llava.generate(prompt, sampling, "test", math.inf)) as stream:
        async for event in stream:
            pieces.append(event)
    assert "".join(piece.text for piece in pieces) == text[: text.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    # No beginning of the stop text was let out and taken back.
    assert not any(stop[:1] in piece.text and piece.text.endswith(stop[:1]) for piece in pieces)


async def test_half_a_stop_text_at_the_end_is_text(llava: TransformersEngine) -> None:
    prompt = about("half", 1)
    whole = (await answer(llava, prompt)).answers[0]
    result = await answer(llava, prompt, Sampling(max_tokens=24, temperature=0, stop=(whole.text[-1:] + " and more",)))
    assert result.answers[0] == whole


async def test_logprobs_are_the_models(llava: TransformersEngine, folders: dict[str, Path]) -> None:
    prompt, steps = about("odds", 1), 6
    result = await answer(llava, prompt, Sampling(max_tokens=steps, temperature=0.7, seed=3, logprobs=5))
    model, processor = plain(folders["llava"])
    inputs = processor(text=[prompt.text], images=list(prompt.images), return_tensors="pt")
    chosen = torch.tensor([result.answers[0].token_ids])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], chosen], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        logs = model(**inputs).logits[0, -steps - 1 : -1].log_softmax(-1)
    for step, logprob in enumerate(result.answers[0].logprobs):
        assert logprob.logprob == pytest.approx(float(logs[step, chosen[0, step]]), abs=1e-4)
        values = [other.logprob for other in logprob.top]
        assert values == pytest.approx(logs[step].topk(5).values.tolist(), abs=1e-4)
        assert values == sorted(values, reverse=True)
    assert len(result.answers[0].logprobs) == steps
    bare = await answer(llava, prompt, Sampling(max_tokens=2, logprobs=0))
    assert [logprob.top for logprob in bare.answers[0].logprobs] == [(), ()]
    everything = await answer(llava, prompt, Sampling(max_tokens=1, logprobs=10_000))
    assert sum(math.exp(other.logprob) for other in everything.answers[0].logprobs[0].top) == pytest.approx(1, abs=1e-5)


def test_low_detail_makes_fewer_tiles(folders: dict[str, Path]) -> None:
    folder = str(folders["llava_next"])
    processor = AutoProcessor.from_pretrained(folder)
    limits = MediaLimits(low_side=low_detail_side(folder))
    assert limits.low_side == tiny_models.IMAGE_SIZE
    assert low_detail_side(str(folders["llava"])) == 512
    shown = RawImage(np.zeros((80, 80, 3), np.uint8))
    tokens = {}
    for detail in ("low", "auto", "high"):
        picture, _ = load_image(ImagePart(shown, detail), limits)
        tokens[detail] = processor(text="<image>", images=picture, return_tensors="pt")["input_ids"].shape[1]
    assert tokens["low"] < tokens["auto"] == tokens["high"]


async def test_the_bytes_of_logprobs_are_the_answer(llava: TransformersEngine) -> None:
    """The tokenizer has a token a byte: the characters that the grammar forces have several."""
    wanted = Constraint(json.dumps({"enum": ["Grüße 🎉"]}, ensure_ascii=False))
    sampling = Sampling(max_tokens=60, temperature=0, logprobs=2, constraint=wanted)
    one = (await answer(llava, about("greet", 1), sampling)).answers[0]
    assert json.loads(one.text) == "Grüße 🎉"
    assert b"".join(token.data or b"" for token in one.logprobs).decode() == one.text
    assert all(len(token.data or b" ") == 1 for token in one.logprobs)


async def test_json_fits_its_schema_beside_free_text(llava: TransformersEngine, gate: Gate) -> None:
    schema = json.dumps(
        {
            "type": "object",
            "properties": {"colour": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}},
            "required": ["colour", "sure"],
        }
    )
    constrained = Sampling(max_tokens=60, temperature=1.0, seed=1, constraint=Constraint(schema))
    prompt = about("describe", 1)
    results = await together(llava, gate, (prompt, constrained), (prompt, GREEDY))
    assert isinstance(results[0], ChatResult)
    assert isinstance(results[1], ChatResult)
    (made,) = results[0].answers
    assert made.finish_reason == "stop"
    read = json.loads(made.text)
    assert read.keys() == {"colour", "sure"}
    assert read["colour"] in ("red", "blue")
    assert isinstance(read["sure"], bool)
    assert results[1].answers == (await answer(llava, prompt)).answers


async def test_any_object_is_an_object(llava: TransformersEngine) -> None:
    result = await answer(
        llava, about("any"), Sampling(max_tokens=400, temperature=1.0, seed=2, constraint=Constraint())
    )
    if result.answers[0].finish_reason == "stop":
        assert isinstance(json.loads(result.answers[0].text), dict)
    assert result.answers[0].text.startswith("{")


# Its grammar can be compiled, and goes no further than the opening quote.
NOTHING_FITS = '{"type": "string", "pattern": "[^\\\\s\\\\S]"}'


@pytest.mark.parametrize("schema", ['{"type": "nonsense"}', "[1]", "{", '{"$ref": "#/nowhere"}', NOTHING_FITS])
async def test_a_schema_that_nothing_fits_is_the_clients_error(llava: TransformersEngine, schema: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await answer(llava, about("a"), Sampling(constraint=Constraint(schema)))
    assert caught.value.code == "invalid_json_schema"
    assert ".cc" not in caught.value.message


async def test_a_schema_that_nothing_fits_hurts_no_neighbour(llava: TransformersEngine, gate: Gate) -> None:
    prompt = about("describe", 1)
    results = await together(llava, gate, (prompt, Sampling(constraint=Constraint(NOTHING_FITS))), (prompt, GREEDY))
    assert isinstance(results[0], InvalidRequest)
    assert isinstance(results[1], ChatResult)
    assert results[1].answers == (await answer(llava, prompt)).answers


async def test_characters_of_several_bytes_arrive_whole(llava: TransformersEngine) -> None:
    text = "naïve 漢字 👩‍👧 café 😀😀"
    constraint = Constraint(json.dumps({"const": text}, ensure_ascii=False))
    pieces: list[str] = []
    sampling = Sampling(max_tokens=200, temperature=0, constraint=constraint)
    async with aclosing(llava.generate(about("say it"), sampling, "test", math.inf)) as stream:
        async for event in stream:
            pieces.append(event.text)
    assert json.loads("".join(pieces)) == text
    assert not any("\ufffd" in piece for piece in pieces)


async def test_an_end_token_ends_an_answer(folders: dict[str, Path], tmp_path: Path) -> None:
    """The checkpoint is told that a token it says early ends an answer."""
    said = reference(folders["llava"], about("tell me", 1))
    folder = tiny_models.llava(tmp_path)
    settings = json.loads((folder / "generation_config.json").read_text())
    settings["eos_token_id"] = [settings["eos_token_id"], said[5]]
    (folder / "generation_config.json").write_text(json.dumps(settings))
    engine = TransformersEngine(config_of(folder))
    await engine.start()
    (made,) = (await answer(engine, about("tell me", 1))).answers
    await engine.close()
    assert (list(made.token_ids), made.finish_reason) == (said[: said.index(said[5]) + 1], "stop")


async def test_without_a_limit_an_answer_fills_the_window(folders: dict[str, Path]) -> None:
    engine = TransformersEngine(config_of(folders["llava"], max_model_len=64))
    info = await engine.start()
    assert info.max_model_len == 64
    result = await answer(engine, about("long", 1), Sampling(temperature=0))
    capped = await answer(engine, about("long", 1), Sampling(max_tokens=10_000, temperature=0))
    await engine.close()
    assert result.prompt_tokens + len(result.answers[0].token_ids) == 64
    assert result.answers[0].finish_reason == "length"
    assert capped.answers == result.answers
