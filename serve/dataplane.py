"""The protocol-neutral core: every skin (native HTTP, OpenAI, Open Inference Protocol over HTTP and gRPC) calls this.

It validates, admits media, picks the model, calls it within the deadline and puts the results in order. Skins only
translate; that is why the same request means the same on every protocol.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from deployments.messages import (
    ClassifyRequest,
    EmbedRequest,
    EmbedResult,
    Image,
    ModelInfo,
    Scores,
)
from deployments.templates import resolve
from serve.calls import Calls
from serve.config.checkpoints import checkpoint_label, checkpoint_mark
from serve.config.cluster import ClusterFile, Limits
from serve.config.model_base import CheckpointModel
from serve.config.models import CustomModel, Florence2Model, GenerativeModel, Model, OcrModel, VideoClassifierModel
from serve.config.providers import Provider
from serve.config.scene_models import RendererModel
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest, ModelFailed, NotFound
from serve.handles import ModelHandle
from serve.media.admit import MediaDoor, MediaSource
from serve.readiness import Readiness

CLASSIFY, EMBED, CHAT = "classify", "embed", "chat"
CLASSIFY_VIDEO = "classify_video"
VISION = "vision"
READ_DOCUMENT = "read_document"
RENDER = "render"
# The device of a model that someone else hosts.
HOSTED = "hosted"

MOST_TEMPLATES = 10
"""Of as many labels as a request may have: every label in every template is a text for the model to read."""

# The cheap call that shows whether a model answers, where it is not `info`.
_PROBES = {
    "vector_index": "list_indexes",
    "session_store": "stats",
    "knowledge_store": "stats",
    "job_store": "stats",
    "scene_store": "stats",
    "reconstruction": "stats",
}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What the API tells of a model."""

    name: str
    kind: str
    checkpoint: str | None
    revision: str | None
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Classified:
    """The answer of `DataPlane.classify`; an entry of `images` is the error that this image alone met."""

    model: str
    labels: tuple[str, ...]
    images: tuple[Scores | ArgusError, ...]
    temperature: float


@dataclass(frozen=True, slots=True)
class Embedded:
    """The answer of `DataPlane.embed`; an entry of `vectors` is the error that this input alone met."""

    model: str
    result: EmbedResult


def probe_of(model: Model) -> str:
    """The cheap method without arguments that shows whether a model's replica answers."""
    return _PROBES.get(model.kind, "info")


def tasks_of(model: Model) -> tuple[str, ...]:
    """What a model of the cluster file answers."""
    if isinstance(model, CustomModel):
        return model.tasks
    if isinstance(model, GenerativeModel):
        return (CHAT,)
    if isinstance(model, VideoClassifierModel):
        return (CLASSIFY_VIDEO,)
    if isinstance(model, Florence2Model):
        return (VISION,)
    if isinstance(model, OcrModel):
        return (READ_DOCUMENT,)
    if isinstance(model, RendererModel):
        return (RENDER,)
    return (CLASSIFY, EMBED) if model.kind == "clip" else ()


def tasks_of_provider(provider: Provider) -> tuple[str, ...]:
    """What a provider of the cluster file answers."""
    return (CLASSIFY,) if provider.oip is not None and provider.oip.task == CLASSIFY else (CHAT,)


