"""The OpenAI shape: `/v1/embeddings` and `/v1/models`.

Follows the published API reference (https://platform.openai.com/docs/api-reference/embeddings): `input`, `model`,
`encoding_format`, `dimensions`, `user`. Extensions: image parts in `input`, and image files as in `/v1/classify`.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request, Response
from pydantic import Field, field_validator

from deployments.messages import Float32
from serve.cascade.service import CascadeCard, CascadeService
from serve.context import RequestContext
from serve.dataplane import DataPlane, Embedded, ModelCard
from serve.errors import ArgusError, InvalidRequest, Unsupported
from serve.media.admit import MediaSource, Reference
from serve.protocol import routes
from serve.protocol.bodies import Fields, ImageList, read_submission, references
from serve.protocol.body_stream import context_of
from serve.protocol.native import json
from serve.protocol.openapi import ERRORS, image_body, json_response

# OpenAI's `created` is when a model was made; ours is unknown for local checkpoints, and 0 is in the schema's range.
_CREATED = 0


Detail = Literal["auto", "low", "high", "original"]


class ImageUrl(Fields):
    """The object in an `image_url` part."""

    url: str = Field(description="http(s) URL or data URI.")
    detail: Detail | None = Field(None, description="Accepted; embeddings have one resolution.")


class TextPart(Fields):
    """A text in a list of parts."""

    type: Literal["text", "input_text"]
    text: str


class ImagePart(Fields):
    """An image in a list of parts, as in OpenAI's chat or in its responses, where `detail` stands beside the URL."""

    type: Literal["image_url", "input_image"]
    image_url: ImageUrl | str
    detail: Detail | None = Field(None, description="Accepted; embeddings have one resolution.")


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class EmbeddingFields(Fields):
    """Embeddings of texts and images."""

    input: str | list[str | Part] | None = Field(
        None, description="A text, or a list of texts and parts ({type: text} or {type: image_url}); one vector each."
    )
    model: str | None = Field(None, description="An embedding model; the cluster's first one when left out.")
    image: str | None = Field(None, description="One image: URL, data URI or base64. Files go beside the fields.")
    images: ImageList | None = Field(None, description="Several images.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="float when left out; base64 is little-endian float32."
    )
    dimensions: int | None = Field(None, ge=1, description="Only the model's own dimension is accepted.")
    normalize: bool = Field(True, description="Vectors of unit length.")
    user: str | None = Field(None, description="Accepted and not used.")

    @field_validator("input", mode="before")
    @classmethod
    def _no_token_ids(cls, value: Any) -> Any:
        """OpenAI takes them, and LangChain sends them unless it is told otherwise; they are of OpenAI's tokenizer."""
        if isinstance(value, list) and value and (isinstance(value[0], list) or type(value[0]) is int):
            raise ValueError(
                "token ids are not accepted, because the models here have tokenizers of their own; send texts (with "
                "LangChain, OpenAIEmbeddings(check_embedding_ctx_length=False))"
            )
        return value


def build(plane: DataPlane, cascades: CascadeService) -> APIRouter:
    """The routes, over a data plane and the cascades, which are models for chat."""
    router = routes.router("/v1", "openai")

    @router.post(
        "/embeddings",
        summary="Embeddings of texts and images",
        openapi_extra=image_body(EmbeddingFields),
        responses=json_response("One vector for each input, in order.", ERRORS),
    )
    async def embeddings(request: Request) -> Response:
        context = context_of(request)
        submission = await read_submission(request, plane.limits.max_body_bytes)
        fields = submission.checked(EmbeddingFields)
        named = _inputs(fields.input) + submission.images + references(fields.image, fields.images)
        if not named:
            raise InvalidRequest("Send at least one input.", code="missing_field", param="input")
        answer = await plane.embed(
            [source for _, source in named],
            context,
            model=fields.model,
            normalize=fields.normalize,
            params=[param for param, _ in named],
        )
        return json(embedding_list(answer, fields))

    @router.get("/models", summary="Models that answer", responses=json_response("A list of models.", ERRORS))
    async def models() -> Response:
        return json({"object": "list", "data": [*map(_model, plane.models()), *map(_cascade, cascades.cards())]})

    @router.get("/models/{name}", summary="One model", responses=json_response("The model.", ERRORS))
    async def model(name: str, request: Request) -> Response:
        context: RequestContext = context_of(request)
        if name in cascades.names():
            return json(_cascade(cascades.card(name)))
        card = plane.card(name)
        info = await plane.info(name, context)
        facts = {
            "device": info.device,
            "load_seconds": round(info.load_s, 3),
            "dimension": info.dimension,
            "image_size": info.image_size,
            "engine": info.engine,
            "context_tokens": info.context_tokens,
            "weights_bytes": info.weights_bytes,
            "start_seconds": info.start_s,
        }
        return json(_model(card) | {name: value for name, value in facts.items() if value is not None})

    return router


def _inputs(given: str | list[str | TextPart | ImagePart] | None) -> list[tuple[str, str | MediaSource]]:
    if given is None:
        return []
    if isinstance(given, str):
        return [("input", given)]
    named: list[tuple[str, str | MediaSource]] = []
    for i, part in enumerate(given):
        if isinstance(part, str):
            named.append((f"input[{i}]", part))
        elif isinstance(part, TextPart):
            named.append((f"input[{i}].text", part.text))
        else:
            url = part.image_url if isinstance(part.image_url, str) else part.image_url.url
            named.append((f"input[{i}].image_url", Reference(url)))
    return named


def embedding_list(answer: Embedded, fields: EmbeddingFields) -> dict[str, Any]:
    """The response body. OpenAI's shape has no place for an error beside vectors, so one failed input fails all.

    Raises:
        ArgusError: the first input's that failed.
        Unsupported: `dimensions` is not the model's.
    """
    data = []
    for i, vector in enumerate(answer.result.vectors):
        if isinstance(vector, ArgusError):
            raise vector
        assert isinstance(vector, np.ndarray)
        if fields.dimensions is not None and fields.dimensions != len(vector):
            raise Unsupported(f"{answer.model} gives {len(vector)} dimensions and no others.", param="dimensions")
        data.append({"object": "embedding", "index": i, "embedding": _encode(vector, fields.encoding_format)})
    tokens = answer.result.tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": answer.model, "usage": usage}


def _encode(vector: Float32, encoding: str | None) -> Float32 | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else vector


def _model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "argus",
        "kind": card.kind,
        "checkpoint": card.checkpoint,
        "revision": card.revision,
        "tasks": card.tasks,
    }


def _cascade(card: CascadeCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": _CREATED,
        "owned_by": "argus",
        "kind": "cascade",
        "checkpoint": None,
        "revision": None,
        "tasks": ("chat",),
        "uses": card.uses,
        "calibrated": card.calibrated,
    }
