"""Reading order and tables from places of words alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.documents.drawn import rules_in
from deployments.documents.layout import laid_out
from deployments.documents.messages import Box
from deployments.documents.rules import Rule, rule
from deployments.documents.segments import Word, segments_of

SIZE = 10.0


def words(text: str, left: float, top: float, *, size: float = SIZE) -> list[Word]:
    """A line of text, its letters half as wide as they are high."""
    placed = []
    for word in text.split():
        width = len(word) * size / 2
        placed.append(Word(word, Box(left, top, left + width, top + size)))
        left += width + size / 4
    return placed


def right(text: str, edge: float, top: float) -> list[Word]:
    """The same ending at `edge`."""
    width = max(word.box.right for word in words(text, 0, top)) if text else 0
    return words(text, edge - width, top)


def read(placed: list[Word], rules: list[Rule] | None = None) -> list[str]:
    shuffled = random.Random(3).sample(placed, len(placed))
    return [line.text for line in laid_out(shuffled, rules or [])[0]]


def grid_rules(xs: list[float], ys: list[float]) -> list[Rule]:
    return [Rule(True, y, xs[0], xs[-1]) for y in ys] + [Rule(False, x, ys[0], ys[-1]) for x in xs]


PROSE = [
    "the quick brown fox runs far",
    "over the lazy dog and then",
    "home to the den for some food",
    "and a good rest",
]


def column(left: float, tops: list[float], name: str) -> tuple[list[Word], list[str]]:
    lines = [f"{name}{i} {PROSE[i % len(PROSE)]}" for i in range(len(tops))]
    return [w for line, top in zip(lines, tops, strict=True) for w in words(line, left, top)], lines


def test_columns_are_read_one_after_the_other_below_a_heading_across_both() -> None:
    tops = [40, 52, 64, 90, 102, 114]  # the gap after the third runs through both columns
    left, left_lines = column(0, tops, "a")
    right_, right_lines = column(220, tops, "b")
    heading = words("A heading that stands across both of the columns below", 20, 0, size=14)
    assert read(left + right_ + heading)[0].startswith("A heading")
    assert read(left + right_ + heading)[1:] == left_lines + right_lines


def test_a_heading_in_the_middle_ends_the_columns_above_it() -> None:
    upper, upper_lines = column(0, [0, 12, 24], "a")
    upper_right, upper_right_lines = column(220, [0, 12, 24], "b")
    lower, lower_lines = column(0, [80, 92, 104], "c")
    lower_right, lower_right_lines = column(220, [80, 92, 104], "d")
    heading = words("A second heading that also stands across both of the columns", 10, 50)
    got = read(upper + upper_right + lower + lower_right + heading)
    expected = [*upper_lines, *upper_right_lines, " ".join(w.text for w in heading), *lower_lines, *lower_right_lines]
    assert got == expected


@pytest.mark.parametrize("under", [10, 12, 14], ids=["overlapping", "touching", "apart"])
@pytest.mark.parametrize("above", [0, 3], ids=["top", "middle"])
def test_columns_may_stand_close_below_and_above_a_heading(above: int, under: float) -> None:
    """The boxes of a font's lines overlap where they are set tightly."""
    tops = [12.0 * i for i in range(above)]
    upper, upper_lines = column(0, tops, "a")
    upper_right, upper_right_lines = column(220, tops, "b")
    start = tops[-1] + under - 4 if tops else 0
    heading = words("A heading across both of the columns of text", 60, start, size=14)
    below = [start + under + 12 * i for i in range(3)]
    lower, lower_lines = column(0, below, "c")
    lower_right, lower_right_lines = column(220, below, "d")
    got = read(upper + upper_right + lower + lower_right + heading)
    expected = [*upper_lines, *upper_right_lines, " ".join(w.text for w in heading), *lower_lines, *lower_right_lines]
    assert got == expected


