"""The engine contract: what runs a checkpoint's forward passes and chooses its tokens.

Two engines keep it: `vllm_engine` (continuous batching, paged attention) and `transformers_engine` (for what vLLM does
not serve, and where vLLM is not installed). The replica above them renders prompts, decodes media and keeps deadlines'
errors in one place, so that both answer alike.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL.Image import Image as PilImage

from deployments.generation.messages import ChatEvent, Sampling
from serve.errors import InvalidRequest

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        text: with one placeholder of the checkpoint for each image and video, in order.
        images: RGB.
        image_ids: digest of each image; engines key their media caches by it.
        videos: each (frames, height, width, 3) uint8, RGB.
        video_ids: digest of each video.
    """

    text: str
    images: tuple[PilImage, ...] = ()
    image_ids: tuple[str, ...] = ()
    videos: tuple[Frames, ...] = ()
    video_ids: tuple[str, ...] = ()


def check_room(sampling: Sampling, prompt_tokens: int, window: int) -> None:
    """Sees that a prompt leaves its answer the room that the request wants.

    Args:
        window: tokens of prompt and answer together.

    Raises:
        InvalidRequest: `prompt_too_long`.
    """
    wanted = min(sampling.room, window // 4)
    if window - prompt_tokens < wanted:
        raise InvalidRequest(
            f"The prompt has {prompt_tokens} tokens, media included; of the {window} that this model takes, {wanted} "
            "are the answer's.",
            code="prompt_too_long",
            param="messages",
        )


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What an engine says of itself once it has started.

    Attributes:
        engine: `vllm` or `transformers`.
        device: `cpu` or `cuda`.
        max_model_len: context window in tokens, prompt and answer together.
        weights_bytes: memory of the loaded weights.
        start_s: seconds from `start` to ready, by stage (`load`, `warm_up`, ...).
    """

    engine: str
    device: str
    max_model_len: int
    weights_bytes: int
    start_s: dict[str, float]


class Engine(Protocol):
    """One loaded checkpoint. All methods are called from one event loop and never block it."""

    async def start(self) -> EngineInfo:
        """Loads and warms up. Called again after the engine has died, it starts a new one."""

    def generate(
        self, prompt: Prompt, sampling: Sampling, request_id: str, deadline: float
    ) -> AsyncGenerator[ChatEvent, None]:
        """Answers a prompt. Closing the generator (or cancelling its consumer) stops the work at once.

        Args:
            deadline: on `time.monotonic()`. When it passes before the first token, `DeadlineExceeded`; after it, the
                answer ends with `finish_reason="cut"`.

        Raises:
            InvalidRequest: `prompt_too_long` (the message states both lengths), `too_many_images`, `too_many_videos`,
                `invalid_json_schema` (the schema cannot be compiled).
            InvalidMedia: the model's processor refuses the media.
            Overloaded: too many requests wait.
            Unavailable: code `engine_died`: the engine process is gone; no event of this request will follow.
            DeadlineExceeded: see above.
        """

    async def check(self, timeout_s: float) -> None:
        """The health check's body.

        Raises:
            Unavailable: dead, or hung.
        """

    async def close(self) -> None:
        """Ends it, and every process it started."""


def count_tokens(tokenizer: Any, text: str) -> int:
    """Tokens of a text, without special ones; for budgets of history and context."""
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])
