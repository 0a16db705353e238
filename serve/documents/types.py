"""What is asked of a document, and what its back ends answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from deployments.documents.messages import DocumentKind, DocumentPages, PageRange, Summary, TextLayer
from serve.calls import Usage
from serve.context import RequestContext

# The back end of summaries that is always there: the document's own sentences.
EXTRACTIVE = "extractive"


@dataclass(frozen=True, slots=True)
class Asked:
    """Which pages, and how they are read; see `ReadDocument`.

    Attributes:
        backend: the only one that is asked; None asks those of the cluster file in their order.
    """

    pages: tuple[PageRange, ...] = ()
    max_pages: int | None = None
    text_layer: TextLayer = "auto"
    dpi: int | None = None
    backend: str | None = None


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
        self, document: bytes, asked: Asked, context: RequestContext, *, tables: bool, fallback: bool
    ) -> tuple[DocumentPages, Usage]:
        """Lines of each page, or with `tables` its tables.

        Args:
            fallback: another back end is asked when this one fails, so nothing waits before trying again.

        Raises:
            ArgusError: what is wrong with the document, or with the back end.
        """
        ...
