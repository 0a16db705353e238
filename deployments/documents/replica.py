"""The document reader's deployment: pages of a document, side by side in worker processes, in the document's order.

The PDF and OCR libraries are imported in the workers only.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from deployments.base import STALL_S
from deployments.documents.messages import (
    DocumentImages,
    DocumentKind,
    DocumentPages,
    Page,
    PageImage,
    PageRange,
    ReadDocument,
    RenderPages,
    SummarisePages,
    Summary,
)
from deployments.documents.pages import chosen
from deployments.messages import Call, ModelInfo
from deployments.worker_pool import Subject, WorkerPool
from serve.config.models import OcrModel
from serve.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, Unavailable
from serve.media.document import document_kind
from serve.media.image import ImageLimits

T = TypeVar("T")

# Files lie here while their pages are read: in memory, where the system offers it.
_SHARED = Path("/dev/shm")
_PAGES = Subject("document reader", "document", "page")


class DocumentReader:
    """See the module's text.

    Args:
        images: what an image file may be; its bytes bound PDFs too.
    """

    def __init__(self, config: OcrModel, images: ImageLimits) -> None:
        from deployments.documents import worker

        self._started = time.monotonic()
        self._worker = worker
        self._config = config
        self._max_bytes = images.max_bytes
        settings = worker.WorkerSettings(
            config.placement.threads, int(config.worker_memory_gb * 1e9), config.max_pixels, config.max_side, images
        )
        self._pool = WorkerPool(
            _PAGES,
            config.placement.preprocess_workers,
            config.page_s,
            config.batching.max_queue,
            worker.start,
            settings,
        )
        self._info: ModelInfo | None = None
        self._ready = asyncio.Lock()

    async def info(self) -> ModelInfo:
        """Load time and device, once every worker has loaded its models."""
        async with self._ready:
            if self._info is None:
                await asyncio.gather(*(self._pool.run(self._worker.ready) for _ in range(self._pool.workers)))
                self._info = ModelInfo("cpu", time.monotonic() - self._started, engine="rapidocr")
        return self._info

    async def check_health(self) -> None:
        """Called by Ray Serve. Busy is healthy: a page that takes too long ends by itself.

        Raises:
            Unavailable: the workers do not answer, or one has hung past its time.
        """
        await self.info()
        if (longest := self._pool.longest_s) > self._config.page_s + STALL_S:
            raise Unavailable(f"A page has been read for {longest:.0f} s.")

    async def read(self, request: ReadDocument, call: Call) -> DocumentPages:
        """See `ReadDocument`.

        Raises:
            InvalidMedia: `invalid_document`, `encrypted_document`, `empty_document`, `not_a_document`, or what is wrong
                with an image.
            InvalidRequest: `invalid_pages`, `too_many_pages`.
            PayloadTooLarge, Overloaded, DeadlineExceeded.
        """
        dpi = request.dpi or self._config.dpi
        worker = self._worker
        async with _within(call):
            with self._stored(request.data) as (path, kind):
                total, numbers = await self._numbers(path, kind, request.pages, request.max_pages)

                def page(number: int) -> Awaitable[Page]:
                    layer, tables = request.text_layer, request.tables
                    return self._pool.run(worker.read_page, path, kind, number, layer, dpi, tables=tables)

                return DocumentPages(kind, total, numbers, await self._each(numbers, page))

    async def render(self, request: RenderPages, call: Call) -> DocumentImages:
        """See `RenderPages`, and `read` for errors."""
        dpi = request.dpi or self._config.dpi
        worker = self._worker
        async with _within(call):
            with self._stored(request.data) as (path, kind):
                total, numbers = await self._numbers(path, kind, request.pages, request.max_pages)

                def page(number: int) -> Awaitable[PageImage]:
                    return self._pool.run(worker.render_page, path, kind, number, dpi, request.side, request.format)

                return DocumentImages(kind, total, numbers, await self._each(numbers, page))

    async def summarise(self, request: SummarisePages, call: Call) -> Summary:
        """See `SummarisePages`."""
        async with _within(call):
            return await self._pool.run(self._worker.summarise, request.pages)

    async def close(self) -> None:
        """Ends the workers, which also end by themselves when this process does."""
        await self._pool.close()

    @contextmanager
    def _stored(self, data: bytes) -> Iterator[tuple[Path, DocumentKind]]:
        """The document as a file, so that it is not sent to the workers once for each page.

        Raises:
            PayloadTooLarge: it has too many bytes.
            InvalidMedia: `not_a_document`.
        """
        if len(data) > self._max_bytes:
            message = f"The document has {len(data):,} bytes; at most {self._max_bytes:,} are accepted."
            raise PayloadTooLarge(message)
        kind = document_kind(data)
        with tempfile.NamedTemporaryFile(dir=_SHARED if _SHARED.is_dir() else None, prefix="argus-page-") as file:
            file.write(data)
            file.flush()
            yield Path(file.name), kind

    async def _numbers(
        self, path: Path, kind: DocumentKind, ranges: Sequence[PageRange], most: int | None
    ) -> tuple[int, tuple[int, ...]]:
        total = await self._pool.run(self._worker.count_pages, path, kind)
        return total, chosen(ranges, total, most, self._config.max_pages)

    async def _each(self, numbers: Sequence[int], read: Callable[[int], Awaitable[T]]) -> tuple[T | Exception, ...]:
        """What is read of each page, in order; what is wrong with a page alone stands in its place.

        A document has no more pages in the queue than there are workers, so that a long one does not stand in the way
        of a short one that came after it.
        """
        gate = asyncio.Semaphore(self._pool.workers)

        async def one(number: int) -> T | Exception:
            async with gate:
                try:
                    return await read(number)
                except InvalidRequest as error:
                    return error

        tasks = [asyncio.ensure_future(one(number)) for number in numbers]
        try:
            pages = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return tuple(pages)


@asynccontextmanager
async def _within(call: Call) -> AsyncIterator[None]:
    """Gives up what is left when the deadline passes."""
    try:
        async with asyncio.timeout(call.timeout_s):
            yield
    except TimeoutError:
        raise DeadlineExceeded("The document was not read within the deadline.") from None
