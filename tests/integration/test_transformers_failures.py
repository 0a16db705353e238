"""The transformers engine under refusals, deadlines, clients that leave, broken batches and dead devices."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig

from deployments.generation.engine import Prompt
from deployments.generation.messages import (
    ChatEvent,
    ChatResult,
    Constraint,
    Sampling,
)
from deployments.generation.transformers_engine import TransformersEngine
from serve.config.model_base import Batching
from serve.errors import (
    ArgusError,
    ConfigError,
    DeadlineExceeded,
    InvalidMedia,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    Unavailable,
)
from tests.support import tiny_generation, tiny_models, transformers_cases
from tests.support.tiny_generation import POISON, Gate
from tests.support.transformers_cases import (
    GREEDY,
    Observer,
    about,
    answer,
    config_of,
    film,
    picture,
    queued,
    together,
    until,
)

# pytest finds fixtures by the names of a module.
folders = transformers_cases.folders
gate = transformers_cases.gate
observer = transformers_cases.observer
llava = transformers_cases.llava


async def test_a_prompt_beyond_the_window_is_refused_with_both_lengths(llava: TransformersEngine, gate: Gate) -> None:
    for text in ("x" * 500, "x" * 1_000_000):
        with pytest.raises(InvalidRequest, match="512") as caught:
            await answer(llava, about(text, 1))
        assert caught.value.code == "prompt_too_long"
    with pytest.raises(InvalidRequest, match=r"of the 512 .* 128 are the answer's") as caught:
        await answer(llava, about("x" * 400, 1), Sampling(room=300))
    assert caught.value.code == "prompt_too_long"
    assert gate.steps == 0


async def test_media_are_counted_before_anything_runs(folders: dict[str, Path], gate: Gate) -> None:
    engine = TransformersEngine(config_of(folders["llava"], max_images=2))
    await engine.start()
    with pytest.raises(InvalidRequest) as caught:
        await answer(engine, about("three", 1, 2, 3))
    assert caught.value.code == "too_many_images"
    with pytest.raises(InvalidRequest) as caught:
        await answer(engine, film("video", 1))
    assert caught.value.code == "too_many_videos"
    await engine.close()
    blip2 = TransformersEngine(config_of(folders["blip2"], "blip2"))
    await blip2.start()
    for prompt, code in (
        (Prompt("", (picture(1), picture(2))), "too_many_images"),
        (Prompt("hi"), "image_required"),
        (Prompt("<image>", (picture(1),)), "invalid_request"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await answer(blip2, prompt)
        assert caught.value.code == code
    await blip2.close()


async def test_a_missing_placeholder_is_refused(llava: TransformersEngine) -> None:
    with pytest.raises(InvalidMedia):
        await answer(llava, Prompt("<image><image>", (picture(1),), ("a",)))


async def test_a_deadline_before_the_first_token_fails(llava: TransformersEngine, gate: Gate) -> None:
    with pytest.raises(DeadlineExceeded):
        await answer(llava, about("late"), deadline=time.monotonic() - 1)
    assert gate.steps == 0
    gate.shut()
    with pytest.raises(DeadlineExceeded):
        await answer(llava, about("held"), deadline=time.monotonic() + 0.2)
    gate.open()
    assert (await answer(llava, about("next"))).answers[0].finish_reason == "length"


async def test_a_deadline_after_the_first_token_cuts(llava: TransformersEngine, gate: Gate) -> None:
    prompt = about("cut me", 1)
    whole = (await answer(llava, prompt)).answers[0]
    gate.shut()
    gate.let(4)
    cut = (await answer(llava, prompt, deadline=time.monotonic() + 3)).answers[0]
    gate.open()
    assert cut.finish_reason == "cut"
    assert cut.token_ids == whole.token_ids[:4]
    assert whole.text.startswith(cut.text)
    assert cut.text
    gate.shut()
    gate.let(4)
    stop = replace(GREEDY, stop=(cut.text[-1] + " and what never comes",))
    held = (await answer(llava, prompt, stop, deadline=time.monotonic() + 3)).answers[0]
    gate.open()
    assert (held.text, held.finish_reason) == (cut.text, "cut"), "what a stop text might have begun in is sent"


async def test_a_waiting_request_whose_deadline_passes_never_runs(llava: TransformersEngine, gate: Gate) -> None:
    gate.shut()
    first = asyncio.create_task(answer(llava, about("first"), Sampling(max_tokens=2, temperature=0)))
    await asyncio.to_thread(gate.entered.acquire)
    with pytest.raises(DeadlineExceeded):
        await answer(llava, about("second"), deadline=time.monotonic() + 0.1)
    gate.open()
    await first
    await answer(llava, about("third"), Sampling(max_tokens=1, temperature=0))
    assert gate.steps == 3


@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_frees_the_row(llava: TransformersEngine, gate: Gate, how: str) -> None:
    gate.shut()
    stream = llava.generate(about("leave"), Sampling(max_tokens=400, temperature=0), "test", math.inf)
    gate.let(2)
    await anext(stream)
    if how == "close":
        await stream.aclose()
    else:
        task = asyncio.ensure_future(_drain(stream))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    gate.open()
    await answer(llava, about("next"), Sampling(max_tokens=1, temperature=0))
    # Two were let through, one may have been waiting at the gate, one is the next request's.
    assert gate.steps <= 4


async def _drain(stream: AsyncIterator[ChatEvent]) -> None:
    async for _ in stream:
        pass


async def test_neighbours_of_one_that_left_go_on(llava: TransformersEngine, gate: Gate, observer: Observer) -> None:
    prompt = about("stay", 1)
    expected = (await answer(llava, prompt)).answers
    gate.shut()
    plug = asyncio.create_task(answer(llava, about("plug"), Sampling(max_tokens=1, temperature=0)))
    await asyncio.to_thread(gate.entered.acquire)
    leaving = asyncio.create_task(answer(llava, about("leave", 2), Sampling(max_tokens=400, temperature=0)))
    staying = asyncio.create_task(answer(llava, prompt))
    await queued(llava, 2)
    gate.let(1)
    await plug
    await asyncio.to_thread(gate.entered.acquire)  # both have begun
    gate.let(3)
    leaving.cancel()
    gate.open()
    assert (await staying).answers == expected
    await until(lambda: 2 in observer.sizes)  # a batch is reported after its rows have ended


async def test_a_row_that_breaks_its_batch_hurts_nobody_else(tmp_path: Path, gate: Gate, observer: Observer) -> None:
    folder = tiny_generation.with_poison(tiny_models.llava(tmp_path))
    engine = TransformersEngine(config_of(folder), observer)
    await engine.start()
    good, bad = about("good", 1), about(f"bad {POISON}")
    expected = (await answer(engine, good)).answers
    results = await together(engine, gate, (good, GREEDY), (bad, GREEDY), (good, GREEDY))
    await engine.close()
    assert observer.retried == [3]
    assert isinstance(results[1], ModelFailed)
    assert [result.answers for result in results if isinstance(result, ChatResult)] == [expected] * 2


async def test_a_batch_that_breaks_on_its_way_goes_on_where_it_was(
    llava: TransformersEngine, gate: Gate, observer: Observer
) -> None:
    """What has been streamed is not said twice, and the rest is what would have come."""
    requests = [
        (about("one", 1), GREEDY),
        (about("two", 2), Sampling(max_tokens=24, seed=3)),
        (about("three"), Sampling(max_tokens=24, seed=4, constraint=Constraint())),
    ]
    expected = [await answer(llava, *request) for request in requests]
    gate.shut()
    plug = asyncio.create_task(answer(llava, about("plug"), Sampling(max_tokens=1, temperature=0)))
    await asyncio.to_thread(gate.entered.acquire)
    tasks = [asyncio.create_task(answer(llava, *request)) for request in requests]
    await queued(llava, 3)
    entered = gate.steps
    gate.let(6)
    await plug
    await until(lambda: gate.steps >= entered + 6)
    gate.failing = RuntimeError("out of something")
    gate.open()
    assert await asyncio.gather(*tasks) == expected
    assert observer.retried == [3]


async def test_logits_that_are_no_numbers_fail_their_row_alone(llava: TransformersEngine, gate: Gate) -> None:
    prompt = about("fine", 1)
    expected = (await answer(llava, prompt)).answers
    gate.shut()
    plug = asyncio.create_task(answer(llava, about("plug"), Sampling(max_tokens=1, temperature=0)))
    await asyncio.to_thread(gate.entered.acquire)
    tasks = []
    for row, each in enumerate((prompt, about("broken", 2))):
        tasks.append(asyncio.create_task(answer(llava, each)))
        await queued(llava, row + 1)
    gate.let(1)
    await asyncio.to_thread(gate.entered.acquire)
    gate.broken_rows = (1,)
    gate.let(1)
    await plug
    good, broken = tasks
    with pytest.raises(ModelFailed):  # at once: its neighbour is held
        await broken
    assert not good.done()
    gate.open()
    assert (await good).answers == expected


async def test_a_full_queue_says_so(folders: dict[str, Path], gate: Gate) -> None:
    engine = TransformersEngine(config_of(folders["llava"], batching=Batching(max_queue=1)))
    await engine.start()
    gate.shut()
    running = asyncio.create_task(answer(engine, about("a")))
    await asyncio.to_thread(gate.entered.acquire)
    waiting = asyncio.create_task(answer(engine, about("b")))
    await queued(engine, 1)
    with pytest.raises(Overloaded):
        await answer(engine, about("c"))
    gate.open()
    await asyncio.gather(running, waiting)
    await engine.close()


async def test_batches_are_bounded_by_tokens(folders: dict[str, Path], gate: Gate, observer: Observer) -> None:
    # A window of 512 may always run; two answers of 300 do not fit together.
    engine = TransformersEngine(config_of(folders["llava"], batching=Batching(max_cost=10)), observer)
    await engine.start()
    observer.sizes.clear()
    sampling = Sampling(max_tokens=300, temperature=0, stop=tuple("abcdefghijklmnopqrstuvwxyz"))
    await together(engine, gate, (about("a"), sampling), (about("b"), sampling), (about("c"), GREEDY))
    await engine.close()
    assert max(observer.sizes) < 3


async def test_health(llava: TransformersEngine, gate: Gate, folders: dict[str, Path]) -> None:
    while not gate.steps:  # the batch of the warm-up may not be over yet, and a busy engine is not asked
        await llava.check(timeout_s=60)
        await asyncio.sleep(0.005)
    assert gate.steps == 1
    gate.shut()
    busy = asyncio.create_task(answer(llava, about("busy")))
    await asyncio.to_thread(gate.entered.acquire)
    await llava.check(timeout_s=60)
    assert gate.steps == 2
    gate.open()
    await busy
    with pytest.raises(Unavailable):
        await TransformersEngine(config_of(folders["llava"])).check(timeout_s=1)


async def test_a_broken_device_is_a_dead_engine_until_it_is_started_again(
    llava: TransformersEngine, gate: Gate
) -> None:
    gate.failing = torch.AcceleratorError("an illegal memory access was encountered")
    with pytest.raises(Unavailable) as caught:
        await answer(llava, about("dies"))
    assert caught.value.code == "engine_died"
    for act in (llava.check(1), answer(llava, about("after"))):
        with pytest.raises(Unavailable) as caught:
            await act
        assert caught.value.code == "engine_died"
    await llava.close()
    await llava.start()
    assert (await answer(llava, about("again"))).answers[0].finish_reason == "length"


async def test_closing_ends_what_runs_and_what_waits(llava: TransformersEngine, gate: Gate) -> None:
    gate.shut()
    long = Sampling(max_tokens=400, temperature=0)
    running = asyncio.create_task(answer(llava, about("running"), long))
    await asyncio.to_thread(gate.entered.acquire)
    waiting = asyncio.create_task(answer(llava, about("waiting"), long))
    await queued(llava, 1)
    closing = asyncio.create_task(llava.close())
    await asyncio.sleep(0)
    gate.open()
    await closing
    for task in (running, waiting):
        with pytest.raises(Unavailable):
            await task
    with pytest.raises(Unavailable):
        await answer(llava, about("late"))
    assert gate.steps <= 2


@pytest.mark.parametrize("quantization", ["int8", "4bit"])
async def test_quantised_weights_take_less_and_still_answer(folders: dict[str, Path], quantization: str) -> None:
    pytest.importorskip("bitsandbytes")
    plain = TransformersEngine(config_of(folders["llava"]))
    full = (await plain.start()).weights_bytes
    await plain.close()
    engine = TransformersEngine(config_of(folders["llava"], quantization=quantization))
    info = await engine.start()
    result = await answer(engine, about("small", 1))
    await engine.close()
    assert info.weights_bytes < full * 0.7
    assert len(result.answers[0].token_ids) == 24


async def test_what_cannot_be_served_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    CLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="'clip'"):
        await TransformersEngine(config_of(tmp_path)).start()
    with pytest.raises(ConfigError, match="at most 512"):
        await TransformersEngine(config_of(folders["llava"], max_model_len=1000)).start()


async def test_pickled_weights_are_not_loaded(folders: dict[str, Path], tmp_path: Path) -> None:
    for file in folders["llava"].iterdir():
        if file.suffix == ".safetensors":
            torch.save({}, tmp_path / "pytorch_model.bin")
        else:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises((OSError, ArgusError)):
        await TransformersEngine(config_of(tmp_path)).start()
