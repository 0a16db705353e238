"""What the router asks of a document reader and what comes back; imports neither a PDF nor an OCR library.

Pages are counted from 1. A place on a page is given from its upper left corner as it is shown, y downward: in points
(1/72 inch) on a page of a PDF, in pixels of the upright image otherwise: square ones, to which a fax is stretched whose
resolutions across and down differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from deployments.messages import TaskRequest

DocumentKind = Literal["pdf", "image"]
TextLayer = Literal["auto", "never", "always"]
DocumentType = Literal[
    "invoice", "receipt", "letter", "report", "form", "contract", "article", "resume", "table", "other"
]
# First and last page, both in it; no last one means to the end.
PageRange = tuple[int, int | None]
Point = tuple[float, float]
Quad = tuple[Point, Point, Point, Point]


class Box(NamedTuple):
    """An upright rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        """Of its horizontal sides."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Of its vertical sides."""
        return self.bottom - self.top

    @property
    def quad(self) -> Quad:
        """Its corners, clockwise from the upper left."""
        left, top, right, bottom = self
        return (left, top), (right, top), (right, bottom), (left, bottom)


def around(boxes: list[Box]) -> Box:
    """The smallest box around all of them; at least one."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return Box(min(lefts), min(tops), max(rights), max(bottoms))


@dataclass(frozen=True, slots=True)
class TextLine:
    """Text that stands in one line.

    Attributes:
        quad: corners, clockwise from the text's upper left; None from a model that does not place what it reads.
        score: the recogniser's confidence in [0, 1]; 1 from a PDF's text layer; None when it states none.
        height: of the letters with what hangs below, in the page's unit; 0 where there is no place.
    """

    text: str
    quad: Quad | None = None
    score: float | None = None
    height: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table.

    Attributes:
        row: 0 is the header's when there is one.
        column: from 0.
        box: of its text.
    """

    row: int
    column: int
    text: str
    box: Box


@dataclass(frozen=True, slots=True)
class Table:
    """A table on a page.

    Attributes:
        headers: as many as columns, or none when no row of headings was found.
        rows: the others, each as long as there are columns; an empty cell is an empty text.
        cells: those that hold text, in reading order; none from a model that does not place what it reads.
        box: None likewise.
        ruled: found by its ruling lines, not by alignment alone; None likewise.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    cells: tuple[Cell, ...] = ()
    box: Box | None = None
    ruled: bool | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """A page that was read.

    Attributes:
        width, height: in `unit`.
        pixels: width and height of the picture that was read, or that would have been.
        source: `layer` when the text is the PDF's own, `ocr` when it was recognised, `model` when a model wrote down
            what it saw.
        lines: in reading order; those of a table, row by row, are among them.
    """

    number: int
    width: float
    height: float
    unit: Literal["point", "pixel"]
    pixels: tuple[int, int]
    source: Literal["layer", "ocr", "model"]
    lines: tuple[TextLine, ...]
    tables: tuple[Table, ...] = ()

    @property
    def text(self) -> str:
        """Its lines, one below the other."""
        return "\n".join(line.text for line in self.lines)


@dataclass(frozen=True, slots=True)
class DocumentPages:
    """Pages of a document in its order.

    Attributes:
        total: pages that the document has: of a PDF or a TIFF; other images have one.
        pages: those asked for; in a page's place the error that it alone met, with its number in `numbers`.
    """

    kind: DocumentKind
    total: int
    numbers: tuple[int, ...]
    pages: tuple[Page | Exception, ...]


@dataclass(frozen=True, slots=True)
class PageImage:
    """A page as a picture, for models that read pictures.

    Attributes:
        data: a JPEG or PNG file.
        width, height: in pixels.
        scale: pixels of it for each of the page's own units.
        unit: of the page.
    """

    number: int
    data: bytes
    width: int
    height: int
    scale: float
    unit: Literal["point", "pixel"]


@dataclass(frozen=True, slots=True)
class DocumentImages:
    """Pages of a document as pictures; see `DocumentPages`."""

    kind: DocumentKind
    total: int
    numbers: tuple[int, ...]
    pages: tuple[PageImage | Exception, ...]


@dataclass(frozen=True, slots=True)
class ReadDocument(TaskRequest[DocumentPages]):
    """The text of a document, and its tables.

    Attributes:
        data: a PDF or an image file.
        pages: in any order, read in the document's; empty for all.
        max_pages: read no more than the first so many of them; None reads all or refuses.
        text_layer: of a PDF: `auto` uses it where it can be trusted, `never` recognises the picture, `always` uses it
            whatever it says.
        dpi: resolution at which a PDF's page is drawn for recognition; None for the reader's own.
        tables: whether tables are looked for.
    """

    method: ClassVar[str] = "read"
    data: bytes
    pages: tuple[PageRange, ...] = ()
    max_pages: int | None = None
    text_layer: TextLayer = "auto"
    dpi: int | None = None
    tables: bool = True


@dataclass(frozen=True, slots=True)
class RenderPages(TaskRequest[DocumentImages]):
    """Pages as pictures.

    Attributes:
        data, pages, max_pages, dpi: see `ReadDocument`.
        side: longest side in pixels; larger ones are scaled down.
        format: JPEG for models, PNG for exact pixels.
    """

    method: ClassVar[str] = "render"
    data: bytes
    pages: tuple[PageRange, ...] = ()
    max_pages: int | None = None
    dpi: int | None = None
    side: int = 2048
    format: Literal["jpeg", "png"] = "jpeg"


@dataclass(frozen=True, slots=True)
class KeyFact:
    """Something that a document states under a name, such as an invoice's number."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a document is about.

    Attributes:
        date: of the document, as YYYY-MM-DD; None when it states none, or one that can be read in two ways.
    """

    type: DocumentType
    title: str | None
    date: str | None
    summary: str
    key_facts: tuple[KeyFact, ...]


@dataclass(frozen=True, slots=True)
class SummarisePages(TaskRequest[Summary]):
    """A summary made of a document's own sentences, without a language model."""

    method: ClassVar[str] = "summarise"
    pages: tuple[Page, ...]
