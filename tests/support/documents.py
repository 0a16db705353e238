"""Documents with known content for tests, beside those of `benchmarks.document_pages`."""

from __future__ import annotations

import io

from fpdf import FPDF
from fpdf.enums import EncryptionMethod
from PIL import Image

from benchmarks.document_pages import STYLES, Made, Style, article, invoice, picture, table

__all__ = [
    "STYLES",
    "Made",
    "Style",
    "article",
    "blank",
    "encrypted",
    "invoice",
    "lined_table",
    "lines_pdf",
    "picture",
    "scanned",
    "table",
    "tiff",
]


def lines_pdf(*pages: list[str], size: tuple[float, float] = (595, 842), rotation: int = 0) -> bytes:
    """A line below the other on each page, the first at (40, 40) points from the upper left."""
    pdf = _pdf(size)
    for page in pages:
        pdf.add_page()
        for line in page:
            pdf.cell(0, 16, line, new_x="LMARGIN", new_y="NEXT")
    data = bytes(pdf.output())
    # fpdf2 does not write rotations; pages are plain objects in its files.
    return data.replace(b"/Type /Page\n", b"/Type /Page\n/Rotate %d\n" % rotation) if rotation else data


def lined_table(rows: list[list[str]], borders: str = "ALL") -> bytes:
    """A table with the lines of one of fpdf2's layouts (`TableBordersLayout`)."""
    pdf = _pdf((595, 842))
    pdf.c_margin = 3
    pdf.add_page()
    with pdf.table(rows, borders_layout=borders):
        pass
    return bytes(pdf.output())


def blank(pages: int = 1) -> bytes:
    """Pages without anything."""
    return lines_pdf(*[[] for _ in range(pages)])


def encrypted() -> bytes:
    """A PDF that opens with a password only."""
    pdf = _pdf((595, 842))
    pdf.set_encryption(owner_password="owner", user_password="user", encryption_method=EncryptionMethod.RC4)
    pdf.add_page()
    pdf.cell(0, 16, "secret")
    return bytes(pdf.output())


def scanned(pdf: bytes, *, stamp: str | None = None, dpi: int = 150) -> bytes:
    """The first page of a PDF as a picture on a page, as a scanner makes it; `stamp` is text over it."""
    scan = Image.open(io.BytesIO(picture(pdf, dpi=dpi)))
    made = _pdf((scan.width * 72 / dpi, scan.height * 72 / dpi))
    made.add_page()
    made.image(scan, 0, 0, made.w, made.h)
    if stamp is not None:
        made.cell(0, 10, stamp)
    return bytes(made.output())


def tiff(*pages: bytes, dpi: int = 150) -> bytes:
    """The first page of each PDF, as a scanner puts several pages into one TIFF."""
    scans = [Image.open(io.BytesIO(picture(page, dpi=dpi))).convert("L") for page in pages]
    file = io.BytesIO()
    scans[0].save(file, "TIFF", save_all=True, append_images=scans[1:], compression="tiff_lzw")
    return file.getvalue()


def _pdf(size: tuple[float, float]) -> FPDF:
    pdf = FPDF(unit="pt", format=size)
    pdf.set_auto_page_break(auto=False)
    pdf.set_margins(40, 40)
    pdf.c_margin = 0
    pdf.set_font("Helvetica", size=11)
    return pdf
