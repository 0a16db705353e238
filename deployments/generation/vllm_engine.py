"""The engine contract on vLLM: continuous batching over paged attention, with prefix and media caches.

vLLM's `AsyncLLM` lives in this process and runs tokenisation, preprocessing and detokenisation; its scheduler and the
model live in a process of their own, which may die without us.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deployments.generation import vllm_plugin, vllm_process, vllm_settings
from deployments.generation.engine import EngineInfo, Prompt, check_room
from deployments.generation.messages import ChatEvent, Constraint, Sampling
from deployments.generation.token_bytes import TokenBytes
from deployments.generation.vllm_output import event, sampling_params
from serve import tracing
from serve.config.models import GenerativeModel
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

if TYPE_CHECKING:
    from vllm.outputs import RequestOutput
    from vllm.v1.engine.async_llm import AsyncLLM

# An engine that says nothing for this long, in seconds, although asked, has hung. A long prefill on a CPU is not that.
STALL_S = 120.0
# What a dying engine process gets to end by itself, in seconds.
_CLOSE_S = 3.0
# vLLM compiles and imports what log-probabilities, drawing and grammars need when they are first asked for.
_WARM_UPS = (
    Sampling(max_tokens=2, temperature=0.0, logprobs=1),
    Sampling(max_tokens=2, top_p=0.9, logprobs=1),
    Sampling(max_tokens=2, temperature=0.0, constraint=Constraint('{"enum": ["yes", "no"]}')),
)


class VllmEngine:
    """One checkpoint on vLLM. See `deployments.generation.engine.Engine` for what each method promises.

    Args:
        model: its section of the cluster file. `placement.threads`, `batching.max_items` (sequences in one step),
            `batching.max_cost` (tokens in one step), `batching.max_queue` (sequences that wait) are kept.
    """

    def __init__(self, model: GenerativeModel) -> None:
        self._model = model
        self._llm: AsyncLLM | None = None
        self._tokens: TokenBytes | None = None
        self._limits: dict[str, int] = {}
        self._open = 0
        self._numbers = itertools.count()
        self._heard_at = 0.0
        self._probe: asyncio.Future[Any] | None = None
        self._sockets: str | None = None

    async def start(self) -> EngineInfo:
        """Loads and warms up; see `Engine.start`.

        Raises:
            ConfigError: vLLM cannot serve this checkpoint with these settings; see `vllm_settings.obstacle`.
        """
        if (why := vllm_settings.obstacle(self._model)) is not None:
            raise ConfigError(f"{self._model.checkpoint}: {why}. Other engine: `engine: transformers`.")
        await self._shut_down()
        started = time.monotonic()
        stages: dict[str, float] = {}

        def lap(stage: str) -> None:
            stages[stage] = round(time.monotonic() - started - sum(stages.values()), 3)

        device = await asyncio.to_thread(_device)
        os.environ.update(vllm_settings.environment(self._model, device))
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets = tempfile.mkdtemp(prefix="argus-vllm-")
        if device == "cpu":
            vllm_process.use_fork_server(self)
        await asyncio.to_thread(_import_vllm, self._model, device)
        lap("import")
        config = await asyncio.to_thread(_engine_config, self._model, device)
        lap("config")
        spawned = time.time()
        self._llm = llm = await asyncio.to_thread(_launch, config, device)
        lap("engine")
        self._heard_at = time.monotonic()
        try:
            (report,) = await llm.collective_rpc("argus_report")
            stages["process"] = round(max(0.0, report["process_ready"] - spawned), 3)
            stages["load"] = round(stages.pop("engine") - stages["process"], 3)
            self._tokens = await asyncio.to_thread(TokenBytes, llm.renderer.get_tokenizer())
            self._limits = dict(llm.renderer.get_mm_processor().info.allowed_mm_limits)
            await self._warm_up(llm)
        except BaseException:
            await self.close()
            raise
        lap("warm_up")
        return EngineInfo("vllm", device, llm.model_config.max_model_len, int(report["weights_bytes"]), stages)

    async def _warm_up(self, llm: AsyncLLM) -> None:
        """A short answer of each sort, so that the first client finds every lazy import and compilation done."""
        for sampling in _WARM_UPS:
            # A model that takes no grammar is refused one when a client asks for it, and serves everything else.
            with suppress(InvalidRequest):
                async for _ in self.generate(Prompt("Hello"), sampling, "warm-up", time.monotonic() + STALL_S):
                    pass

    async def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str, deadline: float
    ) -> AsyncGenerator[ChatEvent, None]:
        """Answers a prompt; see `Engine.generate`."""
        llm, tokens = self._alive()
        if sampling.n > 1 and sampling.temperature == 0:
            # vLLM refuses more than one greedy answer; they would be the same one.
            async with aclosing(self.generate(prompt, replace(sampling, n=1), request_id, deadline)) as answer:
                async for made in answer:
                    for index in range(sampling.n):
                        yield replace(made, index=index)
            return
        batching = self._model.batching
        if self._open + sampling.n > batching.max_items + batching.max_queue:
            raise Overloaded(f"The model's queue is full ({batching.max_queue} waiting).", retry_after_s=1.0)
        self._check_counts(prompt)
        self._open += sampling.n
        stream: AsyncGenerator[RequestOutput, None] | None = None
        unfinished = set(range(sampling.n))
        cutter: asyncio.Task[None] | None = None
        prompt_tokens = cached_tokens = 0
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                rendered = await self._render(llm, prompt)
                prompt_tokens = len(rendered["prompt_token_ids"])
                check_room(sampling, prompt_tokens, llm.model_config.max_model_len)
                params = await self._params(llm, sampling, prompt_tokens)
            # Clients choose request ids and may repeat them; `_cut` must end this request only.
            own_id = f"{request_id}-{next(self._numbers)}"
            stream = llm.generate(rendered, params, own_id)
            while unfinished:
                async with asyncio.timeout(None if cutter else deadline - time.monotonic()):
                    output = await anext(stream)
                self._heard_at = time.monotonic()
                if cutter is None:
                    cutter = asyncio.create_task(_cut(llm, own_id, deadline))
                    _tell_stages(output)
                cached_tokens = output.num_cached_tokens or cached_tokens
                for completion in output.outputs:
                    made = event(completion, sampling, prompt_tokens, cached_tokens, tokens)
                    if made.finish_reason is not None:
                        unfinished.discard(made.index)
                    yield made
        except TimeoutError:
            raise DeadlineExceeded("The deadline passed before the first token.") from None
        except (ArgusError, asyncio.CancelledError, GeneratorExit):
            raise
        except Exception as error:
            raise _as_argus(error) from error
        finally:
            self._open -= sampling.n
            if cutter is not None:
                cutter.cancel()
            if stream is not None:
                # vLLM aborts a request whose generator is closed.
                await stream.aclose()

    def _alive(self) -> tuple[AsyncLLM, TokenBytes]:
        if self._llm is None or self._tokens is None:
            raise Unavailable("The engine has not started.", retry_after_s=1.0)
        if self._llm.errored:
            raise _died()
        return self._llm, self._tokens

    def _check_counts(self, prompt: Prompt) -> None:
        for noun, items in (("image", prompt.images), ("video", prompt.videos)):
            limit = self._limits.get(noun, 0)
            if len(items) > limit:
                raise InvalidRequest(
                    f"The conversation holds {len(items)} {noun}s; this model takes {limit or 'none'}.",
                    code=f"too_many_{noun}s",
                    param="messages",
                )

    async def _render(self, llm: AsyncLLM, prompt: Prompt) -> Any:
        """Tokens and preprocessed media, made in vLLM's threads.

        Raises:
            InvalidRequest: `prompt_too_long`.
            InvalidMedia: the processor refuses an image or a video.
        """
        from vllm.renderers.inputs.preprocess import parse_model_prompt

        window = llm.model_config.max_model_len
        renderer = llm.renderer
        # Tokenising a book to say that it is too long would be a gift to whoever sends books.
        least = len(prompt.text) // renderer.get_tokenizer().max_chars_per_token
        if least > window:
            raise _too_long(f"at least {least}", window)
        media = {"image": list(prompt.images), "video": list(prompt.videos)}
        inputs: dict[str, Any] = {"prompt": prompt.text}
        if prompt.images or prompt.videos:
            ids = {"image": list(prompt.image_ids), "video": list(prompt.video_ids)}
            inputs["multi_modal_data"] = {noun: items for noun, items in media.items() if items}
            inputs["multi_modal_uuids"] = {noun: ids[noun] for noun, items in media.items() if items}
        # The length is checked below, once media have their tokens, with both numbers in the message.
        options = replace(renderer.default_cmpl_tok_params, max_total_tokens=None)
        try:
            (rendered,) = await renderer.render_cmpl_async([parse_model_prompt(llm.model_config, inputs)], options)
        except Exception as error:
            if prompt.images or prompt.videos:
                # vLLM's own words quote the whole input; what went wrong is underneath.
                cause = error.__cause__ or error
                raise InvalidMedia(f"The model's processor refuses the media: {cause}", param="messages") from error
            raise
        if (length := len(rendered["prompt_token_ids"])) >= window:
            raise _too_long(str(length), window)
        return rendered

    async def _params(self, llm: AsyncLLM, sampling: Sampling, prompt_tokens: int) -> Any:
        """vLLM's sampling parameters, checked.

        Raises:
            InvalidRequest: `invalid_json_schema`.
        """
        room = llm.model_config.max_model_len - prompt_tokens
        if sampling.constraint is None:
            return sampling_params(sampling, room)
        # Not on the event loop, where a large schema would hold everyone up; vLLM checks the grammar again there, so
        # what gets that far is known to be good and bounded.
        config = llm.vllm_config
        try:
            params = await asyncio.to_thread(sampling_params, sampling, room)
            await asyncio.to_thread(
                params.verify, config.model_config, None, config.structured_outputs_config, llm.tokenizer
            )
        except ArgusError:
            raise
        except Exception as error:
            raise InvalidRequest(
                f"The JSON schema cannot be used: {str(error)[:300]}",
                code="invalid_json_schema",
                param="response_format",
            ) from error
        return params

    async def check(self, timeout_s: float) -> None:
        """The health check's body; see `Engine.check`. A busy engine is healthy, a hung one is not."""
        llm, _ = self._alive()
        if self._probe is None or self._probe.done():
            # One question at a time: an engine in a long step answers it afterwards.
            self._probe = asyncio.ensure_future(llm.is_sleeping())
        try:
            await asyncio.wait_for(asyncio.shield(self._probe), timeout_s)
            self._heard_at = time.monotonic()
        except TimeoutError:
            self._alive()
            if (silent := time.monotonic() - self._heard_at) > STALL_S:
                raise Unavailable(f"The engine has been silent for {silent:.0f} s.", code="engine_stalled") from None
        except Exception as error:
            raise _as_argus(error) from error

    async def close(self) -> None:
        """Ends the engine and its processes; see `Engine.close`."""
        await self._shut_down()
        await asyncio.to_thread(vllm_process.leave_fork_server, self)

    async def _shut_down(self) -> None:
        """Ends the engine process and lets go of everything that spoke with it."""
        llm, self._llm = self._llm, None
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        if llm is not None:
            if not self._open and llm.output_handler is not None:
                # It would report the closed sockets as a failure. With requests open it must stay, to end them.
                llm.output_handler.cancel()
            await asyncio.to_thread(llm.shutdown, _CLOSE_S)
            # vLLM's client holds its sockets until it is collected.
            del llm
            gc.collect()
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)


