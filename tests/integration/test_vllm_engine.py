"""The engine contract on a real vLLM, with small random checkpoints; answers are compared with transformers'."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from PIL import Image

from deployments.generation.engine import Prompt
from deployments.generation.messages import ChatEvent, ChatResult, Constraint, Sampling
from deployments.generation.vllm_engine import VllmEngine
from serve.errors import DeadlineExceeded, InvalidMedia, InvalidRequest, Overloaded, Unavailable
from tests.support import vllm_cases
from tests.support.vllm_cases import (
    WINDOW,
    A,
    B,
    V,
    answer,
    ask_about,
    assert_parity,
    engine_processes,
    events,
    model,
    only,
    prompt,
)

# pytest finds fixtures by the names of a module.
checkpoint = vllm_cases.checkpoint
forked_engines = vllm_cases.forked_engines
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
# Cannot end by itself before its last token.
LONG = Sampling(
    temperature=0.0,
    max_tokens=1900,
    constraint=Constraint('{"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1000}'),
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def llava(checkpoint: Path) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(model(checkpoint, max_images=2, batching={"max_queue": 4, "max_items": 8}))
    info = await engine.start()
    assert (info.engine, info.device, info.max_model_len) == ("vllm", "cpu", WINDOW)
    assert set(info.start_s) == {"import", "config", "process", "load", "warm_up"}
    stored = (checkpoint / "model.safetensors").stat().st_size
    # The last layer of the vision tower and its norm are not used, so vLLM leaves them out.
    assert 0.85 * stored < info.weights_bytes < stored
    yield engine
    await engine.close()


@pytest.mark.parametrize("media", [(), (A,), (A, B)], ids=["text", "image", "two images"])
async def test_llava_answers_as_transformers_does(llava: VllmEngine, checkpoint: Path, media: tuple[Any, ...]) -> None:
    await assert_parity(llava, checkpoint, ask_about(*media))


async def test_pictures_under_one_prompt_are_told_apart(llava: VllmEngine) -> None:
    assert (await only(llava, ask_about(A))).token_ids != (await only(llava, ask_about(B))).token_ids


async def test_no_answer_waits_for_a_compiler(llava: VllmEngine) -> None:
    """vLLM's sampler has functions that torch would compile when an answer first asks for log-probabilities."""
    (process,) = engine_processes()
    # The engine's own title lies over its environment; it is that of the fork server.
    forked_by = process.parent()
    assert forked_by is not None and forked_by.environ()["TORCHDYNAMO_DISABLE"] == "1"


async def test_a_repeated_prompt_is_cached_and_answered_alike(llava: VllmEngine) -> None:
    asked = ask_about(A, B, text="a question that is long enough to fill a block of the prefix cache")
    first, second = await answer(llava, asked), await answer(llava, asked)
    assert second.cached_tokens > 0
    assert first.answers == second.answers


async def test_a_stream_adds_up(llava: VllmEngine) -> None:
    streamed = await events(llava, ask_about(A))
    assert len(streamed) > 5
    assert "".join(event.text for event in streamed) == (await only(llava, ask_about(A))).text
    assert [event.finish_reason for event in streamed[:-1]] == [None] * (len(streamed) - 1)
    assert streamed[-1].finish_reason == "length"
    assert all(event.prompt_tokens == streamed[0].prompt_tokens > 16 for event in streamed)


async def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(llava: VllmEngine) -> None:
    sampling = Sampling(temperature=1.0, seed=1, max_tokens=60)
    text = (await only(llava, ask_about(A), sampling)).text
    stop = text[9:11]
    cut = await only(llava, ask_about(A), Sampling(temperature=1.0, seed=1, max_tokens=60, stop=(stop,)))
    assert (cut.text, cut.finish_reason) == (text[: text.index(stop)], "stop")


async def test_several_greedy_answers_are_the_one_greedy_answer(llava: VllmEngine) -> None:
    one = await only(llava, ask_about(A), Sampling(temperature=0.0, max_tokens=6))
    several = await answer(llava, ask_about(A), Sampling(temperature=0.0, max_tokens=6, n=3))
    assert several.answers == (one,) * 3


