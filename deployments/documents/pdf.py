"""PDFs by PDFium: pages, the words of their text layer, their ruling lines, and pictures of them.

PDFium reads files of strangers in C++ and is not safe in threads, so this module is imported in worker processes only
(`worker`). Positions come out as `messages` says: from the upper left of the page as it is shown.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ctypes import c_float
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pypdfium2
from pypdfium2 import raw

from deployments.documents.messages import Box, Point
from deployments.documents.rules import Rule, rule
from deployments.documents.segments import Word
from serve.errors import ArgusError, InvalidMedia

# Beyond this a page is no text for people; each character is a few calls into PDFium.
_MOST_CHARS = 200_000
_MOST_PATHS = 20_000
# Characters that are asked how they stand.
_ANGLES = 1000
# Characters of the private use areas stand for glyphs whose meaning only the font knows.
_PRIVATE = ((0xE000, 0xF8FF), (0xF0000, 0x10FFFF))
# What PDFium makes of a hyphen at the end of a line that goes on in the next one.
_LINE_END_HYPHEN = 2


class PdfPage:
    """An open page; see `opened`."""

    def __init__(self, page: pypdfium2.PdfPage) -> None:
        self._page = page
        left, bottom, right, top = page.get_bbox()
        self._corner: Point = (left, bottom)
        self._size: Point = (right - left, top - bottom)
        self._turn = page.get_rotation() % 360
        if not (math.isfinite(left + bottom + right + top) and min(self._size) >= 1):
            raise InvalidMedia("The page has no size.", code="invalid_page")

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in points, as shown."""
        width, height = self._size
        return (height, width) if self._turn in (90, 270) else (width, height)

    def _shown(self, x: float, y: float) -> Point:
        """A point of the page's own space (origin at the lower left, before rotation) as shown."""
        width, height = self._size
        right, up = x - self._corner[0], y - self._corner[1]
        return {
            0: (right, height - up),
            90: (up, right),
            180: (width - right, up),
            270: (height - up, width - right),
        }[self._turn]

    def _box(self, left: float, bottom: float, right: float, top: float) -> Box:
        (x0, y0), (x1, y1) = self._shown(left, bottom), self._shown(right, top)
        return Box(min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))

    def words(self) -> list[Word]:
        """The words of the text layer and of form fields that lie on the page, in the file's order.

        Raises:
            InvalidMedia: `too_many_characters`.
        """
        page = self._page.get_textpage()
        count = page.count_chars()
        if count > _MOST_CHARS:
            message = f"The page has {count:,} characters; at most {_MOST_CHARS:,} are read."
            raise InvalidMedia(message, code="too_many_characters")
        words: list[Word] = []
        letters: list[tuple[str, Box]] = []
        width, height = self.size

        def end() -> None:
            if letters:
                box = _around_letters(letters)
                if box.right > 0 and box.bottom > 0 and box.left < width and box.top < height:
                    words.append(Word("".join(letter for letter, _ in letters), box))
                letters.clear()

        for i in range(count):
            code = raw.FPDFText_GetUnicode(page, i)
            code = ord("-") if code == _LINE_END_HYPHEN else code
            character = chr(code)
            if character.isspace() or code < 32 or 0xD800 <= code <= 0xDFFF:
                end()
                continue
            box = self._box(*page.get_charbox(i, loose=True))
            if letters and _apart(letters[-1][1], box):
                end()
            letters.append((character, box))
        end()
        return words

    def quarters(self) -> int:
        """By how many quarters, counter-clockwise, the page as shown is to be turned so that most text is upright."""
        page = self._page.get_textpage()
        count = page.count_chars()
        turns = Counter(
            round(self._turn / 90 - raw.FPDFText_GetCharAngle(page, i) / (math.pi / 2)) % 4
            for i in range(0, count, count // _ANGLES + 1)
            if raw.FPDFText_GetUnicode(page, i) > ord(" ")
        )
        return turns.most_common(1)[0][0] if turns else 0

    def rules(self) -> list[Rule]:
        """Straight horizontal and vertical lines that the page draws: borders of tables, among others."""
        rules: list[Rule] = []
        for i, shape in enumerate(self._page.get_objects(filter=[raw.FPDF_PAGEOBJ_PATH], max_depth=1)):
            if i >= _MOST_PATHS:
                break
            for (x0, y0), (x1, y1) in _strokes(shape):
                if found := rule(self._shown(x0, y0), self._shown(x1, y1)):
                    rules.append(found)
        return rules

    def image_share(self) -> float:
        """How much of the page is covered by its largest picture, in [0, 1]: of a scan, nearly all."""
        largest = 0.0
        for image in self._page.get_objects(filter=[raw.FPDF_PAGEOBJ_IMAGE], max_depth=2):
            with suppress(pypdfium2.PdfiumError):
                left, bottom, right, top = image.get_bounds()
                largest = max(largest, max(0.0, right - left) * max(0.0, top - bottom))
        return min(1.0, largest / (self._size[0] * self._size[1]))

    def scale(self, dpi: float, max_pixels: int, max_side: int) -> float:
        """Pixels a point at which the page is drawn: `dpi`, or less for a page that would be too large."""
        width, height = self.size
        most: float = min(math.sqrt(max_pixels / (width * height)), max_side / max(width, height))
        return min(dpi / 72, most)

    def picture(self, scale: float) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 RGB, form fields and annotations drawn in."""
        bitmap = self._page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False, fill_color=(255, 255, 255, 255))
        pixels: npt.NDArray[np.uint8] = bitmap.to_numpy()
        if pixels.ndim == 2 or pixels.shape[2] == 1:
            return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
        return np.ascontiguousarray(pixels[:, :, :3])


def page_count(path: Path) -> int:
    """Pages of a file.

    Raises:
        InvalidMedia: see `opened`.
    """
    with _document(path) as document:
        return len(document)


@contextmanager
def opened(path: Path, index: int) -> Iterator[PdfPage]:
    """A page, counted from 0.

    Raises:
        InvalidMedia: `encrypted_document`, `invalid_document`, `empty_document`; of the page alone `invalid_page`.
    """
    with _document(path) as document:
        try:
            page = _filled_in(document, index)
        except (pypdfium2.PdfiumError, IndexError) as error:
            raise InvalidMedia(f"Page {index + 1} of the PDF cannot be read.", code="invalid_page") from error
        try:
            yield PdfPage(page)
        except ArgusError:
            raise
        except pypdfium2.PdfiumError as error:
            raise InvalidMedia(f"Page {index + 1} of the PDF cannot be read: {error}", code="invalid_page") from error
        finally:
            page.close()


def _filled_in(document: pypdfium2.PdfDocument, index: int) -> pypdfium2.PdfPage:
    """A page on which the values of form fields are text like any other."""
    page = document[index]
    if page.formenv is None or raw.FPDFPage_GetAnnotCount(page) < 1:
        return page
    with suppress(pypdfium2.PdfiumError):  # a form that cannot be drawn leaves the page as it is
        page.flatten()
    page.close()
    return document[index]  # the text of a page is that which it had when it was loaded


@contextmanager
def _document(path: Path) -> Iterator[pypdfium2.PdfDocument]:
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if error.err_code in (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY):
            message = "The PDF is encrypted; send it without a password."
            raise InvalidMedia(message, code="encrypted_document") from None
        message = "The PDF cannot be read: it is damaged, cut short, or no PDF inside."
        raise InvalidMedia(message, code="invalid_document") from None
    try:
        with suppress(pypdfium2.PdfiumError):  # a broken form leaves its pages as they are
            document.init_forms()  # before any page is loaded, or the page's fields are not known
        if len(document) < 1:
            raise InvalidMedia("The PDF has no pages.", code="empty_document")
        yield document
    finally:
        document.close()


def readable_share(words: list[Word]) -> float:
    """How many of the characters mean something by themselves, in [0, 1]; 0 without any.

    Fonts without a map to Unicode give replacement characters and private ones: such a layer looks right and reads as
    nothing.
    """
    text = "".join(word.text for word in words)
    bad = sum(c == "�" or not c.isprintable() or any(a <= ord(c) <= b for a, b in _PRIVATE) for c in text)
    return 1 - bad / len(text) if text else 0.0


def _around_letters(letters: list[tuple[str, Box]]) -> Box:
    boxes = [box for _, box in letters]
    return Box(
        min(box.left for box in boxes),
        min(box.top for box in boxes),
        max(box.right for box in boxes),
        max(box.bottom for box in boxes),
    )


def _apart(before: Box, after: Box) -> bool:
    """Whether a letter does not continue the word of the one before it, although no space stands between them.

    Letters may follow each other in any direction: text can stand upright.
    """
    across = max(after.left - before.right, before.left - after.right)
    down = max(after.top - before.bottom, before.top - after.bottom)
    return max(across, down) > 0.5 * max(before.height, after.height)


def _strokes(shape: pypdfium2.PdfObject) -> Iterator[tuple[Point, Point]]:
    """The straight pieces of a path, in the page's own space. Filled areas count when they are as thin as a line."""
    fill, stroke = raw.c_int(), raw.FPDF_BOOL()
    if not raw.FPDFPath_GetDrawMode(shape, fill, stroke):
        return
    if not stroke.value:
        with suppress(pypdfium2.PdfiumError):
            left, bottom, right, top = shape.get_bounds()
            if min(right - left, top - bottom) <= _THIN:
                yield (left, (bottom + top) / 2), (right, (bottom + top) / 2)
                yield ((left + right) / 2, bottom), ((left + right) / 2, top)
        return
    matrix = shape.get_matrix()
    first: Point | None = None
    at: Point | None = None
    for i in range(raw.FPDFPath_CountSegments(shape)):
        piece = raw.FPDFPath_GetPathSegment(shape, i)
        x, y = c_float(), c_float()
        raw.FPDFPathSegment_GetPoint(piece, x, y)
        point = matrix.on_point(x.value, y.value)
        kind = raw.FPDFPathSegment_GetType(piece)
        if kind == raw.FPDF_SEGMENT_MOVETO:
            first = point
        elif kind == raw.FPDF_SEGMENT_LINETO and at is not None:
            yield at, point
        at = point
        if raw.FPDFPathSegment_GetClose(piece) and first is not None:
            yield point, first


# A filled area up to this many points high is a line.
_THIN = 3.0