@pytest.mark.parametrize("columns", [2, 3])
@pytest.mark.parametrize("above", [0, 3], ids=["top", "middle"])
def test_a_heading_in_the_middle_may_be_too_short_to_reach_the_columns(columns: int, above: int) -> None:
    tops = [12.0 * i for i in range(above)]
    start = 50.0 if above else 0.0
    placed: list[Word] = []
    read_above: list[str] = []
    read_below: list[str] = []
    for name, left in zip("abc"[:columns], (0, 160, 320), strict=False):
        upper, lines = column(left, tops, name)
        lower, more = column(left, [start + 20 + 12 * i for i in range(4)], name.upper())
        placed += upper + lower
        read_above += lines
        read_below += more
    right_edge = max(word.box.right for word in placed)
    heading = words("A part", right_edge / 2 - 12, start)
    assert read(placed + heading) == [*read_above, "A part", *read_below]


def test_the_end_of_a_longer_middle_column_is_no_heading() -> None:
    parts = [
        column(x, [12.0 * i for i in range(n)], name) for x, n, name in ((0, 3, "a"), (220, 6, "b"), (440, 3, "c"))
    ]
    assert read([w for placed, _ in parts for w in placed]) == [line for _, lines in parts for line in lines]


def test_tightly_set_lines_with_an_indented_quotation_are_read_from_top_to_bottom() -> None:
    lines = [f"{i} {PROSE[i % 3]} and {PROSE[(i + 1) % 3]}" for i in range(8)]
    placed = [w for i, line in enumerate(lines) for w in words(line, 60 if 3 <= i < 6 else 0, 7.5 * i)]
    assert read(placed) == lines


@pytest.mark.parametrize("longer", [0, 1])
def test_a_column_may_be_longer_than_the_other(longer: int) -> None:
    tops = [[0, 12, 24], [0, 12, 24]]
    tops[longer] = [0, 12, 24, 40, 52, 64]
    left, left_lines = column(0, tops[0], "a")
    right_, right_lines = column(220, tops[1], "b")
    assert read(left + right_) == left_lines + right_lines


def test_lines_of_columns_that_do_not_stand_level() -> None:
    left, left_lines = column(0, [0, 12, 24, 36], "a")
    right_, right_lines = column(220, [5, 17, 29, 41], "b")
    assert read(left + right_) == left_lines + right_lines


def test_three_columns() -> None:
    parts = [column(x, [0, 12, 24, 36], name) for x, name in ((0, "a"), (220, "b"), (440, "c"))]
    assert read([w for placed, _ in parts for w in placed]) == [line for _, lines in parts for line in lines]


def test_names_with_values_are_read_pair_by_pair_and_are_no_table() -> None:
    pairs = [("Number:", "17"), ("Date:", "today"), ("Due:", "tomorrow")]
    placed = [w for i, (name, value) in enumerate(pairs) for w in words(name, 0, 14 * i) + words(value, 120, 14 * i)]
    lines, tables = laid_out(placed, [])
    assert [line.text for line in lines] == [text for pair in pairs for text in pair]
    assert not tables


ROWS = [
    ["Item", "Qty", "Price"],
    ["blue mug", "12", "4.50"],
    ["lamp", "", "89.00"],
    ["cable", "3", ""],
]


def table_words(rows: list[list[str]], pitch: float = 16) -> list[Word]:
    placed: list[Word] = []
    for i, (name, count, price) in enumerate(rows):
        placed += words(name, 5, 5 + pitch * i)
        placed += right(count, 180, 5 + pitch * i) + right(price, 260, 5 + pitch * i)
    return placed


@pytest.mark.parametrize("ruled", [True, False])
def test_a_table_keeps_empty_cells_and_right_aligned_numbers(ruled: bool) -> None:
    rules = grid_rules([0, 120, 190, 270], [0, 18, 34, 50, 66]) if ruled else []
    before = words("Some words that introduce the table below and run on", 0, -40)
    after = words("Some words that come after the table and run on too", 0, 110)
    lines, tables = laid_out(before + table_words(ROWS) + after, rules)
    (found,) = tables
    assert found.headers == tuple(ROWS[0])
    assert found.rows == tuple(map(tuple, ROWS[1:]))
    assert found.ruled is ruled
    assert [(cell.row, cell.column, cell.text) for cell in found.cells] == [
        (r, c, text) for r, row in enumerate(ROWS) for c, text in enumerate(row) if text
    ]
    cell = next(cell for cell in found.cells if cell.text == "blue mug")
    assert cell.box == Box(5, 21, 5 + 20 + 2.5 + 15, 31)
    # Its lines stand between the others, row by row.
    texts = [line.text for line in lines]
    assert texts[0].startswith("Some words that introduce")
    assert texts[1:-1] == [text for row in ROWS for text in row if text]


