"""The Open Inference Protocol v2, free of any transport: tensors in, tensors out.

Source: https://github.com/kserve/open-inference-protocol (REST and gRPC specifications). `oip_http` and `oip_grpc` turn
wire messages into `InferRequest` and back.

Each function of a model is a model of its own here: `clip.classify`, `clip.image_embedding`, `clip.text_embedding`,
`llava.chat`, `florence2.vision`, `splat.render`, and each cascade is one: `moderation.cascade`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from serve.cascade.service import CascadeService
from serve.chat import ChatService
from serve.context import RequestContext
from serve.dataplane import CHAT, CLASSIFY, EMBED, RENDER, VISION, DataPlane
from serve.errors import ArgusError, InvalidRequest, ModelFailed, NotFound
from serve.media.admit import MediaSource
from serve.protocol.oip_cascade import CascadeFunction
from serve.protocol.oip_chat import ChatFunction
from serve.protocol.oip_inputs import EMPTY_FINAL, check_names, images, parameter, texts, whole
from serve.protocol.oip_render import RenderFunction
from serve.protocol.oip_vision import VisionFunction
from serve.protocol.tensors import (
    VERSION,
    InferRequest,
    InferResponse,
    ModelSpec,
    Tensor,
    TensorSpec,
    class_tensor,
    float_tensor,
)
from serve.scenes.service import SceneService
from serve.vision import VisionService


class InferenceService:
    """OIP v2 over the data plane."""

    def __init__(
        self,
        plane: DataPlane,
        chat: ChatService,
        cascades: CascadeService,
        vision: VisionService,
        scenes: SceneService,
    ) -> None:
        self._plane = plane
        self._chat = ChatFunction(chat)
        self._vision = VisionFunction(vision)
        self._render = RenderFunction(scenes)
        self._cascades = cascades
        self._cascade = CascadeFunction(cascades, plane.limits)
        self._functions: dict[str, tuple[str, Callable[[str, InferRequest, RequestContext], Any]]] = {}
        for card in plane.models():
            if CLASSIFY in card.tasks:
                self._functions[f"{card.name}.classify"] = (card.name, self._classify)
            if EMBED in card.tasks:
                self._functions[f"{card.name}.image_embedding"] = (card.name, self._embed_images)
                self._functions[f"{card.name}.text_embedding"] = (card.name, self._embed_texts)
            if CHAT in card.tasks:
                self._functions[f"{card.name}.chat"] = (card.name, self._chat.infer)
            if VISION in card.tasks:
                self._functions[f"{card.name}.vision"] = (card.name, self._vision.infer)
            if RENDER in card.tasks:
                self._functions[f"{card.name}.render"] = (card.name, self._render.infer)
        for name in cascades.names():
            self._functions[f"{name}.cascade"] = (name, self._cascade.infer)

    def names(self) -> list[str]:
        """Every model name."""
        return list(self._functions)

    async def server_ready(self, context: RequestContext) -> bool:
        """Whether every model answers."""
        try:
            await self._plane.ready(context)
        except ArgusError:
            return False
        return True

    async def model_ready(self, name: str, version: str, context: RequestContext) -> bool:
        """Whether the model answers, or will start with its first call; a cascade is ready when all its models are.

        Raises:
            NotFound: there is no such model or version.
        """
        model, function = self._find(name, version)
        models = self._cascades.card(model).uses if function == self._cascade.infer else (model,)
        try:
            await asyncio.gather(*(self._plane.answers(one, context) for one in models))
        except ArgusError:
            return False
        return True

    async def metadata(self, name: str, version: str, context: RequestContext) -> ModelSpec:
        """Inputs and outputs of a model. IMAGE and PIXELS are alternatives; TEMPLATES may be left out.

        Raises:
            NotFound: there is no such model or version.
        """
        model, function = self._find(name, version)
        if function == self._chat.infer:
            return self._chat.spec(name)
        if function == self._cascade.infer:
            return self._cascade.spec(name)
        if function == self._vision.infer:
            return self._vision.spec(name)
        if function == self._render.infer:
            return self._render.spec(name)
        image = (TensorSpec("IMAGE", "BYTES", (-1,)), TensorSpec("PIXELS", "UINT8", (-1, -1, -1, 3)))
        if function == self._classify:
            words = (TensorSpec("LABELS", "BYTES", (-1,)), TensorSpec("TEMPLATES", "BYTES", (-1,)))
            scores = (TensorSpec("PROBABILITIES", "FP32", (-1, -1)), TensorSpec("LOGITS", "FP32", (-1, -1)))
            return ModelSpec(name, "argus", image + words, scores)
        info = await self._plane.info(model, context)
        vectors = (TensorSpec("EMBEDDING", "FP32", (-1, info.dimension or -1)),)
        inputs = image if function == self._embed_images else (TensorSpec("TEXT", "BYTES", (-1,)),)
        return ModelSpec(name, "argus", inputs, vectors)

    async def infer(self, request: InferRequest, context: RequestContext) -> InferResponse:
        """Runs one inference.

        Raises:
            ArgusError: what is wrong; tensors have no place for an item's error, so one bad item fails the request.
        """
        model, function = self._find(request.model, request.version)
        context = self._admitted(request, function, context)
        return _chosen(request, await function(model, request, context))

    async def infer_stream(
        self, request: InferRequest, context: RequestContext
    ) -> AsyncGenerator[tuple[InferResponse, bool], None]:
        """Runs one inference that may answer in pieces, each with whether it is the last: a chat's tokens as they come.

        With `EMPTY_FINAL`, the last one has no outputs and comes behind all that have: Triton's decoupled models end so
        when they end without a response (docs/user_guide/decoupled_models.md of its server), and clients that ask for
        it take the last one for the end alone.

        Raises:
            ArgusError: see `infer`.
        """
        model, function = self._find(request.model, request.version)
        context = self._admitted(request, function, context)
        ends_empty = parameter(request, EMPTY_FINAL, bool, False)
        if function != self._chat.infer:
            yield _chosen(request, await function(model, request, context)), not ends_empty
        else:
            async with aclosing(self._chat.stream(model, request, context)) as pieces:
                async for outputs, last in pieces:
                    yield _chosen(request, outputs), last and not ends_empty
        if ends_empty:
            yield InferResponse(request.model, request.id, ()), True

    def _admitted(self, request: InferRequest, function: Callable[..., Any], context: RequestContext) -> RequestContext:
        """Checks what a request to any function may say; the context within which it is to be answered.

        Raises:
            InvalidRequest: `invalid_parameter`.
        """
        whole(request, "priority")
        parameter(request, "binary_data_output", bool, False)
        parameter(request, EMPTY_FINAL, bool, False)
        if request.classes and function != self._classify:
            raise InvalidRequest(
                f"{request.model} has no scores of classes; classification goes with the outputs of NAME.classify.",
                code="invalid_parameter",
                param="classification",
            )
        return _within(request, context)

    def _find(self, name: str, version: str) -> tuple[str, Callable[[str, InferRequest, RequestContext], Any]]:
        if name not in self._functions:
            raise NotFound(
                f"Model {name[:80]!r} does not exist; there are {', '.join(self._functions)}.",
                code="model_not_found",
                param="model_name",
            )
        if version not in ("", VERSION):
            raise NotFound(
                f"Model {name!r} has only version {VERSION}.", code="version_not_found", param="model_version"
            )
        return self._functions[name]

    async def _classify(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        check_names(request, ("IMAGE", "PIXELS", "LABELS", "TEMPLATES"), ("template_set", "multi_label"))
        sources, params = images(request)
        templates: Sequence[str] | str = parameter(request, "template_set", str, "default")
        if "TEMPLATES" in request.inputs:
            templates = texts(request, "TEMPLATES")
        names = {
            "labels": "LABELS",
            "templates": "TEMPLATES" if "TEMPLATES" in request.inputs else "template_set",
            "images": "IMAGE" if "IMAGE" in request.inputs else "PIXELS",
        }
        with _blaming(names):
            answer = await self._plane.classify(
                sources,
                texts(request, "LABELS"),
                context,
                model=model,
                templates=templates,
                multi_label=parameter(request, "multi_label", bool, False),
                params=params,
            )
        scores = _all_good(answer.images)
        tensors = {
            "PROBABILITIES": float_tensor("PROBABILITIES", [one.probabilities for one in scores]),
            "LOGITS": float_tensor("LOGITS", [one.logits for one in scores]),
        }
        for name, count in request.classes.items():
            if name in tensors:
                tensors[name] = class_tensor(tensors[name], count, answer.labels)
        return tensors

    async def _embed_images(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        check_names(request, ("IMAGE", "PIXELS"), ("normalize",))
        sources, params = images(request)
        return await self._embed(sources, params, model, request, context)

    async def _embed_texts(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        check_names(request, ("TEXT",), ("normalize",))
        given = texts(request, "TEXT")
        return await self._embed(given, [f"TEXT[{i}]" for i in range(len(given))], model, request, context)

    async def _embed(
        self,
        inputs: Sequence[MediaSource | str],
        params: list[str],
        model: str,
        request: InferRequest,
        context: RequestContext,
    ) -> dict[str, Tensor]:
        normalize = parameter(request, "normalize", bool, True)
        with _blaming({"input": next(iter(request.inputs))}):
            answer = await self._plane.embed(inputs, context, model=model, normalize=normalize, params=params)
        return {"EMBEDDING": float_tensor("EMBEDDING", _all_good(answer.result.vectors))}


@contextmanager
def _blaming(names: Mapping[str, str]) -> Iterator[None]:
    """The data plane names its own arguments in errors; the client sent tensors."""
    try:
        yield
    except ArgusError as error:
        head, bracket, rest = (error.param or "").partition("[")
        if head not in names:
            raise
        raise error.at(f"{names[head]}{bracket}{rest}") from error.__cause__


def _within(request: InferRequest, context: RequestContext) -> RequestContext:
    """The context with the request's own `timeout`, in microseconds as Triton's clients send it, where that is sooner.

    Raises:
        InvalidRequest: `invalid_parameter`.
    """
    timeout_us = whole(request, "timeout")
    if not timeout_us:  # Triton's clients mean none
        return context
    return replace(context, deadline=min(context.deadline, time.monotonic() + timeout_us / 1e6))


def _chosen(request: InferRequest, outputs: Mapping[str, Tensor]) -> InferResponse:
    """The outputs that were asked for.

    Raises:
        InvalidRequest: `unknown_output`.
    """
    for name in request.outputs:
        if name not in outputs:
            known = ", ".join(outputs)
            message = f"Output {name[:80]!r} does not exist; there are {known}."
            raise InvalidRequest(message, code="unknown_output", param="outputs")
    chosen = tuple(outputs[name] for name in request.outputs) or tuple(outputs.values())
    return InferResponse(request.model, request.id, chosen)


def _all_good(results: tuple[Any, ...]) -> list[Any]:
    for result in results:
        if isinstance(result, ArgusError):
            raise result
        if isinstance(result, Exception):
            raise ModelFailed(str(result))
    return list(results)
