"""The deployment of a generating model: renders prompts, decodes media, and keeps one engine running."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from deployments.base import CpuPool
from deployments.generation.engine import Engine, EngineInfo, Prompt
from deployments.generation.engines import make_engine
from deployments.generation.media import DecodedMedia, MediaLimits, load_prompt, low_detail_side
from deployments.generation.messages import ChatEvent, ChatRequest, ChatResult, Gathering
from deployments.generation.metrics import GenerationMetrics
from deployments.generation.prompts import PromptStyle, load_style, render
from deployments.gpu_memory import GpuMemory
from deployments.messages import Call, ModelInfo
from serve import tracing
from serve.config.models import GenerativeModel
from serve.errors import DeadlineExceeded, Unavailable
from serve.media.image import ImageLimits

ENGINE_DIED = "engine_died"
# A restart that takes longer, in seconds, is given up: Ray Serve then replaces the replica.
_RESTART_S = 300.0


class GenerativeReplica:
    """A replica of LLaVA, BLIP-2 or Video-LLaVA; constructed once its engine answers.

    An engine whose process dies is replaced in place. Requests that it had in progress fail with `engine_died`, which
    the router may retry; requests that arrive meanwhile wait for the new engine, each until its own deadline.
    """

    async def __init__(self, name: str, config: GenerativeModel, limits: ImageLimits) -> None:  # type: ignore[misc]
        started = time.monotonic()
        self._config = config
        self._metrics = GenerationMetrics(name)
        self._gpu = GpuMemory(name, config.gpu_memory_gb)
        self._style: PromptStyle = await asyncio.to_thread(load_style, config.checkpoint, config.revision)
        low_side = await asyncio.to_thread(low_detail_side, config.checkpoint, config.revision)
        self._media = MediaLimits(image=limits, frames=config.video_frames, low_side=low_side)
        self._decoded = DecodedMedia()
        self._pool = CpuPool(config.placement.preprocess_workers)
        self._engine: Engine = make_engine(config)
        self._engine_info: EngineInfo = await self._engine.start()
        self._restart: asyncio.Task[None] | None = None
        self._restarting_since = 0.0
        self._load_s = time.monotonic() - started

    async def info(self) -> ModelInfo:
        """Engine, device, context window, and how long the start took, by stage."""
        engine = self._engine_info
        return ModelInfo(
            engine.device,
            self._load_s,
            engine=engine.engine,
            context_tokens=engine.max_model_len,
            weights_bytes=engine.weights_bytes,
            start_s=engine.start_s,
        )

    async def check_health(self) -> None:
        """Called by Ray Serve; raises when the replica must be replaced.

        Raises:
            Unavailable: the engine hangs, or does not come back.
        """
        await self._check()
        await self._gpu.report()

    async def _check(self) -> None:
        if self._restart is not None:
            if self._restart.done():
                raise Unavailable(f"The engine did not come back: {self._restart.exception()}")
            if time.monotonic() - self._restarting_since > _RESTART_S:
                raise Unavailable(f"The engine has been restarting for more than {_RESTART_S:.0f} s.")
            return
        try:
            await self._engine.check(timeout_s=20.0)
        except Unavailable as error:
            if error.code != ENGINE_DIED:
                raise
            self._replace_engine()

    async def chat(self, request: ChatRequest, call: Call) -> ChatResult:
        """The whole answer; see `Engine.generate` and `load_prompt` for what it raises."""
        gathering = Gathering()
        async with aclosing(self.chat_stream(request, call)) as events:
            async for event in events:
                gathering.add(event)
        return gathering.result()

    async def chat_stream(self, request: ChatRequest, call: Call) -> AsyncGenerator[ChatEvent, None]:
        """The answer as it grows. Closing the generator stops the engine's work on it."""
        deadline = time.monotonic() + call.timeout_s
        with tracing.span("render"):
            prompt = await self._prompt(request, deadline)
        await self._engine_back(deadline)
        watch = self._metrics.watch()
        span = tracing.start("generate")
        try:
            events = self._engine.generate(prompt, request.sampling, call.request_id, deadline)
            async with aclosing(events):
                while True:
                    with tracing.use(span):
                        event = await anext(events, None)
                    if event is None:
                        return
                    watch.event(event)
                    yield event
        except BaseException as error:
            if isinstance(error, Unavailable) and error.code == ENGINE_DIED:
                self._replace_engine()
            if span is not None:
                tracing.fail(span, error)
            raise
        finally:
            watch.close()
            if span is not None:
                span.set_attributes(watch.attributes())
                span.end()

    async def _prompt(self, request: ChatRequest, deadline: float) -> Prompt:
        config = self._config
        rendered = await self._pool.run(
            render, request.messages, self._style, max_images=config.max_images, max_videos=config.max_videos
        )
        return await load_prompt(rendered, self._pool, self._media, deadline, self._decoded)

    async def _engine_back(self, deadline: float) -> None:
        """Waits for a restart in progress.

        Raises:
            DeadlineExceeded: it takes longer than the request has.
            Unavailable: it failed.
        """
        restart = self._restart
        if restart is None:
            return
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                await asyncio.shield(restart)
        except TimeoutError:
            raise DeadlineExceeded("The model's engine is being restarted and was not back in time.") from None
        except Exception as error:
            raise Unavailable(f"The model's engine did not come back: {error}", retry_after_s=5.0) from error

    def _replace_engine(self) -> None:
        """Starts the restart, unless one is in progress or has failed."""
        if self._restart is None:
            self._restarting_since = time.monotonic()
            self._metrics.engine_died()
            self._restart = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        await self._engine.close()
        self._engine_info = await self._engine.start()
        self._restart = None

    async def __del__(self) -> None:
        """Called by Ray Serve when the replica ends: the engine's processes end with it."""
        await self._engine.close()
        self._pool.close()
