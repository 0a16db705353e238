"""What the router sends to models and what comes back: plain dataclasses that pickle fast and import no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """An image file (JPEG, PNG, ...), its header already checked at the edge."""

    data: bytes


@dataclass(frozen=True, slots=True)
class RawImage:
    """Decoded pixels: (height, width, 3) uint8, RGB."""

    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class PixelValues:
    """An image that the client has preprocessed: (3, height, width) float32, resized and normalised."""

    values: Float32


Image = EncodedImage | RawImage | PixelValues


@dataclass(frozen=True, slots=True)
class Call:
    """What travels with every call.

    Attributes:
        request_id: for logs and traces.
        timeout_s: seconds left when the call was sent; clocks differ between nodes, so no absolute time travels.
        traceparent: the span that it belongs to (W3C Trace Context, section 3.2); None when that is not sampled.
    """

    request_id: str
    timeout_s: float
    traceparent: str | None = None


class TaskRequest(Generic[R_co]):
    """What the method `method(request, call)` of a replica answers with an `R_co`.

    Base of the requests of models that do one thing of their own, so that the path to them is written once
    (`serve.calls.Calls.task`).
    """

    __slots__ = ()
    method: ClassVar[str]


@dataclass(frozen=True, slots=True)
class ClassifyRequest:
    """Zero-shot classification of images against one label set.

    Attributes:
        images: at least one.
        labels: at least one, distinct.
        templates: prompts with one `{}` for the label, or the name of a template set.
        multi_label: probabilities independent of each other instead of summing to one.
    """

    images: tuple[Image, ...]
    labels: tuple[str, ...]
    templates: tuple[str, ...] | str = "default"
    multi_label: bool = False


@dataclass(frozen=True, slots=True)
class Scores:
    """One image against all labels, in the request's order.

    Attributes:
        probabilities: (labels,) float32.
        logits: (labels,) float32: similarities times the model's scale, before temperature and softmax.
    """

    probabilities: Float32
    logits: Float32


@dataclass(frozen=True, slots=True)
class ClassifyResult:
    """An entry of `images` is the error that this image alone met.

    Attributes:
        queue_wait_s: by how much work at present waits longer for the replica than it must; see
            `deployments.batching.Batcher.standing_wait_s`.
    """

    images: tuple[Scores | Exception, ...]
    temperature: float
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Embeddings of images and texts, mixed as the caller likes."""

    inputs: tuple[Image | str, ...]
    normalize: bool = True


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """An entry of `vectors` is a (dimension,) float32 array, or the error that this input alone met.

    Attributes:
        tokens: text tokens read, for usage figures.
        queue_wait_s: see `ClassifyResult`.
    """

    vectors: tuple[Float32 | Exception, ...]
    tokens: int
    queue_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model says of itself; what does not apply to its kind is None.

    Attributes:
        device: `cpu` or `cuda`; `hosted` for a provider's.
        load_s: seconds from start to ready.
        dimension: length of its embeddings.
        image_size: side of its input, in pixels.
        engine: `vllm` or `transformers`; of a renderer, `cpu`, `gsplat` or `torch`.
        context_tokens: most tokens of prompt and answer together.
        weights_bytes: memory of the loaded weights.
        start_s: seconds of each stage of the start.
    """

    device: str
    load_s: float
    dimension: int | None = None
    image_size: int | None = None
    engine: str | None = None
    context_tokens: int | None = None
    weights_bytes: int | None = None
    start_s: dict[str, float] | None = None