async def test_several_answers_and_a_seed(llava: VllmEngine) -> None:
    sampling = Sampling(n=3, seed=11, max_tokens=12)
    first, second = await answer(llava, ask_about(A), sampling), await answer(llava, ask_about(A), sampling)
    assert len({one.token_ids for one in first.answers}) == 3
    assert first.answers == second.answers
    other = await answer(llava, ask_about(A), Sampling(n=3, seed=12, max_tokens=12))
    assert other.answers != first.answers


async def test_logprobs(llava: VllmEngine) -> None:
    one = await only(llava, ask_about(A), Sampling(temperature=0.0, max_tokens=6, logprobs=3))
    assert len(one.logprobs) == len(one.token_ids)
    for token in one.logprobs:
        assert len(token.top) == 3
        assert token.logprob == pytest.approx(token.top[0].logprob)  # greedy took the likeliest
        assert list(token.top) == sorted(token.top, key=lambda other: -other.logprob)
    plain = await only(llava, ask_about(A), Sampling(temperature=0.0, max_tokens=3, logprobs=0))
    assert [token.top for token in plain.logprobs] == [(), (), ()]


async def test_the_bytes_of_logprobs_are_the_answer(llava: VllmEngine) -> None:
    """The tokenizer has a token a byte: the characters that the grammar forces have several."""
    wanted = Constraint(json.dumps({"enum": ["Grüße 🎉"]}, ensure_ascii=False))
    one = await only(llava, ask_about(A), Sampling(temperature=0.0, max_tokens=60, logprobs=2, constraint=wanted))
    assert json.loads(one.text) == "Grüße 🎉"
    assert b"".join(token.data or b"" for token in one.logprobs).decode() == one.text
    assert all(len(token.data or b" ") == 1 for token in one.logprobs)


async def test_json_that_fits_a_schema(llava: VllmEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["colour", "count"],
        "additionalProperties": False,
    }
    sampling = Sampling(seed=3, max_tokens=200, constraint=Constraint(json.dumps(schema)))
    made = await only(llava, ask_about(A), sampling)
    assert made.finish_reason == "stop"
    value = json.loads(made.text)
    assert made.text == json.dumps(value), "on one line, spaced as models have read it"
    assert value["colour"] in ("red", "blue")
    assert 0 <= value["count"] <= 9