def test_a_table_whose_first_row_holds_figures_has_no_headers() -> None:
    rows = [["mug", "12", "4.50"], ["lamp", "1", "89.00"], ["cable", "3", "2.00"]]
    (found,) = laid_out(table_words(rows), [])[1]
    assert found.headers == ()
    assert found.rows == tuple(map(tuple, rows))


@pytest.mark.parametrize(
    "heading",
    [["Region", "2021", "2022"], ["Region", "08:00", "09:30"], ["Region", "0-30", "31-60"], ["Region", "5-9", "10+"]],
)
def test_years_times_and_ranges_in_their_order_are_headings(heading: list[str]) -> None:
    rows = [["north", "12", "4.50"], ["south", "1", "89.00"]]
    (found,) = laid_out(table_words([heading, *rows]), [])[1]
    assert found.headers == tuple(heading)
    assert found.rows == tuple(map(tuple, rows))


@pytest.mark.parametrize(
    "rows",
    [
        [["ada", "1990", "1995"], ["bob", "1991", "1999"], ["cy", "2001", "2002"]],  # all of one kind
        [["ada", "1995", "1990"], ["bob", "12", "4.50"], ["cy", "3", "2.00"]],  # not in order
        [["ada", "1990", "5.00"], ["bob", "12", "4.50"], ["cy", "3", "2.00"]],  # one is a figure of another kind
        [["ada", "1990", "x"], ["bob", "12", "y"], ["cy", "3", "z"]],  # one alone is no scale
    ],
)
def test_other_figures_are_no_headings(rows: list[list[str]]) -> None:
    (found,) = laid_out(table_words(rows), [])[1]
    assert found.headers == ()


def table_of(rows: list[list[str]], edges: tuple[float, ...], top: float) -> list[Word]:
    """A name at the left of each row, the other cells ending at the edges."""
    placed: list[Word] = []
    for i, (name, *cells) in enumerate(rows):
        placed += words(name, 5, top + 16 * i)
        for cell, edge in zip(cells, edges, strict=True):
            placed += right(cell, edge, top + 16 * i)
    return placed


def test_a_table_may_be_mostly_empty() -> None:
    rows = [["Day", "Noon", "Late", "Night"]]
    rows += [["mon", "", "4", ""], ["tue", "3", "", ""], ["wed", "", "", "7"], ["thu", "1", "2", "3"]]
    (found,) = laid_out(table_of(rows, (120, 180, 240), 0), [])[1]
    assert found.headers == tuple(rows[0])
    assert found.rows == tuple(map(tuple, rows[1:]))


def test_a_line_whose_spaces_stand_above_the_gaps_is_not_of_the_table() -> None:
    caption = [
        Word(text, Box(left, -12, end, -2)) for text, left, end in (("a", 10, 90), ("b", 96, 200), ("c", 206, 258))
    ]
    text = words("Some words that introduce the table below and run on", 0, -60)
    (found,) = laid_out(text + caption + table_words(ROWS), [])[1]
    assert found.headers == tuple(ROWS[0])


def test_a_wider_table_below_leaves_no_empty_column() -> None:
    above = [["Item", "Qty", "Price"], ["mug", "12", "4.50"], ["lamp", "1", "89.00"], ["cable", "3", "1.00"]]
    below = [["Name", "Qty", "Price", "Sum"], ["nut", "1", "2.00", "2.00"], ["bolt", "3", "1.00", "3.00"]]
    placed = table_of(above, (120, 180), 0) + words("Another one", 5, 75) + table_of(below, (120, 180, 240), 92)
    assert [[list(one.headers), *map(list, one.rows)] for one in laid_out(placed, [])[1]] == [above, below]


