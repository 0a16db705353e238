"""What is asked of a document, and what its back ends answer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Protocol

from deployments.documents.messages import DocumentKind, DocumentPages, PageRange, Summary, TextLayer
from deployments.documents.pages import chosen
from serve.calls import Usage
from serve.context import RequestContext

# The back end of summaries that is always there: the document's own sentences.
EXTRACTIVE = "extractive"
# What is read of a page: `text` its lines, `tables` its tables, `layout` its lines, and its tables where they are seen
# together.
Wanted = Literal["text", "tables", "layout"]
# Most of a document that is read in groups.
_MOST_PAGES = 100_000


@dataclass(frozen=True, slots=True)
class Asked:
    """Which pages, and how they are read; see `ReadDocument`.

    Attributes:
        backend: the only one that is asked; None asks those of the cluster file in their order.
        preferred: of those, the one that is asked first.
        in_groups: of a document that may be too long for one request: a few of its pages are read at a time, and that
            none of a group can be read does not end it.
    """

    pages: tuple[PageRange, ...] = ()
    max_pages: int | None = None
    text_layer: TextLayer = "auto"
    dpi: int | None = None
    backend: str | None = None
    preferred: str | None = None
    in_groups: bool = False

    def first_group(self, size: int) -> Asked:
        """The first pages, which also tell how many there are."""
        return replace(self, max_pages=min(size, self.max_pages or size), in_groups=True)

    def further_groups(self, size: int, total: int, preferred: str) -> list[Asked]:
        """The others, for the back end that read the first, and for others where it fails.

        Args:
            total: pages of the document.

        Raises:
            InvalidRequest: see `chosen`.
        """
        numbers = chosen(self.pages, total, self.max_pages, _MOST_PAGES)
        return [
            replace(
                self,
                pages=tuple((number, number) for number in numbers[start : start + size]),
                max_pages=None,
                preferred=preferred,
                in_groups=True,
            )
            for start in range(size, len(numbers), size)
        ]


@dataclass(frozen=True, slots=True)
class Read:
    """Pages that were read, and by whom."""

    backend: str
    document: DocumentPages
    usage: Usage


@dataclass(frozen=True, slots=True)
class Summarised:
    """A summary, by whom, and of which pages.

    Attributes:
        numbers: pages that were looked at.
        total: pages of the document.
    """

    backend: str
    summary: Summary
    kind: DocumentKind
    numbers: tuple[int, ...]
    total: int
    usage: Usage


class Backend(Protocol):
    """Reads documents."""

    async def read(
        self, document: bytes, asked: Asked, context: RequestContext, *, wanted: Wanted, fallback: bool
    ) -> tuple[DocumentPages, Usage]:
        """What is wanted of each page; other lines and tables may come with it.

        Args:
            fallback: another back end is asked when this one fails, so nothing waits before trying again.

        Raises:
            ArgusError: what is wrong with the document, or with the back end.
        """
        ...
