"""PDFs as PDFium opens them: places as shown, text layers that can be trusted, and broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.documents import pdf
from deployments.documents.layout import laid_out
from deployments.documents.messages import Box
from deployments.documents.segments import Word
from serve.errors import InvalidMedia
from tests.support.documents import (
    STYLES,
    Style,
    article,
    blank,
    encrypted,
    filled_form,
    invoice,
    lined_table,
    lines_pdf,
    scanned,
    table,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "document.pdf"


def test_words_stand_where_they_are_shown(file: Path) -> None:
    file.write_bytes(lines_pdf(["first words", "second line"]))
    with pdf.opened(file, 0) as page:
        assert page.size == pytest.approx((595, 842), abs=0.5)
        words = page.words()
    assert [word.text for word in words] == ["first", "words", "second", "line"]
    first = words[0].box
    assert first.left == pytest.approx(40, abs=1)
    assert 38 < first.top < first.bottom < 58
    assert words[2].box.top - first.top == pytest.approx(16, abs=0.5)


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_a_rotated_page_is_measured_as_it_is_shown(file: Path, turn: int) -> None:
    file.write_bytes(lines_pdf(["upright"]))
    with pdf.opened(file, 0) as page:
        (upright,) = page.words()
    file.write_bytes(lines_pdf(["upright"], rotation=turn))
    with pdf.opened(file, 0) as page:
        (turned,) = page.words()
        width, height = page.size
        ink = page.picture(1.0) < 128
    across = turn in (90, 270)
    assert (width > height) == across
    expected = upright.box.width, upright.box.height
    assert (turned.box.width, turned.box.height) == pytest.approx(expected[::-1] if across else expected, abs=0.01)
    # The ink of the page as it is drawn lies in the word's box, and nowhere else.
    left, top, right, bottom = (round(side) for side in turned.box)
    assert ink[top : bottom + 1, left : right + 1].any()
    ink[max(0, top - 1) : bottom + 2, max(0, left - 1) : right + 2] = False
    assert not ink.any()


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_how_the_text_of_a_page_stands(file: Path, turn: int) -> None:
    file.write_bytes(lines_pdf(["some words on a page that is shown turned"], rotation=turn))
    with pdf.opened(file, 0) as page:
        assert page.quarters() == turn // 90


def test_a_hyphen_at_the_end_of_a_line_is_kept(file: Path) -> None:
    file.write_bytes(lines_pdf(["the recon-", "struction of a well-", "known bridge"]))
    with pdf.opened(file, 0) as page:
        lines, _ = laid_out(page.words(), page.rules())
    assert [line.text for line in lines] == ["the recon-", "struction of a well-", "known bridge"]


@pytest.mark.parametrize("drawn", [True, False])
@pytest.mark.parametrize("turn", [0, 90])
def test_what_was_filled_into_a_form_is_read_and_drawn(file: Path, drawn: bool, turn: int) -> None:
    file.write_bytes(filled_form("Ada Lovelace", drawn=drawn, rotation=turn))
    with pdf.opened(file, 0) as page:
        words = {word.text: word.box for word in page.words()}
        assert len(page.rules()) == 1  # the page's own line is still there
        ink = page.picture(1.0) < 128
    assert set(words) == {"Name:", "Ada", "Lovelace"}
    for box in words.values():
        assert ink[round(box.top) : round(box.bottom), round(box.left) : round(box.right)].any()


@pytest.mark.parametrize("seed", range(100, 104))
@pytest.mark.parametrize("style", STYLES)
def test_tables_of_made_documents_are_read_exactly(file: Path, seed: int, style: Style) -> None:
    for made in (invoice(seed, style=style), table(seed, style=style)):
        file.write_bytes(made.pdf)
        with pdf.opened(file, 0) as page:
            _, (found,) = laid_out(page.words(), page.rules())
        assert [list(found.headers), *map(list, found.rows)] == made.tables[0]
        assert found.ruled is (style == "grid")


ITEMS = [
    ["Item", "Qty", "Price"],
    ["Widget", "2", "4.00"],
    ["Gadget with a name", "10", "3.50"],
    ["Total", "", "43.00"],
]


@pytest.mark.parametrize(
    "borders",
    ["ALL", "NONE", "INTERNAL", "MINIMAL", "HORIZONTAL_LINES", "NO_HORIZONTAL_LINES", "SINGLE_TOP_LINE"],
)
def test_a_table_is_read_row_by_row_whichever_lines_are_drawn(file: Path, borders: str) -> None:
    file.write_bytes(lined_table(ITEMS, borders))
    with pdf.opened(file, 0) as page:
        _, (found,) = laid_out(page.words(), page.rules())
    assert [list(found.headers), *map(list, found.rows)] == ITEMS


def test_wrapped_cells_of_a_drawn_table_are_one_row(file: Path) -> None:
    name = "A mug whose name is long enough for two lines of its column, as its remark is"
    rows = [["Item", "Remark", "Price"], [name, name, "4.00"], ["Lamp", "", "3.50"]]
    file.write_bytes(lined_table(rows))
    with pdf.opened(file, 0) as page:
        _, (found,) = laid_out(page.words(), page.rules())
    assert [list(found.headers), *map(list, found.rows)] == rows


@pytest.mark.parametrize("seed", range(100, 104))
def test_made_articles_are_read_in_order(file: Path, seed: int) -> None:
    made = article(seed, pages=2)
    file.write_bytes(made.pdf)
    for index, expected in enumerate(made.pages):
        with pdf.opened(file, index) as page:
            lines, tables = laid_out(page.words(), page.rules())
        assert [line.text for line in lines] == expected
        assert not tables


def test_a_scan_is_mostly_picture(file: Path) -> None:
    file.write_bytes(scanned(lines_pdf(["words"])))
    with pdf.opened(file, 0) as page:
        assert page.image_share() == pytest.approx(1, abs=0.01)
        assert page.words() == []
    file.write_bytes(lines_pdf(["words"]))
    with pdf.opened(file, 0) as page:
        assert page.image_share() == 0


def test_a_layer_without_a_map_to_unicode_cannot_be_read() -> None:
    box = Box(0, 0, 10, 10)
    assert pdf.readable_share([Word("plain", box), Word("Grüße", box), Word("中文", box)]) == 1
    assert pdf.readable_share([Word("\ue000\ue001\ufffd\x03", box)]) == 0
    assert pdf.readable_share([]) == 0


def test_a_large_page_is_drawn_smaller(file: Path) -> None:
    file.write_bytes(lines_pdf(["x"], size=(3000, 1000)))
    with pdf.opened(file, 0) as page:
        assert page.scale(72, 10**9, 10**6) == pytest.approx(1)
        assert page.scale(72, 10**9, 1500) == pytest.approx(0.5, rel=1e-3)
        bounded = page.scale(600, 750_000, 10**6)
        height, width, channels = page.picture(bounded).shape
    assert channels == 3
    assert width * height <= 755_000
    assert width == pytest.approx(3 * height, rel=0.01)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encrypted(), "encrypted_document"),
        (b"%PDF-1.7 nothing else", "invalid_document"),
        (lines_pdf(["a line"])[:400], "invalid_document"),
    ],
)
def test_what_cannot_be_opened_is_refused(file: Path, data: bytes, code: str) -> None:
    file.write_bytes(data)
    with pytest.raises(InvalidMedia) as caught:
        pdf.page_count(file)
    assert caught.value.code == code


def test_a_page_that_is_not_there(file: Path) -> None:
    file.write_bytes(blank(2))
    assert pdf.page_count(file) == 2
    with pytest.raises(InvalidMedia) as caught, pdf.opened(file, 2):
        pass
    assert caught.value.code == "invalid_page"
