"""Florence-2 as tensors: `NAME.vision`, one answer for each image, or several about one image.

IMAGE, TASK, TEXT and REGION hold one element for all answers, or one for each: several tasks beside one image are about
this image, which is decoded and encoded once. Where tasks differ in what they need, an empty TEXT and a REGION of zeros
stand for none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import orjson

from deployments.florence2.messages import BEAMS, MAX_NEW_TOKENS, Answer, SeenImage
from deployments.florence2.tasks import Task
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.protocol.oip_inputs import check_names, images, parameter, required, texts
from serve.protocol.tensors import InferRequest, ModelSpec, Tensor, TensorSpec, text_tensor
from serve.protocol.vision import answer_fields
from serve.vision import Asked, Manner, Named, VisionService

T = TypeVar("T")
Region = tuple[float, ...]

_INPUTS = ("IMAGE", "PIXELS", "TASK", "TEXT", "REGION")
_PARAMETERS = ("mode", "max_tokens", "render")
_FIELD = re.compile(r"(?:tasks(\[\d+\])\.)?(task|text|region)")


class VisionFunction:
    """See the module's text."""

    def __init__(self, vision: VisionService) -> None:
        self._vision = vision

    def spec(self, name: str) -> ModelSpec:
        """Metadata. IMAGE and PIXELS are alternatives; TEXT and REGION are for tasks that need them."""
        inputs = (
            TensorSpec("IMAGE", "BYTES", (-1,)),
            TensorSpec("PIXELS", "UINT8", (-1, -1, -1, 3)),
            TensorSpec("TASK", "BYTES", (-1,)),
            TensorSpec("TEXT", "BYTES", (-1,)),
            TensorSpec("REGION", "FP32", (-1, 4)),
        )
        return ModelSpec(
            name, "argus", inputs, (TensorSpec("RESULT", "BYTES", (-1,)), TensorSpec("TEXT", "BYTES", (-1,)))
        )

    async def infer(self, model: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        """RESULT is the JSON of `/v1/vision/{task}`, TEXT its text or the labels, one a line.

        Raises:
            ArgusError: what is wrong; tensors have no place for an item's error, so one bad item fails the request.
        """
        check_names(request, _INPUTS, _PARAMETERS)
        sources, params = images(request)
        named: list[Named] = list(zip(params, sources, strict=True))
        source = "IMAGE" if "IMAGE" in request.inputs else "PIXELS"
        asked = _asked(request, len(named), source, self._vision.limits.max_inputs)
        manner = _manner(request)
        if len(named) == 1 or len(asked) == 1:
            answers = await self._answers(named, asked, manner, context, model)
        else:
            each = zip(named, asked, strict=True)
            found = await asyncio.gather(*(self._answers([one], [ask], manner, context, model) for one, ask in each))
            answers = [answer for answers in found for answer in answers]
        return {
            "RESULT": text_tensor("RESULT", [_result(*answer) for answer in answers]),
            "TEXT": text_tensor("TEXT", [_text(answer) for _, _, answer in answers]),
        }

    async def _answers(
        self, named: Sequence[Named], asked: Sequence[Asked], manner: Manner, context: RequestContext, model: str
    ) -> list[tuple[Task, SeenImage, Answer]]:
        """Every task about every image, image by image."""
        try:
            seen = await self._vision.see(named, asked, manner, context, model=model)
        except ArgusError as error:
            raise _blamed(error) from error.__cause__
        answers = []
        for image in seen.images:
            if isinstance(image, ArgusError):
                raise image
            for task, answer in zip(seen.tasks, image.answers, strict=True):
                if isinstance(answer, ArgusError):
                    raise _blamed(answer) from answer.__cause__
                assert isinstance(answer, Answer), "the service raises no others"
                answers.append((task, image, answer))
        return answers


def _asked(request: InferRequest, images: int, source: str, most: int) -> list[Asked]:
    """A task for each answer.

    Args:
        source: the input that the images came in.
        most: answers in one request.

    Raises:
        InvalidRequest: `invalid_shape`, `too_many_inputs`, or what is wrong with an input.
    """
    tasks = texts(request, "TASK")
    written = texts(request, "TEXT") if "TEXT" in request.inputs else [""]
    regions: list[Region | None] = _regions(request) if "REGION" in request.inputs else [None]
    lengths = {source: images, "TASK": len(tasks), "TEXT": len(written), "REGION": len(regions)}
    longest = max(lengths, key=lambda name: lengths[name])
    count = max(1, lengths[longest])
    for name, length in lengths.items():
        if length not in (1, count):
            raise InvalidRequest(
                f"There are {length} elements in {name} and {count} in {longest}; send one for all, or one for each.",
                code="invalid_shape",
                param=name,
            )
    if count > most:
        message = f"There are {count} elements in {longest}; at most {most} are accepted."
        raise InvalidRequest(message, code="too_many_inputs", param=longest)
    each = zip(_each(tasks, count), _each(written, count), _each(regions, count), strict=True)
    asked = [Asked(task, text or None, region, f"tasks[{i}].") for i, (task, text, region) in enumerate(each)]
    is_one = len({(one.task, one.text, one.region) for one in asked}) == 1
    return [replace(asked[0], where="")] if is_one and images == count else asked


def _each(items: list[T], count: int) -> list[T]:
    return items * count if len(items) == 1 else items


def _blamed(error: ArgusError) -> ArgusError:
    """The vision service names tasks as the native API does; the client sent tensors."""
    found = _FIELD.fullmatch(error.param or "")
    return error if found is None else error.at(f"{found[2].upper()}{found[1] or ''}")


def _regions(request: InferRequest) -> list[Region | None]:
    tensor = required(request, "REGION")
    data = np.asarray(tensor.data)
    if tensor.datatype not in ("FP32", "FP64") or data.ndim not in (1, 2) or data.shape[-1] != 4:
        raise InvalidRequest(
            f"REGION has type {tensor.datatype[:20]} and shape {list(tensor.shape)}; it must be FP32 [n, 4].",
            code="invalid_shape",
            param="REGION",
        )
    return [tuple(row) if any(row) else None for row in data.reshape(-1, 4).tolist()]


def _manner(request: InferRequest) -> Manner:
    mode = parameter(request, "mode", str, "beam")
    if mode not in ("beam", "fast"):
        raise InvalidRequest(f"mode must be beam or fast, not {mode[:20]!r}.", code="invalid_parameter", param="mode")
    tokens = parameter(request, "max_tokens", int, MAX_NEW_TOKENS)
    if not 8 <= tokens <= 4096:
        message = f"max_tokens must be from 8 to 4096, not {tokens}."
        raise InvalidRequest(message, code="invalid_parameter", param="max_tokens")
    return Manner(BEAMS if mode == "beam" else 1, tokens, parameter(request, "render", bool, False))


def _result(task: Task, image: SeenImage, answer: Answer) -> str:
    size = {"width": image.width, "height": image.height}
    fields: dict[str, Any] = {"task": task.name, "size": size, **answer_fields(task, answer)}
    return orjson.dumps(fields).decode()


def _text(answer: Answer) -> str:
    labels = [box.label for box in answer.boxes] + [quad.text for quad in answer.quads]
    return answer.text or "\n".join(labels + [polygons.label for polygons in answer.polygons])
