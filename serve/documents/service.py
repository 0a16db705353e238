"""Documents over the data plane: each back end in its order until one answers, and all answers in one form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from deployments.documents.messages import DocumentPages, KeyFact, Page, RenderPages, SummarisePages, Summary
from deployments.generation.messages import ImagePart, Part, Text
from deployments.messages import EncodedImage
from serve.calls import Calls
from serve.chat import ChatService
from serve.config.cluster import ClusterFile
from serve.config.documents import Documents
from serve.config.models import Florence2Model, GenerativeModel, OcrModel
from serve.context import RequestContext
from serve.documents.backends import ChatBackend, FlorenceBackend, OcrBackend, Pictures
from serve.documents.schemas import DocumentSummary
from serve.documents.structured import answered, structured
from serve.documents.types import EXTRACTIVE, Asked, Backend, Read, Summarised, Wanted
from serve.errors import ArgusError, NotFound, raise_if_all_failed
from serve.media.admit import MediaDoor, MediaSource
from serve.resilience.failures import failure_class

T = TypeVar("T")

_SUMMARY = (
    "These are pages of one document. Say what it is and what it says, from what stands there and nothing else. "
    'Answer with JSON: {"type": one of invoice, receipt, letter, report, form, contract, article, resume, table, '
    'other, "title": its title or null, "date": its date as YYYY-MM-DD or null, "summary": two or three sentences, '
    '"key_facts": [{"name": "what", "value": "which"}]}'
)


class DocumentService:
    """See the module's text.

    Args:
        door: admits documents.

    Attributes:
        most_pages: that are read in one request.
    """

    def __init__(self, cluster: ClusterFile, calls: Calls, chat: ChatService, door: MediaDoor) -> None:
        self._calls = calls
        self._chat = chat
        self._door = door
        self._settings = settings = cluster.documents or Documents()
        readers = [name for name, model in cluster.models.items() if isinstance(model, OcrModel)]
        self._reader = next(iter(readers), None)
        self.most_pages = min((m.max_pages for m in cluster.models.values() if isinstance(m, OcrModel)), default=1)
        self._order = settings.ocr or tuple(readers[:1])
        self._readers: Mapping[str, Backend] = {}
        if self._reader is not None:
            pictures = Pictures(calls, self._reader, settings.image_side, settings.concurrency)
            self._readers = {
                **{name: OcrBackend(calls, name) for name in readers},
                **{
                    name: FlorenceBackend(calls, name, pictures)
                    for name, model in cluster.models.items()
                    if isinstance(model, Florence2Model)
                },
                **{
                    name: ChatBackend(calls, name, pictures, settings.max_tokens)
                    for name in [*_lookers(cluster), *cluster.providers]
                },
            }
        self._summarisers = (EXTRACTIVE, *_lookers(cluster), *cluster.providers)

    async def admit(self, source: MediaSource, context: RequestContext, param: str) -> bytes:
        """A document whose first bytes have been checked.

        Raises:
            NotFound: `not_configured`: no model of this cluster opens documents.
            ArgusError: why it is refused, `param` set.
        """
        if self._reader is None:
            message = "No model of kind ocr is in this cluster; documents are not read here."
            raise NotFound(message, code="not_configured")
        return await self._door.admit_document(source, context, param)

    async def read(self, document: bytes, asked: Asked, context: RequestContext, *, wanted: Wanted) -> Read:
        """The text of a document, its tables, or both.

        Raises:
            NotFound: `backend_not_found`.
            ArgusError: what is wrong with the document, or the last back end's failure.
        """
        names = self._chosen(asked, self._order, list(self._readers))

        async def ask(name: str, fallback: bool) -> Read:
            found, usage = await self._readers[name].read(document, asked, context, wanted=wanted, fallback=fallback)
            if not asked.in_groups:
                raise_if_all_failed(found.pages)
            return Read(name, found, usage)

        return await _first(names, ask, context)

    async def summarise(self, document: bytes, asked: Asked, context: RequestContext) -> Summarised:
        """What a document is about; see `read` for errors."""
        names = self._chosen(asked, self._settings.summary, self._summarisers)

        async def ask(name: str, fallback: bool) -> Summarised:
            if name == EXTRACTIVE:
                return await self._extracted(document, asked, context, fallback=fallback)
            return await self._written(name, document, asked, context, fallback=fallback)

        return await _first(names, ask, context)

    async def _extracted(self, document: bytes, asked: Asked, context: RequestContext, *, fallback: bool) -> Summarised:
        """From the document's own sentences, whoever read them."""
        assert self._reader is not None, "admit refuses before"
        plain = replace(asked, backend=None)
        read = await (self._read_in_groups if asked.in_groups else self._read_layout)(document, plain, context)
        pages = tuple(page for page in read.document.pages if isinstance(page, Page))
        called = await self._calls.task(self._reader, SummarisePages(pages), context, fallback=fallback)
        numbers = tuple(page.number for page in pages)
        return Summarised(
            EXTRACTIVE, called.value, read.document.kind, numbers, read.document.total, read.usage + called.usage
        )

    async def _read_layout(self, document: bytes, asked: Asked, context: RequestContext) -> Read:
        return await self.read(document, asked, context, wanted="layout")

    async def _read_in_groups(self, document: bytes, asked: Asked, context: RequestContext) -> Read:
        """The lines of a document of any length with its tables, and who read its first pages."""
        first = await self._read_layout(document, asked.first_group(self.most_pages), context)
        found, usage = first.document, first.usage
        for group in asked.further_groups(self.most_pages, found.total, first.backend):
            more = await self._read_layout(document, group, context)
            numbers, pages = (*found.numbers, *more.document.numbers), (*found.pages, *more.document.pages)
            found, usage = DocumentPages(found.kind, found.total, numbers, pages), usage + more.usage
        raise_if_all_failed(found.pages)
        return Read(first.backend, found, usage)

    async def _written(
        self, name: str, document: bytes, asked: Asked, context: RequestContext, *, fallback: bool
    ) -> Summarised:
        """By a chat model that is shown as many pages as it takes, from the first on."""
        assert self._reader is not None, "admit refuses before"
        most = min(self._chat.most_media(name)[0], self._settings.max_images)
        wanted = most if asked.max_pages is None else min(most, asked.max_pages)
        request = RenderPages(document, asked.pages, wanted, asked.dpi, self._settings.image_side)
        drawn = (await self._calls.task(self._reader, request, context)).value
        raise_if_all_failed(drawn.pages)
        shown = [picture for picture in drawn.pages if not isinstance(picture, Exception)]
        parts: tuple[Part, ...] = tuple(ImagePart(EncodedImage(picture.data), "high") for picture in shown)
        asking = structured(
            self._calls,
            name,
            (*parts, Text(_SUMMARY)),
            DocumentSummary,
            context,
            max_tokens=self._settings.max_tokens,
            fallback=fallback,
        )
        found, usage = await answered(name, asking)
        facts = tuple(KeyFact(fact.name, fact.value) for fact in found.key_facts)
        summary = Summary(found.type, found.title, found.date, found.summary, facts)
        return Summarised(name, summary, drawn.kind, tuple(picture.number for picture in shown), drawn.total, usage)

    def _chosen(self, asked: Asked, order: Sequence[str], known: Sequence[str]) -> Sequence[str]:
        if asked.backend is None:
            return sorted(order, key=lambda name: name != asked.preferred)
        if asked.backend not in known:
            raise NotFound(
                f"Back end {asked.backend[:80]!r} does not exist here; there are {', '.join(known) or 'none'}.",
                code="backend_not_found",
                param="backend",
            )
        return (asked.backend,)


async def _first(names: Sequence[str], ask: Callable[[str, bool], Awaitable[T]], context: RequestContext) -> T:
    """The first answer. What is wrong with the document is so for every back end, and a passed deadline too.

    Raises:
        ArgusError: the last one's, or one that no other back end would do better with.
    """
    for position, name in enumerate(names):
        is_last = position == len(names) - 1
        try:
            return await ask(name, not is_last)
        except ArgusError as error:
            if failure_class(error) == "invalid_request":
                raise error if error.param else error.at("document") from error.__cause__
            if is_last or context.left_s() <= 0:
                raise
    raise AssertionError("there is at least one back end")


def _lookers(cluster: ClusterFile) -> list[str]:
    """Chat models of ours that take a picture."""
    return [name for name, model in cluster.models.items() if isinstance(model, GenerativeModel) and model.max_images]
