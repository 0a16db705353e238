"""A generating model's engine alone: its steps by sequences and prompt lengths, or its static batches by size."""

from __future__ import annotations

import asyncio
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from PIL import Image

from benchmarks.capacity.profiler.fit import Observation, StepFit, fit_steps
from benchmarks.capacity.profiler.timing import Effort, distribution, rounds
from benchmarks.capacity.profiles import Distribution, ForwardPass, scaled, scaled_passes
from benchmarks.workloads.pictures import Pictures
from deployments.generation.engine import Engine, Prompt
from deployments.generation.messages import ImagePart, Message, Sampling, Text
from deployments.generation.prompts import PromptStyle, load_style, render
from deployments.messages import EncodedImage
from serve.config.models import GenerativeModel
from serve.errors import Unavailable

_SCENES = 32
# Words in a question beside the image: from next to none to a page.
_WORDS = (4, 40, 160)
_TOKENS = 24
_STATIC_TOKENS = 8
# Observations of a batch size, of which its time can be told; a measurement has as many rounds at least.
LEAST_PASSES = 5


@dataclass(frozen=True, slots=True)
class Stepped:
    """An engine with continuous batching.

    Attributes:
        beside: processor time that the process which asks takes for a prompt with an image until its first token: the
            engine's processor of images, its tokenizer. It is no part of `fit`.
        image_tokens: prompt tokens that one image becomes.
        start_s: by stage.
        began: when observing did, on `time.monotonic()`.
    """

    fit: StepFit
    beside: Distribution
    image_tokens: int
    start_s: dict[str, float]
    observations: int
    began: float = 0.0

    def at_pace(self, factor: float) -> Stepped:
        """With every duration but the start's times `factor`."""
        return replace(self, fit=self.fit.scaled(factor), beside=scaled(self.beside, factor))


@dataclass(frozen=True, slots=True)
class Batched:
    """An engine with static batches, its answers of `_STATIC_TOKENS` tokens at most; observed since `began`."""

    preprocess: Distribution
    forward: tuple[ForwardPass, ...]
    start_s: dict[str, float]
    began: float = 0.0

    def at_pace(self, factor: float) -> Batched:
        """With every duration but the start's times `factor`."""
        return replace(self, preprocess=scaled(self.preprocess, factor), forward=scaled_passes(self.forward, factor))


class Passes:
    """A `BatchObserver` that keeps what ran."""

    def __init__(self) -> None:
        self.ran: list[tuple[int, float, float]] = []
        self._more = asyncio.Event()

    def batch_ran(self, *, items: int, cost: float, forward_s: float, waits_s: Sequence[float]) -> None:
        """See `BatchObserver`."""
        self.ran.append((items, cost, forward_s))
        self._more.set()

    async def all_ran(self, items: int, most_s: float = 10.0) -> None:
        """Waits for passes of so many items to be reported: an answer is heard before its pass has ended."""
        async with asyncio.timeout(most_s):
            while sum(ran[0] for ran in self.ran) < items:
                self._more.clear()
                await self._more.wait()

    def dropped(self, reason: str) -> None:
        """See `BatchObserver`."""

    def retried_alone(self, items: int) -> None:
        """See `BatchObserver`."""