@pytest.mark.parametrize("ruled", [True, False])
def test_ruling_lines_tell_tables_beside_each_other_apart(ruled: bool) -> None:
    left = [["Month", "Sales"], ["January", "1,200"], ["May", "980"], ["June", "14"]]
    other = [["Item", "Units"], ["chairs", "34"], ["lamps", "107"], ["mugs", "5"]]
    placed: list[Word] = []
    for x, rows in ((0.0, left), (220.0, other)):
        for i, (name, count) in enumerate(rows):
            placed += words(name, x + 5, 5 + 16 * i) + right(count, x + 150, 5 + 16 * i)
    ends = [(0.0, 155.0), (220.0, 375.0)] if ruled else [(0.0, 375.0)]
    rules = [Rule(True, y, start, end) for y in (0.0, 18.0, 70.0) for start, end in ends]
    tables = laid_out(placed, rules)[1]
    read_ = [[list(found.headers), *map(list, found.rows)] for found in tables]
    assert read_ == ([left, other] if ruled else [[one + two for one, two in zip(left, other, strict=True)]])


def test_usual_names_without_colons_are_no_table_and_an_address_beside_them_is_read_on_its_own() -> None:
    address = ["Miller and Sons", "12 Long Street", "York"]
    pairs = [("Invoice no.", "2026/04"), ("Date", "12 March 2026"), ("Due date", "11 April 2026")]
    placed = [w for i, line in enumerate(address) for w in words(line, 0, 13 * i)]
    placed += [w for i, (name, value) in enumerate(pairs) for w in words(name, 250, 13 * i)]
    placed += [w for i, (name, value) in enumerate(pairs) for w in right(value, 420, 13 * i)]
    lines, tables = laid_out(placed, [])
    assert not tables
    assert [line.text for line in lines] == [*address, *(text for pair in pairs for text in pair)]


def test_totals_are_read_name_by_name() -> None:
    pairs = [("Net amount", "40.80"), ("VAT (19%)", "7.75"), ("Amount due", "EUR 48.55")]
    placed = [w for i, (name, value) in enumerate(pairs) for w in words(name, 0, 16 * i) + right(value, 200, 16 * i)]
    lines, tables = laid_out(placed, [])
    assert not tables
    assert [line.text for line in lines] == [text for pair in pairs for text in pair]


def test_totals_that_stand_closer_than_the_rows_above_are_rows() -> None:
    rows = [["Item", "Qty", "Price"], ["mug", "12", "4.50"], ["lamp", "1", "89.00"]]
    totals = [["", "Net amount", "40.80"], ["", "VAT 19%", "7.75"], ["", "Amount due", "48.55"]]
    placed = table_words(rows, pitch=20)
    for i, (_, name, price) in enumerate(totals):
        placed += words(name, 140, 65 + 14 * i) + right(price, 260, 65 + 14 * i)
    (found,) = laid_out(placed, [])[1]
    assert [list(row) for row in found.rows] == [*rows[1:], *totals]


def test_addresses_beside_each_other_are_read_one_after_the_other() -> None:
    left = ["Bill to", "Miller and Sons", "3 Hill Road", "Leeds"]
    other = ["Ship to", "Miller Warehouse", "9 Dock Lane", "Hull"]
    placed = [
        w for i, (a, b) in enumerate(zip(left, other, strict=True)) for w in words(a, 0, 13 * i) + words(b, 200, 13 * i)
    ]
    lines, tables = laid_out(placed, [])
    assert not tables
    assert [line.text for line in lines] == left + other


def test_words_of_one_line_stay_in_its_row_beside_a_line_that_stands_higher() -> None:
    placed = words("a street", 0, 0) + words("Invoice", 200, 4.9) + words("no.", 238, 5.1)
    assert [s.text for s in segments_of(placed)] == ["a street", "Invoice no."]


