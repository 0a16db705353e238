"""The engine contract on transformers: static batches of `generate`, every row with rules and a stream of its own.

Rows gather while a batch runs and go together into the next one (deployments/batching.py). A row that is over frees no
place until its batch ends: that is what vLLM's continuous batching does better. What this engine has instead is reach:
whatever transformers can load, on whatever torch runs.

The answers to one request (`n`) are rows of a batch, whose media are encoded once; the language model reads the prompt
for each of them, and a request whose rows do not fit into one batch is encoded once in each.

Batches may mix rows with different numbers of images, and rows with none: features are placed by the order of their
placeholders. Rows whose media tensors have other shapes run in other batches (`Preparer.lane`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import torch
from PIL import Image
from transformers import LogitsProcessorList, StoppingCriteriaList

from deployments.base import STALL_S, CpuPool
from deployments.batching import Batcher, BatchLimits, BatchObserver
from deployments.generation.engine import EngineInfo, Prompt, check_room
from deployments.generation.grammar import Matcher
from deployments.generation.messages import ChatEvent, Sampling
from deployments.generation.prompts import VIDEO_FAMILIES
from deployments.generation.rows import Row, RowChooser, RowStopping
from deployments.generation.sampling import RowSampler
from deployments.generation.text_stream import TextStream
from deployments.generation.transformers_inputs import Inputs, collate, embed
from deployments.generation.transformers_load import Loaded, generation_config, load
from serve.config.models import GenerativeModel
from serve.errors import (
    ArgusError,
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    Overloaded,
    Unavailable,
)

_PROBE_SIDE = 32
_PROBE_S = 600.0


class TransformersEngine:
    """One checkpoint on transformers. See `deployments.generation.engine.Engine` for what each method promises.

    Args:
        config: its section of the cluster file. `batching.max_items` bounds the rows of a batch (an answer is a row),
            `batching.max_cost` its tokens, prompts and answers together; without it the KV cache's memory does.
        observer: told about batches.
    """

    def __init__(self, config: GenerativeModel, observer: BatchObserver | None = None) -> None:
        self._config, self._observer = config, observer
        self._loaded: Loaded | None = None
        self._dead = False
        self._beat = 0.0
        self._live: set[Row] = set()

    @property
    def waiting(self) -> int:
        """Answers that wait for a batch."""
        return self._batcher.waiting if self._loaded is not None else 0

    async def start(self) -> EngineInfo:
        """Loads and warms up; see `Engine.start`.

        Raises:
            ConfigError: the checkpoint or its settings cannot be served; see `transformers_load.load`.
        """
        await self.close()
        self._model_thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(self._model_thread, load, self._config)
        except BaseException:
            self._model_thread.shutdown(wait=False)
            raise
        self._pool = CpuPool(self._config.placement.preprocess_workers)
        self._batcher: Batcher[Row, None] = Batcher(self._run, self._limits(loaded), observer=self._observer)
        self._loaded, self._dead = loaded, False
        started = time.monotonic()
        try:
            await self._answer_probe(_PROBE_S)
        except BaseException:
            await self.close()
            raise
        took = {**loaded.took, "warm_up": time.monotonic() - started}
        return EngineInfo(
            "transformers",
            loaded.device.type,
            loaded.max_model_len,
            loaded.weights_bytes,
            {stage: round(seconds, 3) for stage, seconds in took.items()},
        )

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str, deadline: float
    ) -> AsyncGenerator[ChatEvent, None]:
        """Answers a prompt; see `Engine.generate`."""
        loaded = self._alive()
        self._check_counts(prompt, loaded)
        woken = asyncio.Event()
        rows = await self._rows(prompt, sampling, woken, loaded, deadline)
        self._live.update(rows)
        tasks = [asyncio.create_task(self._submit(row), name=request_id) for row in rows]
        for task in tasks:
            task.add_done_callback(lambda _: woken.set())
        unfinished = set(rows)
        try:
            while unfinished:
                woken.clear()
                for row in rows:
                    if (event := row.take()) is not None:
                        if event.finish_reason is not None:
                            unfinished.discard(row)
                        yield event
                for row, task in zip(rows, tasks, strict=True):
                    # A row that fails says so at once; its task ends with the batch.
                    if (error := row.error or (task.exception() if task.done() else None)) is not None:
                        raise error
                if unfinished and not await _in_time(woken, deadline):
                    if not any(row.begun for row in rows):
                        raise DeadlineExceeded("The deadline passed before the first token.")
                    for row in unfinished:
                        row.cut()
        finally:
            for row in rows:
                row.close()
            for task in tasks:
                task.cancel()
            self._live.difference_update(rows)
            await asyncio.gather(*tasks, return_exceptions=True)

    async def check(self, timeout_s: float) -> None:
        """The health check's body; see `Engine.check`. A busy engine is healthy as long as it takes steps."""
        self._alive()
        if self._batcher.running_for() > 0:
            if (silent := time.monotonic() - self._beat) > STALL_S:
                raise Unavailable(f"The model has taken no step for {silent:.0f} s.", code="engine_stalled")
            return
        try:
            await self._answer_probe(timeout_s)
        except (Overloaded, DeadlineExceeded):
            return  # busy; a hang shows above
        except Unavailable:
            raise
        except ArgusError as error:
            raise Unavailable(f"The health probe failed: {error.message}") from error

    async def close(self) -> None:
        """Refuses what waits and ends what runs at its next step."""
        if self._loaded is None:
            return
        self._loaded = None
        for row in self._live:
            row.fail(Unavailable("The model is shutting down.", retry_after_s=1.0))
            row.wake()
        self._pool.close()
        await self._batcher.close()
        self._model_thread.shutdown(wait=False)

    def _limits(self, loaded: Loaded) -> BatchLimits:
        batching = self._config.batching
        return BatchLimits(
            max_items=batching.max_items,
            # A request that fills the context window may always run alone.
            max_cost=max(loaded.batch_tokens, loaded.max_model_len),
            max_wait_s=batching.max_wait_ms / 1000,
            max_queue=batching.max_queue,
        )

    def _alive(self) -> Loaded:
        if self._loaded is None:
            raise Unavailable("The engine has not started.", retry_after_s=1.0)
        if self._dead:
            raise _died()
        return self._loaded

    def _check_counts(self, prompt: Prompt, loaded: Loaded) -> None:
        config = self._config
        images = min(1, config.max_images) if loaded.family == "blip2" else config.max_images
        videos = config.max_videos if loaded.family in VIDEO_FAMILIES else 0
        for noun, items, limit in (("image", prompt.images, images), ("video", prompt.videos, videos)):
            if len(items) > limit:
                raise InvalidRequest(
                    f"The conversation holds {len(items)} {noun}s; this model takes {limit or 'none'}.",
                    code=f"too_many_{noun}s",
                    param="messages",
                )
        if loaded.family == "blip2" and not prompt.images:
            raise InvalidRequest("This model answers about an image; send one.", code="image_required")

    async def _rows(
        self, prompt: Prompt, sampling: Sampling, woken: asyncio.Event, loaded: Loaded, deadline: float
    ) -> list[Row]:
        """One row for each wanted answer; they share the prepared prompt.

        Raises:
            ArgusError: what `Preparer.prepare` and `GrammarCompiler.matcher` raise; `DeadlineExceeded`.
        """

        def prepare() -> tuple[Inputs, list[Matcher | None]]:
            matchers: list[Matcher | None] = [None] * sampling.n
            if sampling.constraint is not None:
                matchers = [loaded.grammars.matcher(sampling.constraint) for _ in matchers]
            return loaded.preparer.prepare(prompt), matchers

        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                inputs, matchers = await self._pool.run(prepare)
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the first token.") from None
        except ArgusError:
            raise
        except Exception as error:
            raise ModelFailed(f"The prompt cannot be prepared: {type(error).__name__}: {error}") from error
        length = inputs["input_ids"].shape[1]
        check_room(sampling, length, loaded.max_model_len)
        room = loaded.max_model_len - length
        loop = asyncio.get_running_loop()

        def wake() -> None:
            loop.call_soon_threadsafe(woken.set)

        return [
            Row(
                index,
                inputs,
                length,
                room if sampling.max_tokens is None else min(room, sampling.max_tokens),
                # Each answer has a seed of its own: those of one request must differ.
                RowSampler(sampling, None if sampling.seed is None else sampling.seed + index, matcher, loaded.device),
                TextStream(loaded.tokenizer, sampling.stop),
                loaded.end_tokens,
                wake,
            )
            for index, matcher in enumerate(matchers)
        ]

    async def _submit(self, row: Row) -> None:
        # No deadline for the batcher: it would refuse an answer that can only be begun in time, which is worth having.
        lane = self._alive().preparer.lane(row.inputs)
        await self._batcher.submit(row, cost=row.prompt_tokens + row.max_tokens, lane=lane)

    async def _run(self, rows: list[Row]) -> Sequence[Exception | None]:
        self._beat = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._model_thread, self._forward, rows)

    def _forward(self, rows: list[Row]) -> Sequence[Exception | None]:
        """Runs one batch to its end, in the model's thread. If it raises, the batcher runs the rows one by one."""
        loaded = self._alive()
        live = [row for row in rows if not row.over]
        if live:
            for row in live:
                row.rewind()
            try:
                self._generate(live, loaded)
            except torch.AcceleratorError as error:
                self._dead = True  # a CUDA context does not survive an error in a kernel
                raise _died() from error
            for row in live:
                row.fail(ModelFailed("The model stopped before this answer had ended."))
        return [row.error for row in rows]

    def _generate(self, rows: list[Row], loaded: Loaded) -> None:
        # Answers to one request share its inputs, which are embedded once.
        requests = {id(row.inputs): row.inputs for row in rows}
        batch = collate(list(requests.values()), loaded.pad_token, loaded.device, loaded.dtype)
        number = {request: place for place, request in enumerate(requests)}
        request_of = torch.tensor([number[id(row.inputs)] for row in rows], device=loaded.device)
        # BLIP-2's own `generate` would encode the images again.
        writer = loaded.model.language_model if loaded.family == "blip2" else loaded.model
        with torch.inference_mode():
            writer.generate(
                inputs_embeds=embed(loaded.model, batch)[request_of],
                attention_mask=batch["attention_mask"][request_of],
                generation_config=generation_config(loaded, max(row.max_tokens for row in rows)),
                logits_processor=LogitsProcessorList([RowChooser(rows, loaded.tokens, loaded.pad_token, self._step)]),
                stopping_criteria=StoppingCriteriaList([RowStopping(rows)]),
            )

    def _step(self) -> None:
        self._beat = time.monotonic()

    async def _answer_probe(self, timeout_s: float) -> None:
        """One token about one picture, the whole way."""
        picture = Image.new("RGB", (_PROBE_SIDE, _PROBE_SIDE), (127, 127, 127))
        text = "" if self._alive().family == "blip2" else "<image>\n"
        prompt = Prompt(text, (picture,), ("probe",)) if self._config.max_images else Prompt("probe")
        events = self.generate(prompt, Sampling(max_tokens=1, temperature=0), "probe", time.monotonic() + timeout_s)
        async with aclosing(events):
            async for _ in events:
                pass


async def _in_time(woken: asyncio.Event, deadline: float) -> bool:
    """Waits for the event; False when the deadline has passed."""
    if time.monotonic() >= deadline:
        return False
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            await woken.wait()
    except TimeoutError:
        return False
    return True


def _died() -> Unavailable:
    return Unavailable("The engine has died; it is being replaced.", code="engine_died", retry_after_s=1.0)
