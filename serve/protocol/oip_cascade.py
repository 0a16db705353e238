"""A cascade as tensors: `NAME.cascade`, one answer for each image or, without images, for each text."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import orjson

from serve.cascade.service import CascadeService
from serve.cascade.types import CascadeResult
from serve.config.cluster import Limits
from serve.context import RequestContext
from serve.errors import ArgusError, InvalidRequest
from serve.media.admit import MediaSource
from serve.protocol.cascade_bodies import check_count, trace_fields
from serve.protocol.cascade_chat import text_of
from serve.protocol.oip_inputs import check_names, images, parameter, texts
from serve.protocol.tensors import InferRequest, ModelSpec, Tensor, TensorSpec, text_tensor

_INPUTS = ("IMAGE", "PIXELS", "TEXT")
_OUTPUTS = ("ANSWER", "CONFIDENCE", "OUTCOME", "STEP", "MODEL", "STATE", "TRACE")


class CascadeFunction:
    """See the module's text."""

    def __init__(self, cascades: CascadeService, limits: Limits) -> None:
        self._cascades = cascades
        self._limits = limits

    def spec(self, name: str) -> ModelSpec:
        """Metadata. IMAGE and PIXELS are alternatives; TEXT is the question, for cascades that take one."""
        inputs = (
            TensorSpec("IMAGE", "BYTES", (-1,)),
            TensorSpec("PIXELS", "UINT8", (-1, -1, -1, 3)),
            TensorSpec("TEXT", "BYTES", (-1,)),
        )
        kinds = {"CONFIDENCE": "FP32"}
        return ModelSpec(name, "argus", inputs, tuple(TensorSpec(o, kinds.get(o, "BYTES"), (-1,)) for o in _OUTPUTS))

    async def infer(self, name: str, request: InferRequest, context: RequestContext) -> dict[str, Tensor]:
        """All answers. CONFIDENCE is NaN where there is none, OUTCOME is empty without a policy, STATE is `accepted`,
        `unsure` or `degraded`; TRACE is JSON, left out with the parameter `explain` false.

        Raises:
            ArgusError: what is wrong, or why one of the inputs has no answer.
        """
        check_names(request, _INPUTS, ("explain",))
        explain = parameter(request, "explain", bool, True)
        asked = self._asked(request)
        check_count([(param, source) for param, source, _ in asked if source is not None], self._limits)
        try:
            results = await asyncio.gather(
                *(self._cascades.ask(name, source, text, context, param=param) for param, source, text in asked)
            )
        except ArgusError as error:
            raise (error.at("TEXT") if error.param == "question" else error) from error.__cause__
        return _outputs(results, explain=explain)

    def _asked(self, request: InferRequest) -> list[tuple[str, MediaSource | None, str | None]]:
        questions = texts(request, "TEXT") if "TEXT" in request.inputs else []
        if "IMAGE" not in request.inputs and "PIXELS" not in request.inputs:
            if not questions:
                raise InvalidRequest("Send IMAGE, PIXELS or TEXT.", code="missing_input", param="IMAGE")
            if len(questions) > self._limits.max_inputs:
                message = f"There are {len(questions)} texts; at most {self._limits.max_inputs} are accepted."
                raise InvalidRequest(message, code="too_many_inputs", param="TEXT")
            return [("IMAGE", None, question) for question in questions]
        sources, params = images(request)
        if len(questions) not in (0, 1, len(sources)):
            raise InvalidRequest(
                f"There are {len(questions)} texts for {len(sources)} images; send one for all, or one for each.",
                code="invalid_shape",
                param="TEXT",
            )
        each: list[str | None] = [*(questions * len(sources) if len(questions) == 1 else questions)]
        return list(zip(params, sources, each or [None] * len(sources), strict=True))


def _outputs(results: list[CascadeResult], *, explain: bool) -> dict[str, Tensor]:
    sure = np.asarray([math.nan if r.confidence is None else r.confidence for r in results], np.float32)
    tensors = [
        text_tensor("ANSWER", [text_of(result) for result in results]),
        Tensor("CONFIDENCE", "FP32", sure.shape, sure),
        text_tensor("OUTCOME", [result.outcome or "" for result in results]),
        text_tensor("STEP", [result.step for result in results]),
        text_tensor("MODEL", [result.model for result in results]),
        text_tensor("STATE", [_state(result) for result in results]),
    ]
    if explain:
        traces = [orjson.dumps([trace_fields(entry) for entry in result.trace]).decode() for result in results]
        tensors.append(text_tensor("TRACE", traces))
    return {tensor.name: tensor for tensor in tensors}


def _state(result: CascadeResult) -> str:
    return "degraded" if result.degraded else "accepted" if result.accepted else "unsure"