class DataPlane:
    """See the module's text.

    Args:
        cluster: models and limits.
        handles: one for each served model, by name: what is asked of it beside its work.
        calls: its work.
        door: admits images.
    """

    def __init__(self, cluster: ClusterFile, handles: Mapping[str, ModelHandle], calls: Calls, door: MediaDoor) -> None:
        self._limits: Limits = cluster.limits
        self._handles = handles
        self._calls = calls
        self._door = door
        self._cards = {
            name: ModelCard(
                name,
                model.kind,
                checkpoint_label(model.checkpoint) if isinstance(model, CheckpointModel) else None,
                model.revision if isinstance(model, CheckpointModel) else None,
                tasks_of(model),
            )
            for name, model in cluster.models.items()
            if name in handles and tasks_of(model)
        } | {
            name: ModelCard(name, provider.kind, provider.model, None, tasks_of_provider(provider))
            for name, provider in cluster.providers.items()
        }
        self._marks = {
            name: checkpoint_mark(cluster, name) for name, card in self._cards.items() if EMBED in card.tasks
        }
        # A model that may have no replicas is not asked: that would wake it, and keep it awake.
        self._resting = frozenset(name for name in handles if cluster.models[name].autoscaling.min_replicas == 0)
        self._probes = {name: probe_of(cluster.models[name]) for name in handles if name not in self._resting}
        self._readiness = Readiness(self._ask_all)

    @property
    def limits(self) -> Limits:
        """Bounds at the edge."""
        return self._limits

    def models(self) -> list[ModelCard]:
        """Every model that answers a task."""
        return list(self._cards.values())

    def card(self, name: str) -> ModelCard:
        """One model.

        Raises:
            NotFound: there is none of that name.
        """
        if name not in self._cards:
            raise NotFound(
                f"Model {name[:80]!r} does not exist; there are {', '.join(self._cards) or 'none'}.",
                code="model_not_found",
                param="model",
            )
        return self._cards[name]

    def pick(self, name: str | None, task: str) -> ModelCard:
        """The named model if it answers `task`, else the first that does.

        Raises:
            NotFound: the named one does not exist, or none answers the task.
            InvalidRequest: the named one does not answer the task.
        """
        if name is not None:
            card = self.card(name)
            if task not in card.tasks:
                raise InvalidRequest(
                    f"Model {name!r} does not {task}; it answers {', '.join(card.tasks) or 'nothing'}.",
                    code="task_not_supported",
                    param="model",
                )
            return card
        for card in self._cards.values():
            if task in card.tasks:
                return card
        raise NotFound(f"No model of this cluster can {task}.", code="model_not_found", param="model")

    def mark(self, name: str) -> str:
        """What tells the checkpoint of a model that embeds from another one; see `checkpoint_mark`."""
        return self._marks[name]

    async def info(self, name: str, context: RequestContext) -> ModelInfo:
        """What the model's replica says of itself; also the test of whether it is ready. A provider is not asked: that
        would cost money and tell little."""
        handle = self._handles.get(self.card(name).name)
        if handle is None:
            return ModelInfo(HOSTED, 0.0)
        info: ModelInfo = await handle.call("info", context)
        return info

    async def answers(self, name: str, context: RequestContext) -> None:
        """Returns when a model answers, or may have no replicas now: its first call starts one.

        Raises:
            ArgusError: it does not.
        """
        if name not in self._resting:
            await self.info(name, context)

    async def ready(self, context: RequestContext) -> None:
        """Returns when every model answers; those that may have no replicas are not asked.

        Raises:
            ArgusError: of the first that does not.
        """
        await self._readiness.check(context)

    async def _ask_all(self, context: RequestContext) -> None:
        await asyncio.gather(*(self._handles[name].call(probe, context) for name, probe in self._probes.items()))

    async def admit(
        self, sources: Sequence[MediaSource], context: RequestContext, params: Sequence[str]
    ) -> list[Image | ArgusError]:
        """Checked images in order; a refused one is its error, blamed on its entry of `params`."""
        if len(sources) == 1:  # the usual case, without the cost of tasks
            return [await self._admit(sources[0], context, params[0])]
        return list(await asyncio.gather(*map(self._admit, sources, [context] * len(sources), params)))

    async def _admit(self, source: MediaSource, context: RequestContext, param: str) -> Image | ArgusError:
        try:
            return await self._door.admit(source, context, param)
        except ArgusError as error:
            return error

    async def classify(
        self,
        images: Sequence[MediaSource],
        labels: Sequence[str],
        context: RequestContext,
        *,
        model: str | None = None,
        templates: Sequence[str] | str = "default",
        multi_label: bool = False,
        params: Sequence[str] | None = None,
    ) -> Classified:
        """Zero-shot classification; see `deployments.messages.ClassifyRequest`.

        Args:
            params: the request fields that the images came from, for error messages.

        Raises:
            ArgusError: what is wrong with the request as a whole. What is wrong with one image stands in its place.
        """
        card, chosen, resolved = self.check_classify(images, labels, model, templates)
        names = params or _params("images", len(images))
        admitted = await self.admit(images, context, names)
        good = tuple(image for image in admitted if not isinstance(image, ArgusError))
        if not good:
            return Classified(card.name, chosen, tuple(admitted), 1.0)  # type: ignore[arg-type]
        request = ClassifyRequest(good, chosen, resolved, multi_label)
        result = (await self._calls.classify(card.name, request, context)).value
        return Classified(card.name, chosen, _merge(admitted, result.images, names), result.temperature)

    def check_classify(
        self, images: Sequence[object], labels: Sequence[str], model: str | None, templates: Sequence[str] | str
    ) -> tuple[ModelCard, tuple[str, ...], tuple[str, ...]]:
        """The model, labels and templates of a classification, before any image has been looked at.

        Raises:
            ArgusError: see `classify`.
        """
        card = self.pick(model, CLASSIFY)
        chosen = self._labels(labels)
        resolved = resolve(templates if isinstance(templates, str) else tuple(templates))
        self._check_texts(resolved, "templates")
        most = MOST_TEMPLATES * self._limits.max_labels
        if (prompts := len(chosen) * len(resolved)) > most:
            raise InvalidRequest(
                f"{len(chosen)} labels in {len(resolved)} templates are {prompts:,} prompts; at most {most:,} are "
                "accepted.",
                code="too_many_templates",
                param="templates",
            )
        self._check_count(images, "images")
        return card, chosen, resolved

    async def embed(
        self,
        inputs: Sequence[MediaSource | str],
        context: RequestContext,
        *,
        model: str | None = None,
        normalize: bool = True,
        params: Sequence[str] | None = None,
    ) -> Embedded:
        """Embeddings of images and texts (`str`), mixed as the caller likes; see `classify` for errors."""
        card = self.pick(model, EMBED)
        self._check_count(inputs, "input")
        names = list(params or _params("input", len(inputs)))
        for text, name in zip(inputs, names, strict=True):
            if isinstance(text, str):
                self._check_text(text, name)
        texts = {i: item for i, item in enumerate(inputs) if isinstance(item, str)}
        media = [(i, item) for i, item in enumerate(inputs) if not isinstance(item, str)]
        images = await self.admit([item for _, item in media], context, [names[i] for i, _ in media])
        placed = texts | dict(zip((i for i, _ in media), images, strict=True))
        admitted = [placed[i] for i in range(len(inputs))]
        good = tuple(item for item in admitted if not isinstance(item, ArgusError))
        if not good:
            return Embedded(card.name, EmbedResult(tuple(admitted), 0))  # type: ignore[arg-type]
        request = EmbedRequest(good, normalize)
        result = (await self._calls.embed(card.name, request, context)).value
        return Embedded(card.name, EmbedResult(_merge(admitted, result.vectors, names), result.tokens))

    def _labels(self, labels: Sequence[str]) -> tuple[str, ...]:
        if not labels:
            raise InvalidRequest("At least one label is needed.", code="no_labels", param="labels")
        if len(labels) > self._limits.max_labels:
            raise InvalidRequest(
                f"There are {len(labels)} labels; at most {self._limits.max_labels} are accepted.",
                code="too_many_labels",
                param="labels",
            )
        self._check_texts(labels, "labels")
        if len(set(labels)) != len(labels):
            twice = next(label for label in labels if labels.count(label) > 1)
            raise InvalidRequest(
                f"Label {twice[:80]!r} stands twice; labels must be distinct.", code="duplicate_label", param="labels"
            )
        return tuple(labels)

    def _check_texts(self, texts: Sequence[str], param: str) -> None:
        for i, text in enumerate(texts):
            self._check_text(text, f"{param}[{i}]")

    def _check_text(self, text: str, param: str) -> None:
        if not text.strip():
            raise InvalidRequest("The text is empty.", code="empty_text", param=param)
        if len(text) > self._limits.max_text_chars:
            raise InvalidRequest(
                f"The text has {len(text)} characters; at most {self._limits.max_text_chars} are accepted.",
                code="text_too_long",
                param=param,
            )

    def _check_count(self, inputs: Sequence[object], param: str) -> None:
        if not inputs:
            raise InvalidRequest("At least one input is needed.", code="no_input", param=param)
        if len(inputs) > self._limits.max_inputs:
            raise InvalidRequest(
                f"There are {len(inputs)} inputs; at most {self._limits.max_inputs} are accepted in one request.",
                code="too_many_inputs",
                param=param,
            )


def _params(name: str, count: int) -> list[str]:
    return [f"{name}[{i}]" for i in range(count)]


def _merge(
    admitted: Sequence[object], results: Sequence[T | Exception], params: Sequence[str]
) -> tuple[T | ArgusError, ...]:
    """Results put back among the inputs that were refused at the edge; errors from the model get their field's name."""
    remaining = iter(results)
    merged: list[T | ArgusError] = []
    for given, param in zip(admitted, params, strict=True):
        result = given if isinstance(given, ArgusError) else next(remaining)
        if isinstance(result, ArgusError):
            merged.append(result if result.param else result.at(param))
        elif isinstance(result, Exception):
            merged.append(ModelFailed(str(result), param=param))
        else:
            merged.append(result)
    return tuple(merged)