def test_wrapped_cells_are_one_row() -> None:
    placed = table_words([["Item", "Qty", "Price"], ["a blue mug", "1", "2.00"]], pitch=18)
    placed += words("with handle", 5, 33)  # close under the mug
    placed += words("lamp", 5, 51) + right("2", 180, 51) + right("3.00", 260, 51)
    (found,) = laid_out(placed, [])[1]
    assert found.rows == (("a blue mug with handle", "1", "2.00"), ("lamp", "2", "3.00"))


def test_merged_cells_of_a_drawn_table_hold_their_text_once() -> None:
    rules = [line for line in grid_rules([0, 100, 200, 300], [0, 20, 40, 60]) if line != Rule(False, 100, 0, 60)]
    rules.append(Rule(False, 100, 20, 60))  # the first two cells of the first row are one
    placed = words("both columns", 60, 5) + words("third", 210, 5)
    for row, top in (("abc", 25), ("def", 45)):
        placed += [w for i, letter in enumerate(row) for w in words(letter, 5 + 100 * i, top)]
    (found,) = laid_out(placed, rules)[1]
    assert found.headers == ("both columns", "", "third")
    assert found.rows == (("a", "b", "c"), ("d", "e", "f"))


def test_a_frame_is_no_table() -> None:
    placed = words("a text in a frame", 10, 10) + words("of two lines", 10, 24)
    assert laid_out(placed, grid_rules([0, 200], [0, 40]))[1] == ()


def test_columns_of_text_are_no_table() -> None:
    left, _ = column(0, [0, 12, 24, 36, 48], "a")
    right_, _ = column(220, [0, 12, 24, 36, 48], "b")
    assert laid_out(left + right_, [])[1] == ()


def test_two_tables_beside_running_text_are_two() -> None:
    below = [Word(w.text, Box(w.box.left, w.box.top + 150, w.box.right, w.box.bottom + 150)) for w in table_words(ROWS)]
    between = words("a line of text that stands between the two of them", 0, 110)
    assert len(laid_out(table_words(ROWS) + between + below, [])[1]) == 2


def test_a_bullet_stays_with_its_item() -> None:
    assert [s.text for s in segments_of(words("•", 0, 0) + words("first item", 18, 0))] == ["• first item"]


def test_nothing_gives_nothing() -> None:
    assert laid_out([], []) == ((), ())


boxes = st.builds(
    lambda x, y, w, h: Box(x, y, x + w, y + h),
    st.floats(0, 600), st.floats(0, 800), st.floats(1, 300), st.floats(4, 40),
)  # fmt: skip


@given(st.lists(boxes, max_size=40), st.lists(st.tuples(boxes, st.booleans()), max_size=12))
def test_every_word_is_read_once_whatever_the_page(placed: list[Box], drawn: list[tuple[Box, bool]]) -> None:
    given_words = [Word(f"w{i}", box) for i, box in enumerate(placed)]
    rules = [
        Rule(True, box.top, box.left, box.right) if across else Rule(False, box.left, box.top, box.bottom)
        for box, across in drawn
    ]
    lines, _ = laid_out(given_words, rules)
    assert sorted(word for line in lines for word in line.text.split()) == sorted(word.text for word in given_words)


def test_rules_in_a_picture() -> None:
    pixels = np.full((300, 400, 3), 255, np.uint8)
    pixels[50:52, 20:380] = 90
    pixels[20:280, 200:203] = 0
    pixels[100:120, 20:50] = 0  # a letter is no line
    found = sorted(rules_in(pixels), key=lambda line: line.horizontal)
    assert [line.horizontal for line in found] == [False, True]
    vertical, horizontal = found
    assert vertical.at == pytest.approx(201.5, abs=1.5)
    assert (vertical.start, vertical.end) == pytest.approx((20, 280), abs=2)
    assert horizontal.at == pytest.approx(51, abs=1.5)
    assert (horizontal.start, horizontal.end) == pytest.approx((20, 380), abs=2)


def test_slanted_and_tiny_strokes_are_no_rules() -> None:
    assert rule((0, 0), (100, 30)) is None
    assert rule((0, 0), (2, 0)) is None
    assert rule((0, 10), (100, 11)) == Rule(True, 10.5, 0, 100)