def _tell_stages(output: RequestOutput) -> None:
    """Spans of what the engine process did up to an answer's first token; its clock is this machine's, as ours is."""
    stages = output.metrics
    if stages is None or tracing.current() is None:
        return
    zero = tracing.at(0.0)
    for name, began, ended in (
        ("queue", stages.queued_ts, stages.scheduled_ts),
        ("prefill", stages.scheduled_ts, stages.first_token_ts),
    ):
        if 0 < began <= ended:
            span = tracing.start(name, start_ns=zero + int(began * 1e9))
            if span is not None:
                span.end(zero + int(ended * 1e9))


async def _cut(llm: AsyncLLM, request_id: str, deadline: float) -> None:
    """Ends an answer at its deadline. vLLM then sends what it still held back: the end of a text in which a stop text
    may have begun, which giving up the wait for it would lose."""
    await asyncio.sleep(deadline - time.monotonic())
    with suppress(Exception):  # of an engine that has died, the stream tells
        await llm.abort(request_id)


def _device() -> vllm_settings.Device:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _import_vllm(model: GenerativeModel, device: vllm_settings.Device) -> None:
    import vllm.engine.arg_utils
    import vllm.v1.engine.async_llm  # noqa: F401

    architecture = vllm_settings.architecture(model.checkpoint)
    if device == "cpu" and architecture is not None and architecture in vllm_plugin.MODULES:
        vllm_plugin.register_class(architecture)