async def test_any_json_object(llava: VllmEngine) -> None:
    made = await only(llava, ask_about(A), Sampling(seed=3, max_tokens=300, constraint=Constraint()))
    assert made.text.startswith(("{}", '{"'))


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "nonsense"}',
        "{not json",
        '{"type": "string", "pattern": "("}',
        "[]",
        f'{{"title": "{"x" * 70_000}"}}',
        '{"type": "string", "pattern": "[^\\\\s\\\\S]"}',  # goes no further than the opening quote
    ],
    ids=["type", "syntax", "pattern", "no object", "long", "nothing fits"],
)
async def test_a_schema_that_cannot_be_used(llava: VllmEngine, schema: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await answer(llava, ask_about(A), Sampling(constraint=Constraint(schema)))
    assert caught.value.code == "invalid_json_schema"


async def test_prompts_that_do_not_fit(llava: VllmEngine) -> None:
    with pytest.raises(InvalidRequest, match=rf"has {WINDOW + 1} tokens.* takes {WINDOW} ") as caught:
        await answer(llava, prompt("x" * (WINDOW)))
    assert caught.value.code == "prompt_too_long"
    with pytest.raises(InvalidRequest, match=r"at least \d{5,} tokens"):
        await answer(llava, prompt("x" * 1_000_000))
    with pytest.raises(InvalidRequest, match=rf"has {WINDOW + 7} tokens"):
        await answer(llava, prompt("x" * (WINDOW - 10) + "<image>", (A,)))
    with pytest.raises(InvalidRequest, match=rf"of the {WINDOW} .* {WINDOW // 4} are the answer's") as caught:
        await answer(llava, prompt("x" * (WINDOW - WINDOW // 4)), Sampling(room=WINDOW))
    assert caught.value.code == "prompt_too_long"
    full = await only(llava, prompt("x" * (WINDOW - 3)), Sampling(temperature=0.0, max_tokens=50))
    assert (len(full.token_ids), full.finish_reason) == (2, "length")


async def test_too_many_media(llava: VllmEngine) -> None:
    with pytest.raises(InvalidRequest, match="holds 3 images; this model takes 2") as caught:
        await answer(llava, ask_about(A, B, A))
    assert caught.value.code == "too_many_images"
    with pytest.raises(InvalidRequest, match="takes none") as caught:
        await answer(llava, ask_about(V))
    assert caught.value.code == "too_many_videos"


async def test_media_that_the_processor_refuses_hurt_nobody_else(llava: VllmEngine) -> None:
    bad = prompt("USER: <image>\nhi ASSISTANT:", (Image.new("RGB", (1, 4000)),))
    broken = Prompt("USER: <image>\nhi ASSISTANT:", ("no picture",), ("x",))  # type: ignore[arg-type]
    good, *failed = await asyncio.gather(
        answer(llava, ask_about(A)), answer(llava, bad), answer(llava, broken), return_exceptions=True
    )
    assert isinstance(good, ChatResult)
    assert isinstance(failed[1], InvalidMedia)
    assert all(isinstance(result, InvalidMedia | ChatResult) for result in failed)


def running(engine: VllmEngine) -> int:
    assert engine._llm is not None
    return engine._llm.get_num_unfinished_requests()


async def begin(engine: VllmEngine) -> asyncio.Task[list[ChatEvent]]:
    """A long answer in progress."""
    begun = asyncio.Event()

    async def consume() -> list[ChatEvent]:
        seen = []
        async for event in engine.generate(ask_about(A), LONG, "long", time.monotonic() + 60):
            seen.append(event)
            begun.set()
        return seen

    task = asyncio.create_task(consume())
    await begun.wait()
    assert running(engine) == 1
    return task


async def test_closing_a_stream_frees_its_place(llava: VllmEngine) -> None:
    stream = llava.generate(ask_about(A), LONG, "left", time.monotonic() + 60)
    await anext(stream)
    assert running(llava) == 1
    await stream.aclose()
    assert running(llava) == 0


async def test_cancelling_the_consumer_frees_its_place(llava: VllmEngine) -> None:
    task = await begin(llava)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running(llava) == 0


async def test_deadlines(llava: VllmEngine) -> None:
    for within_s in (-1.0, 0.0001):
        with pytest.raises(DeadlineExceeded):
            await answer(llava, ask_about(A), LONG, within_s)
    cut = await events(llava, ask_about(A), LONG, within_s=4.0)
    assert cut[-1].finish_reason == "cut"
    assert 0 < sum(len(event.token_ids) for event in cut) < 1900
    assert running(llava) == 0


async def test_a_cut_answer_keeps_the_text_that_a_stop_text_might_have_begun_in(llava: VllmEngine) -> None:
    sampling = replace(LONG, temperature=1.0, n=2, stop=("z" * 30,))
    made = await answer(llava, ask_about(A), sampling, within_s=3.0)
    assert [one.finish_reason for one in made.answers] == ["cut", "cut"]
    for one in made.answers:
        assert len(one.text) == len(one.token_ids) > 30  # a token of this tokenizer is a character
    assert running(llava) == 0


async def test_one_deadline_ends_no_other_request_of_the_same_id(llava: VllmEngine) -> None:
    short, long = await asyncio.gather(
        events(llava, ask_about(A), LONG, within_s=3.0),
        events(llava, ask_about(B), replace(LONG, max_tokens=600), within_s=60),
    )
    assert (short[-1].finish_reason, long[-1].finish_reason) == ("cut", "length")


async def test_a_full_queue_says_so(llava: VllmEngine) -> None:
    tasks = [asyncio.create_task(events(llava, ask_about(A), LONG)) for _ in range(12)]
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded):
        await answer(llava, ask_about(A))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await only(llava, ask_about(A))).finish_reason == "length"


async def test_a_killed_engine_fails_its_requests_and_starts_again(llava: VllmEngine) -> None:
    before = await only(llava, ask_about(A))
    (process,) = engine_processes()
    await llava.check(10)
    task = await begin(llava)
    process.kill()
    with pytest.raises(Unavailable) as caught:
        await asyncio.wait_for(task, 60)
    assert (caught.value.code, caught.value.retry_after_s) == ("engine_died", 1.0)
    with pytest.raises(Unavailable):
        await llava.check(10)
    with pytest.raises(Unavailable):
        await answer(llava, ask_about(A))
    descriptors = []
    for _ in range(2):
        await llava.start()
        assert await only(llava, ask_about(A)) == before
        assert len(engine_processes()) == 1
        await llava.check(10)
        descriptors.append(psutil.Process().num_fds())
    assert descriptors[1] <= descriptors[0]
