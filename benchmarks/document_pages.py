"""Documents whose content is known because they are made here: invoices, tables, articles in two columns.

Each comes as a PDF with a text layer; `picture` draws a page as a scanner would see it.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, field
from typing import Literal

import pypdfium2
from fpdf import FPDF

Grid = list[list[str]]
# Ruling lines of a table: around every cell, below the headings and at both ends, or none.
Style = Literal["grid", "lines", "bare"]
STYLES: tuple[Style, ...] = ("grid", "lines", "bare")

_ITEMS = (
    "Blue ceramic mug", "Desk lamp", "Office chair", "Whiteboard marker", "Paper clips", "Steel bracket", "Wall clock",
    "Notebook", "Monitor stand", "Coffee beans", "Extension cord", "Printer cartridge", "Water filter", "Tool box",
)  # fmt: skip
_DETAILS = ("adjustable", "set of twelve", "with cover", "stainless steel, brushed", "recycled paper, ruled", "black")
_COMPANIES = ("Northwind Supplies", "Harbor & Lane", "Cedar Office Goods", "Bright Tools", "Alpine Trading")
_STREETS = ("14 Mill Road", "220 Station Street", "7 Garden Lane", "91 Market Square")
_CITIES = ("Leeds", "Bergen", "Portland", "Geneva", "Utrecht")
_MONTHS = ("January", "March", "May", "July", "September", "November")
_REGIONS = ("North", "South", "East", "West", "Central", "Coast", "Highlands", "Islands")
_SENTENCES = (
    "The survey covered every branch of the network during the spring.",
    "Most of the growth came from regions that had opened new offices.",
    "Costs fell because deliveries were combined and routes were shortened.",
    "Customers asked for simpler forms and for answers within one day.",
    "Two of the older machines were replaced before the summer began.",
    "The team measured the results again after three months of use.",
    "Energy use stayed level although production rose by a tenth.",
    "Several readers pointed out errors that have since been corrected.",
    "The next edition will describe the method in greater detail.",
    "Local partners provided the data on which this section is based.",
    "Prices are given without tax unless the table says otherwise.",
    "A second experiment confirmed what the first one had suggested.",
)


@dataclass(slots=True)
class Made:
    """A document and what it says.

    Attributes:
        pdf: the file.
        pages: text of each page, line by line in the order in which it is read.
        tables: of all pages in order, headings first.
        facts: by name, of an invoice.
    """

    name: str
    pdf: bytes
    pages: list[list[str]]
    tables: list[Grid] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)


def picture(pdf: bytes, page: int = 0, dpi: int = 150) -> bytes:
    """A page as a PNG file."""
    document = pypdfium2.PdfDocument(pdf)
    file = io.BytesIO()
    document[page].render(scale=dpi / 72).to_pil().save(file, "PNG")
    document.close()
    return file.getvalue()


def invoice(seed: int, *, style: Style) -> Made:
    """An invoice: letter head, fields, a table of items, totals."""
    rng = random.Random(seed)
    look = _look(rng)
    pdf = _blank(look)
    lines: list[str] = []
    company, number = rng.choice(_COMPANIES), f"INV-{rng.randint(2019, 2026)}-{rng.randint(1, 9999):04d}"
    date = f"{rng.randint(1, 28)} {rng.choice(_MONTHS)} {rng.randint(2019, 2026)}"
    customer = rng.choice([name for name in _COMPANIES if name != company])
    _write(pdf, lines, company, size=16, bold=True)
    _write(pdf, lines, f"{rng.choice(_STREETS)}, {rng.choice(_CITIES)}")
    pdf.ln(12)
    _write(pdf, lines, "INVOICE", size=22, bold=True)
    pdf.ln(6)
    facts = {"Invoice number": number, "Invoice date": date, "Bill to": customer}
    for name, value in facts.items():
        _pair(pdf, lines, f"{name}:", value)
    pdf.ln(16)
    rows = [["Description", "Qty", "Unit price", "Amount"]]
    total = 0
    for item in rng.sample(_ITEMS, rng.randint(3, 7)):
        count, price = rng.randint(1, 40), rng.randint(50, 19_999)
        total += count * price
        name = f"{item}, {rng.choice(_DETAILS)}" if rng.random() < 0.4 else item
        rows.append([name, str(count), _money(price), _money(count * price)])
    grid(pdf, rows, (230, 60, 90, 100), style=style, look=look)
    lines += [text for row in rows for text in row]
    pdf.ln(22)
    facts["Total due"] = f"EUR {_money(total)}"
    _pair(pdf, lines, "Total due:", facts["Total due"])
    return Made(f"invoice {seed}", bytes(pdf.output()), [lines], [rows], facts)


def table(seed: int, *, style: Style) -> Made:
    """A sentence, a table with empty and wrapped cells and numbers set right, and a sentence."""
    rng = random.Random(seed)
    look = _look(rng)
    pdf = _blank(look)
    lines: list[str] = []
    _write(pdf, lines, "Sales by region", size=16, bold=True)
    pdf.ln(4)
    _write(pdf, lines, rng.choice(_SENTENCES))
    pdf.ln(12)
    rows = [["Region", "Manager", *(f"Q{i} 20{rng.randint(19, 26)}" for i in (1, 2, 3))]]
    for name in rng.sample(_REGIONS, rng.randint(4, 7)):
        manager = rng.choice(("A. Berg", "Maria Lopez", "J. Smith", "Chen Wei", "Olga Petrova", ""))
        figures = [f"{rng.randint(100, 99_999):,}" if rng.random() < 0.85 else "" for _ in range(3)]
        region = f"{name} and the neighbouring districts" if rng.random() < 0.35 else name
        rows.append([region, manager, *(figures if any(figures) else ["0", *figures[1:]])])
    grid(pdf, rows, (120, 110, 75, 75, 75), style=style, look=look, numbers_from=2)
    lines += [text for row in rows for text in row if text]
    pdf.ln(20)
    _write(pdf, lines, rng.choice(_SENTENCES))
    return Made(f"table {seed}", bytes(pdf.output()), [lines], [rows])


def article(seed: int, *, pages: int = 1) -> Made:
    """A heading across two columns of text, on each page."""
    rng = random.Random(seed)
    pdf = _blank(Look("Helvetica", 10, 3))
    read: list[list[str]] = []
    for page in range(pages):
        if page:
            pdf.add_page()
        lines: list[str] = []
        _write(pdf, lines, f"Annual report of the network, part {page + 1}", size=20, bold=True)
        pdf.ln(6)
        _write(pdf, lines, "Prepared for the general meeting and open to the public", size=12)
        top = pdf.get_y() + 14
        pdf.set_font("Helvetica", size=10)
        for column in (0, 1):
            pdf.set_xy(40 + column * 265, top)
            for paragraph in range(rng.randint(3, 4)):
                text = " ".join(rng.sample(_SENTENCES, 4))
                pdf.set_x(40 + column * 265)
                wrapped = pdf.multi_cell(250, 13, text, align="J" if seed % 2 else "L", dry_run=True, output="LINES")
                pdf.multi_cell(250, 13, text, align="J" if seed % 2 else "L", new_x="LEFT", new_y="NEXT")
                lines += wrapped
                # Gaps between paragraphs at the same height in both columns, which mislead a plain XY-cut.
                pdf.set_y(top + (paragraph + 1) * 110)
        read.append(lines)
    return Made(f"article {seed}", bytes(pdf.output()), read)


def grid(pdf: FPDF, rows: Grid, widths: tuple[float, ...], *, style: Style, look: Look, numbers_from: int = 1) -> None:
    """Draws a table at the present place; cells are wrapped, columns from `numbers_from` set right."""
    height, padding = 1.3 * look.size, look.padding
    right = pdf.l_margin + sum(widths)
    for row_number, row in enumerate(rows):
        pdf.set_font(look.family, "B" if row_number == 0 else "", look.size)
        wrapped = [
            pdf.multi_cell(width - 2 * padding, height, text, dry_run=True, output="LINES") if text else [""]
            for text, width in zip(row, widths, strict=True)
        ]
        tall = height * max(map(len, wrapped)) + 2 * padding
        x, y = pdf.l_margin, pdf.get_y()
        if style == "lines" and row_number < 2:
            pdf.line(x, y, right, y)
        for column, (cell, width) in enumerate(zip(wrapped, widths, strict=True)):
            if style == "grid":
                pdf.rect(x, y, width, tall)
            for i, line in enumerate(cell):
                pdf.set_xy(x + padding, y + padding + i * height)
                pdf.cell(width - 2 * padding, height, line, align="R" if column >= numbers_from else "L")
            x += width
        pdf.set_xy(pdf.l_margin, y + tall)
    if style == "lines":
        pdf.line(pdf.l_margin, pdf.get_y(), right, pdf.get_y())
    pdf.set_font(look.family, "", look.size)


@dataclass(frozen=True, slots=True)
class Look:
    """Type of a document; size and the padding of cells in points."""

    family: str
    size: float
    padding: float


def _look(rng: random.Random) -> Look:
    return Look(rng.choice(("Helvetica", "Times", "Courier")), rng.choice((8, 9, 10)), rng.choice((2, 3, 5)))


def _blank(look: Look) -> FPDF:
    pdf = FPDF(unit="pt", format="A4")
    pdf.set_auto_page_break(auto=False)
    pdf.set_margins(40, 40)
    pdf.c_margin = 0
    pdf.add_page()
    pdf.set_font(look.family, size=look.size)
    return pdf


def _write(pdf: FPDF, lines: list[str], text: str, *, size: float = 10, bold: bool = False) -> None:
    pdf.set_font(style="B" if bold else "", size=size)
    pdf.cell(0, 1.3 * size, text, new_x="LMARGIN", new_y="NEXT")
    lines.append(text)


def _pair(pdf: FPDF, lines: list[str], name: str, value: str) -> None:
    pdf.set_font(style="", size=10)
    pdf.cell(110, 14, name)
    pdf.cell(200, 14, value, new_x="LMARGIN", new_y="NEXT")
    lines += [name, value]


def _money(cents: int) -> str:
    return f"{cents / 100:,.2f}"
