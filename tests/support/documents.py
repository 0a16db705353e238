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
    "filled_form",
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


def filled_form(value: str, *, drawn: bool, rotation: int = 0) -> bytes:
    """A page of 400 by 200 points with a ruling line, the word "Name:" and a text field behind it that holds `value`.

    Args:
        drawn: the field says how it looks (it has an appearance stream), as forms do that a program has filled in.
    """
    font = "/Resources << /Font << /F 5 0 R >> >>"
    shown = f"/Tx BMC BT /F 12 Tf 2 5 Td ({value}) Tj ET EMC"
    page = "BT /F 12 Tf 20 110 Td (Name:) Tj ET 20 60 m 380 60 l S"
    objects = [
        "<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [6 0 R] /DR << /Font << /F 5 0 R >> >> >> >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 400 200] /Rotate {rotation} /Contents 4 0 R {font} "
        "/Annots [6 0 R] >>",
        f"<< /Length {len(page)} >> stream\n{page}\nendstream",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        f"<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V ({value}) /Rect [80 105 300 125] /P 3 0 R /F 4 "
        f"/DA (/F 12 Tf 0 g) {'/AP << /N 7 0 R >>' if drawn else ''} >>",
        f"<< /Type /XObject /Subtype /Form /BBox [0 0 220 20] {font} /Length {len(shown)} >> "
        f"stream\n{shown}\nendstream",
    ]
    data = b"%PDF-1.7\n"
    starts = []
    for number, content in enumerate(objects, 1):
        starts.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    size = len(objects) + 1
    return (
        data
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
        ).encode()
    )


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
