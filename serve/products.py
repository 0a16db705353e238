"""Products: a caption, attributes and similar items of an image, and searches whose hits are described.

Two cascades and one index do the work; which ones is the client's to say, or they are those of the usual names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from deployments.messages import EncodedImage
from deployments.vector_types import Hit
from serve.cascade.service import CascadeService
from serve.cascade.types import CascadeResult
from serve.context import RequestContext
from serve.dataplane import DataPlane
from serve.errors import ArgusError, NotFound
from serve.indexes import IndexService, Query
from serve.media.admit import MediaSource, Reference
from serve.media.source import MediaBytes

CAPTION, ATTRIBUTES = "product-caption", "product-attributes"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Analysis:
    """What is known of a product image. A part is None when nobody asked for it, or the error that it met."""

    caption: CascadeResult | ArgusError | None
    attributes: CascadeResult | ArgusError | None
    similar: list[Hit] | ArgusError | None

    @property
    def parts(self) -> list[CascadeResult | list[Hit] | ArgusError]:
        """Those that were asked for."""
        return [part for part in (self.caption, self.attributes, self.similar) if part is not None]


@dataclass(frozen=True, slots=True)
class Described:
    """A hit with the caption of its image; None when its metadata name no image, or when it is beyond those wanted."""

    hit: Hit
    description: CascadeResult | ArgusError | None


class ProductService:
    """See the module's text."""

    def __init__(self, plane: DataPlane, search: IndexService, cascades: CascadeService) -> None:
        self._plane = plane
        self._search = search
        self._cascades = cascades

    async def analyse(
        self,
        image: MediaSource,
        context: RequestContext,
        *,
        param: str,
        caption: str | None = None,
        attributes: str | None = None,
        index: str | None = None,
        k: int = 5,
        filter: Any | None = None,
    ) -> Analysis:
        """Everything about one image, at the same time.

        Args:
            caption, attributes: cascades in place of the usual ones.
            index: where similar products are looked for; None for nowhere.

        Raises:
            NotFound: a named cascade does not exist, or nothing is configured.
            ArgusError: of the first part, when all have failed; or what is wrong with the image.
        """
        captioning = self._cascade(caption, CAPTION, "caption")
        describing = self._cascade(attributes, ATTRIBUTES, "attributes")
        if captioning is None and describing is None and index is None:
            message = f"There are no cascades {CAPTION!r} and {ATTRIBUTES!r} here, and no index was named."
            raise NotFound(message, code="not_configured")
        shown = await self._admitted(image, context, param)
        found = Analysis(
            *await asyncio.gather(
                _tried(
                    None if captioning is None else self._cascades.ask(captioning, shown, None, context, param=param)
                ),
                _tried(
                    None if describing is None else self._cascades.ask(describing, shown, None, context, param=param)
                ),
                _tried(
                    None if index is None else self._search.search(index, shown, k, context, param=param, filter=filter)
                ),
            )
        )
        if all(isinstance(part, ArgusError) for part in found.parts):
            raise found.parts[0]  # type: ignore[misc]
        return found

    async def search(
        self,
        index: str,
        query: Query,
        k: int,
        context: RequestContext,
        *,
        param: str,
        filter: Any | None = None,
        describe: int = 0,
        image_field: str = "image",
        caption: str | None = None,
    ) -> list[Described]:
        """The k best products, the first of them described.

        Args:
            describe: most hits whose image is looked at.
            image_field: of their metadata, which holds a URL or a data URI.
            caption: cascade in place of the usual one.

        Raises:
            NotFound: there is no such index, or no cascade to describe with.
            ArgusError: what is wrong with the query.
        """
        captioning = self._cascade(caption, CAPTION, "caption") if describe else None
        if describe and captioning is None:
            message = f"There is no cascade {CAPTION!r} here to describe hits with; name one, or set describe to 0."
            raise NotFound(message, code="not_configured", param="caption")
        hits = await self._search.search(index, query, k, context, param=param, filter=filter)

        async def one(position: int, hit: Hit) -> Described:
            source = hit.metadata.get(image_field)
            if captioning is None or position >= describe or not isinstance(source, str):
                return Described(hit, None)
            where = f"hits[{position}].metadata.{image_field}"
            asked = self._cascades.ask(captioning, Reference(source), None, context, param=where)
            return Described(hit, await _tried(asked))

        return list(await asyncio.gather(*(one(i, hit) for i, hit in enumerate(hits))))

    def _cascade(self, named: str | None, usual: str, param: str) -> str | None:
        known = self._cascades.names()
        if named is None:
            return usual if usual in known else None
        if named not in known:
            message = f"Cascade {named[:80]!r} does not exist; there are {', '.join(known) or 'none'}."
            raise NotFound(message, code="cascade_not_found", param=param)
        return named

    async def _admitted(self, image: MediaSource, context: RequestContext, param: str) -> MediaSource:
        """The image fetched and checked once, for all that look at it."""
        admitted = (await self._plane.admit([image], context, [param]))[0]
        if isinstance(admitted, ArgusError):
            raise admitted
        return MediaBytes(admitted.data, None) if isinstance(admitted, EncodedImage) else admitted


async def _tried(work: Awaitable[T] | None) -> T | ArgusError | None:
    try:
        return None if work is None else await work
    except ArgusError as error:
        return error