@dataclass(slots=True)
class Asker:
    """Makes prompts that no cache knows: a new picture each, and words that no other prompt begins with."""

    style: PromptStyle
    _pictures: Pictures = field(default_factory=lambda: Pictures("easy", range(_SCENES)))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def prompt(self, words: int, *, image: bool = True) -> Prompt:
        """One prompt of so many words, with or without a picture."""
        number = next(self._numbers)
        text = " ".join([f"{number}", *("what", "colour", "is", "the", "object")] * (words // 6 + 1))
        if not image:
            message = Message("user", (Text(text),))
            return Prompt(render((message,), self.style, max_images=1, max_videos=0).text)
        jpeg = self._pictures.take(number)[1]
        message = Message("user", (ImagePart(EncodedImage(jpeg)), Text(text)))
        rendered = render((message,), self.style, max_images=1, max_videos=0)
        return Prompt(rendered.text, (Image.open(io.BytesIO(jpeg)).convert("RGB"),), (f"profile-{number}",))


@dataclass(frozen=True, slots=True)
class Heard:
    """One answer: when it was asked for, and when its first and last tokens came; on one clock.

    Attributes:
        ours_s: processor time of this process until the first token; the engine is another.
    """

    asked: float
    first: float
    last: float
    tokens: int
    prompt_tokens: int
    cached_tokens: int
    ours_s: float = 0.0


async def hear(
    engine: Engine,
    prompt: Prompt,
    tokens: int,
    clock: Callable[[], float] = time.perf_counter,
    work: Callable[[], float] = time.process_time,
) -> Heard:
    """Asks for exactly so many tokens, unless the answer ends before."""
    asked, begun = clock(), work()
    first = last = asked
    ours_s = 0.0
    written = read = cached = 0
    sampling = Sampling(max_tokens=tokens, temperature=0.0)
    async with aclosing(engine.generate(prompt, sampling, "profile", math.inf)) as events:
        async for event in events:
            if event.token_ids:
                last = clock()
                if not written:
                    first, ours_s = last, work() - begun
                written += len(event.token_ids)
            read, cached = event.prompt_tokens, event.cached_tokens
    return Heard(asked, first, last, written, read, cached, ours_s)


async def steps(engine: Engine, asker: Asker, concurrency: Sequence[int], effort: Effort) -> Stepped:
    """Observes an engine: prompts of several lengths alone, with and without an image, several prompts with an image at
    once, which cost less each, and several answers at once.

    A lone request gives the time to its first token, without this process's part in it; the tokens of requests that
    began together, between the last first token and the first last one, give steps of so many sequences.
    """
    info = await engine.start()
    with_image = await hear(engine, asker.prompt(_WORDS[0]), 1)
    without = await hear(engine, asker.prompt(_WORDS[0], image=False), 1)
    image_tokens = max(0, with_image.prompt_tokens - without.prompt_tokens)
    found: list[Observation] = []
    beside: list[float] = []
    questions = _questions(concurrency)
    began = time.monotonic()
    for number, order in enumerate(rounds(range(len(questions)))):
        counted = number - effort.warm_up
        if counted >= effort.most or (counted >= effort.least and time.monotonic() - began >= effort.seconds):
            return Stepped(fit_steps(found), distribution(beside), image_tokens, info.start_s, len(found), began)
        for which in order:
            question = questions[which]
            prompts = [asker.prompt(question.words, image=question.image) for _ in range(question.at_once)]
            answers = await asyncio.gather(*(hear(engine, prompt, question.tokens) for prompt in prompts))
            if counted < 0:
                continue
            found += together(answers) if question.tokens > 1 else first_tokens(answers, question.image)
            beside += [answers[0].ours_s] if question.image and question.at_once == 1 else []
    raise AssertionError("rounds never end")


class _Question(NamedTuple):
    words: int
    image: bool
    at_once: int = 1
    tokens: int = 1


def _questions(concurrency: Sequence[int]) -> list[_Question]:
    alone = [_Question(words, image) for words in _WORDS for image in (True, False)]
    prompts = [_Question(_WORDS[0], True, size) for size in concurrency if size > 1]
    return alone + prompts + [_Question(_WORDS[0], False, size, _TOKENS) for size in concurrency]


def first_tokens(answers: Sequence[Heard], image: bool) -> list[Observation]:
    """What the engine had of the time to the last first token of prompts that were asked at once.

    What we do for the first prompt it waits for; for the others while it is at work, so of the time until the first
    token only one part counts. Tokens of one step come within a moment: those that are further apart than half of what
    a prompt takes are of different steps.
    """
    if not all(one.tokens for one in answers):
        return []
    firsts = sorted(one.first for one in answers)
    whole = firsts[-1] - min(one.asked for one in answers)
    apart = 0.5 * whole / len(answers)
    return [
        Observation(
            max(1e-6, whole - min(one.ours_s for one in answers) / len(answers)),
            0,
            sum(one.prompt_tokens - one.cached_tokens for one in answers),
            len(answers) if image else 0,
            asked=1,
            steps=1 + sum(after - before > apart for before, after in itertools.pairwise(firsts)),
        )
    ]


def together(answers: Sequence[Heard]) -> list[Observation]:
    """One observation of the steps in which all of them were being written; none when they hardly overlapped."""
    start, end = max(one.first for one in answers), min(one.last for one in answers)
    per_s = [(one.tokens - 1) / (one.last - one.first) for one in answers if one.last > one.first]
    if end <= start or len(per_s) < len(answers):
        return []
    return [Observation(len(per_s) / sum(per_s), len(answers))]


async def batches(engine: Engine, passes: Passes, asker: Asker, most: int, effort: Effort) -> Batched:
    """Times a static engine's passes by their size, and what a lone request takes beside its pass."""
    info = await engine.start()
    sizes = [size for size in (1, 2, 4, 8, 16, 32, 64) if size < most] + [most]
    by_size: dict[tuple[int, float], list[float]] = {}
    beside: list[float] = []
    began = time.monotonic()
    for number, order in enumerate(rounds(sizes)):
        counted = number - effort.warm_up
        if counted >= effort.most or (counted >= effort.least and time.monotonic() - began >= effort.seconds):
            return Batched(distribution(beside), _passes(by_size), info.start_s, began)
        for size in order:
            passes.ran.clear()
            prompts = [asker.prompt(_WORDS[0]) for _ in range(size)]
            answers = await asyncio.gather(*(hear(engine, prompt, _STATIC_TOKENS) for prompt in prompts))
            await passes.all_ran(size)
            if counted < 0:
                continue
            for items, cost, seconds in passes.ran:
                by_size.setdefault((items, cost / items), []).append(seconds)
            if size == 1:
                beside.append(max(0.0, answers[0].last - answers[0].asked - sum(ran[2] for ran in passes.ran)))
    raise AssertionError("rounds never end")


def _passes(by_size: dict[tuple[int, float], list[float]]) -> tuple[ForwardPass, ...]:
    """One entry a size, with the mean cost of an item; sizes that hardly ever came about are left out.

    Raises:
        Unavailable: none came about often enough.
    """
    sizes = sorted({items for items, _ in by_size})
    found = []
    for size in sizes:
        samples = {cost: seconds for (items, cost), seconds in by_size.items() if items == size}
        seconds = [one for some in samples.values() for one in some]
        cost = sum(each * len(some) for each, some in samples.items()) / len(seconds)
        if len(seconds) >= LEAST_PASSES:
            found.append(ForwardPass(items=size, cost=size * cost, seconds=distribution(seconds)))
    if not found:
        raise Unavailable(f"The engine ran no size of batch {LEAST_PASSES} times; give it longer with --seconds.")
    return tuple(found)


def concurrencies(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... up to what the engine runs at a time, at most 32."""
    return tuple(size for size in (1, 2, 4, 8, 16, 32) if size <= most)


def asker_of(model: GenerativeModel) -> Asker:
    """For a model's own chat template."""
    return Asker(load_style(model.checkpoint, model.revision))