def _engine_config(model: GenerativeModel, device: vllm_settings.Device) -> Any:
    from vllm.config import StructuredOutputsConfig
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.platforms import current_platform

    total_gb = current_platform.get_device_total_memory() / 1e9 if device == "cuda" else None
    arguments = vllm_settings.engine_arguments(model, device, total_gb)
    constraints = StructuredOutputsConfig(backend="xgrammar")
    return AsyncEngineArgs(**arguments, structured_outputs_config=constraints).create_engine_config()


def _launch(config: Any, device: vllm_settings.Device) -> AsyncLLM:
    from vllm.v1.engine.async_llm import AsyncLLM

    # vLLM notes the times of a request's stages only beside its statistics, of which nobody is told.
    untimed = not tracing.enabled()
    if device == "cuda":
        return AsyncLLM.from_vllm_config(config, disable_log_stats=untimed)
    with vllm_process.engine_from_fork_server():
        return AsyncLLM.from_vllm_config(config, disable_log_stats=untimed)


def _died() -> Unavailable:
    return Unavailable("The engine process has died; it is being replaced.", code="engine_died", retry_after_s=1.0)


def _too_long(length: str, window: int) -> InvalidRequest:
    return InvalidRequest(
        f"The prompt has {length} tokens, media included; this model takes {window} together with the answer.",
        code="prompt_too_long",
        param="messages",
    )


def _as_argus(error: Exception) -> ArgusError:
    """What vLLM raises, as one of ours."""
    from vllm.exceptions import QueueOverflowError, VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    if isinstance(error, EngineDeadError):
        return _died()
    if isinstance(error, QueueOverflowError):
        return Overloaded("The engine's queue is full.", retry_after_s=1.0)
    if isinstance(error, VLLMClientError):
        return InvalidRequest(str(error))
    return ModelFailed(f"The engine failed on this request: {type(error).__name__}: {error}")
