"""Image search: named vector indexes, filled and asked with images, texts or vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.vector_checks import check_id, encode_metadata
from deployments.vector_filter import parse_filter
from deployments.vector_types import Hit, IndexInfo, IndexSpec, Item, Metadata, another_checkpoint
from serve import tracing
from serve.context import RequestContext
from serve.dataplane import EMBED, DataPlane
from serve.errors import ArgusError, InvalidRequest, NotFound
from serve.handles import ModelHandle
from serve.media.admit import MediaSource

Query = Sequence[float] | MediaSource | str
"""A vector, an image, or a text (`str`)."""


@dataclass(frozen=True, slots=True)
class NewItem:
    """An item to add.

    Attributes:
        param: the request field it came from, for error messages.
    """

    id: str
    content: Query
    metadata: Metadata
    param: str


class IndexService:
    """Index operations of the data plane.

    Args:
        plane: embeds images and texts.
        store: the vector index deployment; None when the cluster file has none.
    """

    def __init__(self, plane: DataPlane, store: ModelHandle | None) -> None:
        self._plane = plane
        self._store = store

    async def create(self, spec: Mapping[str, Any], context: RequestContext) -> IndexInfo:
        """Creates an index. Without `dimension` it takes that of `model`, by default the first embedding model.

        Raises:
            Conflict: it exists and is different; `index_of_another_checkpoint`: its model has another checkpoint now.
            InvalidRequest: a value out of bounds.
        """
        fields = {key: value for key, value in spec.items() if value is not None}
        if "dimension" not in fields or "model" in fields:
            card = self._plane.pick(fields.get("model"), EMBED)
            dimension = (await self._plane.info(card.name, context)).dimension
            if fields.setdefault("dimension", dimension) != dimension:
                raise InvalidRequest(
                    f"The vectors of {card.name!r} have {dimension} numbers, not {fields['dimension']}; leave "
                    "dimension out, or the model.",
                    code="dimension_mismatch",
                    param="dimension",
                )
            fields |= {"model": card.name, "checkpoint": self._plane.mark(card.name)}
        info: IndexInfo = await self._call("create", context, IndexSpec(**fields))
        return info

    async def drop(self, name: str, context: RequestContext) -> None:
        """Deletes an index and its items."""
        await self._call("drop", context, name)

    async def list_indexes(self, context: RequestContext) -> list[IndexInfo]:
        """Every index."""
        found: list[IndexInfo] = await self._call("list_indexes", context)
        return found

    async def info(self, name: str, context: RequestContext) -> IndexInfo:
        """One index."""
        info: IndexInfo = await self._call("info", context, name)
        return info

    async def add(self, name: str, items: Sequence[NewItem], context: RequestContext) -> int:
        """Adds or replaces items, all or none; they are on disk when this returns.

        Raises:
            InvalidRequest: of the first item that is wrong, `param` naming it.
        """
        if not items:
            raise InvalidRequest("At least one item is needed.", code="no_input", param="items")
        if len(items) > self._plane.limits.max_inputs:
            raise InvalidRequest(
                f"There are {len(items)} items; at most {self._plane.limits.max_inputs} are accepted in one request.",
                code="too_many_inputs",
                param="items",
            )
        for index, item in enumerate(items):  # before a model has worked on the others
            check_id(item.id, param=f"items[{index}].id")
            encode_metadata(item.metadata, param=f"items[{index}].metadata")
        params = [item.param for item in items]
        vectors = await self._vectors(name, [item.content for item in items], params, context)
        records = [Item(item.id, vector, item.metadata) for item, vector in zip(items, vectors, strict=True)]
        added: int = await self._call("add", context, name, records)
        return added

    async def delete(self, name: str, context: RequestContext, *, ids: Sequence[str] | None, filter: Any | None) -> int:
        """Deletes items by id or by filter; the number deleted."""
        if (ids is None) == (filter is None):
            raise InvalidRequest("Send either ids or filter.", code="missing_field", param="ids")
        parsed = None if filter is None else parse_filter(filter)
        deleted: int = await self._call("delete", context, name, ids=ids, filter=parsed)
        return deleted

    async def get(self, name: str, item_id: str, context: RequestContext) -> Item:
        """One item.

        Raises:
            NotFound: `item_not_found`.
        """
        items: list[Item] = await self._call("get", context, name, [item_id])
        if not items:
            raise NotFound(f"Index {name!r} has no item {item_id[:80]!r}.", code="item_not_found", param="id")
        return items[0]

    async def search(
        self,
        name: str,
        query: Query,
        k: int,
        context: RequestContext,
        *,
        param: str,
        filter: Any | None = None,
        include_vectors: bool = False,
    ) -> list[Hit]:
        """The k best items, best first."""
        parsed = None if filter is None else parse_filter(filter)
        vectors = await self._vectors(name, [query], [param], context)
        try:
            found: list[list[Hit]] = await self._call(
                "search", context, name, np.stack(vectors), k, filter=parsed, include_vectors=include_vectors
            )
        except ArgusError as error:  # the store is sent a list of one
            raise (error.at(param) if (error.param or "").startswith("queries") else error) from error.__cause__
        return found[0]

    async def _vectors(
        self, name: str, contents: Sequence[Query], params: Sequence[str], context: RequestContext
    ) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """A vector for each content; images and texts go through the model whose vectors the index holds.

        Raises:
            Conflict: `index_of_another_checkpoint`: the index has images or texts of another one than the model's.
        """
        inputs: list[tuple[int, MediaSource | str]] = []
        vectors = {}
        for i, content in enumerate(contents):
            if isinstance(content, str) or not isinstance(content, Sequence):
                inputs.append((i, content))
            else:
                vectors[i] = _vector(content, params[i])
        if inputs:
            spec = (await self.info(name, context)).spec
            first = params[inputs[0][0]]
            if spec.model is None:
                raise InvalidRequest(
                    f"Index {name!r} was made without a model, so it takes vectors only.",
                    code="index_without_model",
                    param=first,
                )
            now = self._plane.mark(self._plane.pick(spec.model, EMBED).name)
            if spec.checkpoint not in (None, now):
                raise another_checkpoint(spec, now, param=first)
            answer = await self._plane.embed(
                [content for _, content in inputs], context, model=spec.model, params=[params[i] for i, _ in inputs]
            )
            for (i, _), vector in zip(inputs, answer.result.vectors, strict=True):
                if isinstance(vector, ArgusError):
                    raise vector
                assert isinstance(vector, np.ndarray)
                vectors[i] = vector
        return [vectors[i] for i in range(len(contents))]

    async def _call(self, method: str, context: RequestContext, *args: Any, **kwargs: Any) -> Any:
        if self._store is None:
            raise NotFound("This cluster has no model of kind vector_index.", code="no_vector_index")
        with tracing.span("store", tracing.Kind.CLIENT) as span:
            if span is not None:
                span.set_attributes({"argus.store": "vector_index", "argus.method": method})
            return await self._store.call(method, context, *args, **kwargs)


def _vector(values: Any, param: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    try:
        return np.asarray(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        raise InvalidRequest("A vector must be a list of numbers.", code="invalid_vector", param=param) from None
