"""The summary without a language model, and dates."""

from __future__ import annotations

import math

import pytest

from deployments.documents.dates import date_in
from deployments.documents.messages import Box, KeyFact, Page, Table, TextLine
from deployments.documents.skew import turning
from deployments.documents.summary import summarise


def page(*texts: str | tuple[str, float], tables: tuple[Table, ...] = ()) -> Page:
    """A line below the other; a pair is a text with its height."""
    lines = []
    for i, given in enumerate(texts):
        text, height = given if isinstance(given, tuple) else (given, 10.0)
        top = 20.0 * i
        quad = ((0.0, top), (300.0, top), (300.0, top + height), (0.0, top + height))
        lines.append(TextLine(text, quad, 1.0, height))
    return Page(1, 595, 842, "point", (1240, 1754), "layer", tuple(lines), tables)


def beside(left: str, right: str) -> Page:
    """Two lines at one height."""
    quads = [((x, 0.0), (x + 90, 0.0), (x + 90, 10.0), (x, 10.0)) for x in (0.0, 120.0)]
    lines = tuple(TextLine(text, quad, 1.0, 10.0) for text, quad in zip((left, right), quads, strict=True))
    return Page(1, 595, 842, "point", (1240, 1754), "layer", lines)


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (("INVOICE", "Bill to Acme", "Amount due 3.00"), "invoice"),
        (("Dear Ms Lopez,", "thank you for your note.", "Kind regards, Jo"), "letter"),
        (("Annual report", "Executive summary", "The findings are below."), "report"),
        (("Receipt", "Subtotal 3.00", "Cash 5.00", "Change 2.00"), "receipt"),
        (("Abstract", "We study", "Introduction", "References"), "article"),
        (("This agreement is made between the parties who hereby agree", "Contract"), "contract"),
        (("Curriculum vitae", "Work experience", "Skills"), "resume"),
        (("nothing that tells", "what this is"), "other"),
        ((), "other"),
    ],
)
def test_the_type_is_told_by_its_words(lines: tuple[str, ...], kind: str) -> None:
    assert summarise([page(*lines)]).type == kind


def test_words_inside_other_words_tell_nothing() -> None:
    assert summarise([page("The reporter performed in formal wear", "contractual invoicelike")]).type == "other"


def test_the_title_is_the_largest_text() -> None:
    found = summarise([page("Acme Ltd", ("Plan of the", 24.0), ("new building", 24.0), "1 May 2024", "text of it")])
    assert found.title == "Plan of the new building"


def test_a_cell_is_no_title() -> None:
    lines = ("Part Count", "Bolt 3", "Nut 4")
    table = Table(("Part", "Count"), (("Bolt", "3"), ("Nut", "4")), box=Box(0.0, 0.0, 300.0, 60.0))
    assert summarise([page(*lines, tables=(table,))]).title is None
    below = Table(table.headers, table.rows, box=Box(0.0, 15.0, 300.0, 90.0))
    assert summarise([page("What is in stock", *lines, tables=(below,))]).title == "What is in stock"


def test_without_a_larger_line_the_first_is_the_title() -> None:
    assert summarise([page("A first line", "a second line")]).title == "A first line"
    assert summarise([page("1,234", "---")]).title is None


def test_key_facts_are_names_with_values() -> None:
    found = summarise(
        [page("Order number: A-17", "Ship via: rail", "a sentence: with more", "TOTAL DUE EUR 12.50", "12:30")]
    )
    assert KeyFact("Order number", "A-17") in found.key_facts
    assert KeyFact("Ship via", "rail") in found.key_facts
    assert KeyFact("TOTAL DUE", "EUR 12.50") in found.key_facts
    assert not any(fact.name == "12" for fact in found.key_facts)


def test_a_value_may_stand_beside_its_name() -> None:
    assert summarise([beside("Invoice number:", "INV-7")]).key_facts == (KeyFact("Invoice number", "INV-7"),)


@pytest.mark.parametrize(
    ("left", "right", "fact"),
    [
        ("Invoice no.", "2026/0417", ("Invoice no.", "2026/0417")),
        ("Due date", "11 April 2026", ("Due date", "11 April 2026")),
        ("To:", "All staff", ("To", "All staff")),
        ("VAT (19%)", "7.75", ("VAT (19%)", "7.75")),
        ("Amount due", "EUR 48.55", ("Amount due", "EUR 48.55")),
        ("Date", "Description", None),  # headings of a table
        ("Blue mug", "12", None),
    ],
)
def test_usual_names_need_no_colon(left: str, right: str, fact: tuple[str, str] | None) -> None:
    expected = (KeyFact(*fact),) if fact else ()
    assert summarise([beside(left, right)]).key_facts == expected


def test_usual_names_may_stand_before_their_value_in_one_line() -> None:
    found = summarise([page("Invoice no. 2026/0417", "Date March 12, 2026", "VAT (19%)", "date the man of 40 years")])
    assert found.key_facts == (KeyFact("Invoice no.", "2026/0417"), KeyFact("Date", "March 12, 2026"))


def letter(*head: str, gap: float = 30.0) -> Page:
    """Lines set closely, the last of them `gap` below the others, then the salutation and a sentence."""
    lines, top = [], 0.0
    for i, text in enumerate((*head, "Dear Mr. Smith,", "we have looked at the pipe in your street.", "Kind regards,")):
        top += gap if i == len(head) - 1 else 12.0
        quad = ((0.0, top), (300.0, top), (300.0, top + 10), (0.0, top + 10))
        lines.append(TextLine(text, quad, 1.0, 10.0))
    return Page(1, 595, 842, "point", (1240, 1754), "layer", tuple(lines))


@pytest.mark.parametrize(
    ("found", "title"),
    [
        (letter("Northern Water Board", "York", "Subject: Repair of the main pipe"), "Repair of the main pipe"),
        (letter("Northern Water Board", "York", "Re: Your claim"), "Your claim"),
        (letter("Northern Water Board", "York", "Repair of the main pipe"), "Repair of the main pipe"),
        (letter("Northern Water Board", "York", "12 March 2026"), None),
        (letter("Northern Water Board", "Long Station Street", gap=12), None),
        (page(("Northern Water Board", 20.0), "Dear Mr. Smith,", "the pipe is closed.", "Kind regards,"), None),
    ],
)
def test_the_title_of_a_letter_is_its_subject(found: Page, title: str | None) -> None:
    got = summarise([found])
    assert (got.type, got.title) == ("letter", title)


@pytest.mark.parametrize(
    ("divided", "whole"),
    [
        (("paid for the recon-", "struction of the bridge"), "paid for the reconstruction of the bridge"),
        (("was a well-", "known landmark of the town"), "was a well-known landmark of the town"),
        (("was done by an English-", "speaking firm in the town"), "was done by an English-speaking firm in the town"),
        (("is a state-of-the-", "art bridge of the town"), "is a state-of-the-art bridge of the town"),
        (("took the sea-", "side road, for the sea was calm"), "took the sea-side road, for the sea was calm"),
        (("found it between 1990-", "1995 in many of the towns"), "found it between 1990- 1995 in many of the towns"),
    ],
)
def test_a_word_divided_between_lines_is_put_together(divided: tuple[str, str], whole: str) -> None:
    first, second = divided
    assert (
        summarise([set_page(("Report", 24.0), f"The council {first}", f"{second}.")]).summary == f"The council {whole}."
    )


def test_a_few_words_of_thanks_do_not_sum_up_a_list() -> None:
    rows = [f"Article number {i} of the list 12.50" for i in range(8)]
    found = summarise([page(("Invoice", 20.0), *rows, ("Thank you for your business with us.", 14.0))])
    assert found.summary.startswith(rows[0])


@pytest.mark.parametrize("degrees", [90.0, 2.0])
def test_values_beside_their_names_are_found_on_a_turned_page(degrees: float) -> None:
    turned = turning(math.radians(degrees), (0.0, 0.0))
    (flat,) = [beside("Invoice no.", "2026/0417")]
    lines = []
    for one in flat.lines:
        assert one.quad is not None
        a, b, c, d = map(turned, ((x * 4, y) for x, y in one.quad))
        lines.append(TextLine(one.text, (a, b, c, d), 1.0, 10.0))
    found = summarise([Page(1, 595, 842, "point", (1240, 1754), "ocr", tuple(lines))])
    assert found.key_facts == (KeyFact("Invoice no.", "2026/0417"),)


def test_the_summary_takes_the_central_sentences_in_their_order() -> None:
    about = [
        "The bridge over the river was closed for repairs in the spring.",
        "Repairs of the bridge took longer because the river was high.",
        "A cat slept on a warm wall and dreamed of seven fishes.",
        "When the river fell, workers finished the repairs of the bridge.",
        "Traffic now crosses the river by the repaired bridge again.",
    ]
    found = summarise([page(*about)]).summary
    assert "cat" not in found
    kept = [sentence for sentence in about if sentence in found]
    assert len(kept) == 3
    assert found == " ".join(kept)


def set_page(*texts: str | tuple[str, float], turned: bool = False) -> Page:
    """Lines set closely below each other, letters half as wide as high; a pair is a text with its height."""
    lines = []
    top = 0.0
    for given in texts:
        text, height = given if isinstance(given, tuple) else (given, 10.0)
        right, bottom = 0.5 * height * len(text), top + height
        corners = [(0.0, top), (right, top), (right, bottom), (0.0, bottom)]
        a, b, c, d = [(900 - y, x) for x, y in corners] if turned else corners
        lines.append(TextLine(text, (a, b, c, d), 1.0, height))
        top = bottom + 2
    return Page(1, 900, 900, "point", (900, 900), "layer", tuple(lines))


BODY = (
    "The crews replaced forty old bridges in the northern valleys",
    "before winter came.",
)
SENTENCE = " ".join(BODY)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    "above",
    [
        "Results of the spring survey",
        ("Results of the great spring survey of the network", 14.0),
        "RESULTS OF THE GREAT SPRING SURVEY OF ALL THE OLD NETWORK",
        "Prepared for: Northwind Supplies and Harbor Lane of Northern Leeds",
        "Number of bridges: 40",
    ],
)
def test_a_heading_or_a_named_value_does_not_run_into_the_next_paragraph(
    above: str | tuple[str, float], turned: bool
) -> None:
    found = summarise([set_page(("Report", 24.0), above, *BODY, turned=turned)])
    assert found.summary == SENTENCE


def test_named_values_and_items_below_a_paragraph_are_not_of_it() -> None:
    found = summarise([set_page(("Report", 24.0), *BODY, "Number of bridges: 40", "- Roads of the towns and villages")])
    assert found.summary == SENTENCE
    assert KeyFact("Number of bridges", "40") in found.key_facts


def test_a_sentence_with_a_colon_may_be_broken_behind_it() -> None:
    text = ("Two things: the crews replaced forty bridges in the valleys and", "the roads of the north were closed.")
    assert summarise([set_page(("Report", 24.0), *text)]).summary == " ".join(text)


def test_a_sentence_goes_on_in_the_next_column() -> None:
    left = set_page("The crews replaced forty old bridges in the", "northern valleys of the country and of its").lines
    first = TextLine("islands before winter came.", ((400, 0), (535, 0), (535, 10), (400, 10)), 1.0, 10.0)
    title = TextLine("Report", ((0, -40), (72, -40), (72, -16), (0, -16)), 1.0, 24.0)
    found = summarise([Page(1, 900, 900, "point", (900, 900), "layer", (title, *left, first))])
    assert found.summary == " ".join(line.text for line in (*left, first))


def test_a_short_line_without_a_place_is_a_heading() -> None:
    lines = tuple(TextLine(text) for text in ("Report", "Results of the survey", *BODY))
    assert summarise([Page(1, 100, 100, "pixel", (100, 100), "model", lines)]).summary == SENTENCE


def test_a_document_without_sentences_is_summed_up_by_its_lines() -> None:
    found = summarise([page(("List", 20.0), "Nuts 12", "Bolts 14")])
    assert found.summary == "Nuts 12; Bolts 14"


def test_a_document_without_text() -> None:
    found = summarise([page()])
    assert (found.type, found.title, found.date, found.summary, found.key_facts) == ("other", None, None, "", ())


def test_lines_without_places_are_summed_up_too() -> None:
    lines = (TextLine("Invoice number: 7"), TextLine("The parts were sent by rail on Monday morning."))
    found = summarise([Page(1, 100, 100, "pixel", (100, 100), "model", lines)])
    assert found.title == "Invoice number: 7"
    assert found.key_facts == (KeyFact("Invoice number", "7"),)
    assert found.summary == "The parts were sent by rail on Monday morning."


@pytest.mark.parametrize(
    ("lines", "date"),
    [
        (["Leeds, 12 March 2024"], "2024-03-12"),
        (["March 5th, 2023"], "2023-03-05"),
        (["the 1st of May 2020"], "2020-05-01"),
        (["on 03-Sep-2021"], "2021-09-03"),
        (["2022-11-30"], "2022-11-30"),
        (["24.12.2021"], "2021-12-24"),
        (["4.3.2021"], "2021-03-04"),
        (["25/12/2021"], "2021-12-25"),
        (["12/25/2021"], "2021-12-25"),
        (["5/5/2021"], "2021-05-05"),
        (["3/4/2021"], None),
        (["31 February 2021", "2021-13-01", "99/99/2021"], None),
        (["Due date: 1 June 2024", "Invoice date: 2 May 2024"], "2024-05-02"),
        (["printed 1 June 2024", "Date:", "2 May 2024"], "2024-05-02"),
        (["maybe 2021", "12 of them", ""], None),
        (["Logged 2024-03-05T14:30", "Logged 2024-03-06T10:00:00Z"], "2024-03-05"),
        (["5 marvellous 2024", "Augusta 12, 2024", "3 Sept. 2024"], "2024-09-03"),
        # Dates of something else stand in for none.
        (["Due date: 2024-04-30", "Date: 2024-03-31T00:00:00"], "2024-03-31"),
        (["Due date: 2024-04-05 Invoice date: 2024-03-05"], "2024-03-05"),
        (["Date of birth: 12 May 1980"], None),
        (["Valid until 31 December 2025"], None),
        (["Valid from 1 January 2024 to 31 December 2025", "Leeds, 12 March 2023"], "2023-03-12"),
        (["the licence of the holder is valid until", "31 December 2025 and ends then"], None),
        (["Payment is due in 30 days", "12 March 2024"], "2024-03-12"),
        # The order of day and month is known from another date, or not at all.
        (["Invoice date: 03/04/2024", "Due date: 04/30/2024"], "2024-03-04"),
        (["Invoice date: 03/04/2024", "Due date: 30/04/2024"], "2024-04-03"),
        (["Invoice date: 03/04/2024", "printed 5 May 2024"], None),
        (["Invoice date: 03/04/2024", "30/04/2024", "04/30/2024"], None),
    ],
)
def test_dates(lines: list[str], date: str | None) -> None:
    assert date_in([[line] for line in lines]) == date


@pytest.mark.parametrize(
    "rows",
    [
        [["Due date", "2024-04-05"], ["Invoice date", "2024-03-05"]],
        [["Due date", "2024-04-05", "Invoice date", "2024-03-05"]],
        [["Due date", "Invoice date"], ["2024-04-05", "2024-03-05"]],
        [["Item", "Due date"], ["Mug", "2024-04-05"], ["Lamp", "2024-04-06"], ["Leeds, 2024-03-05"]],
    ],
)
def test_a_date_may_stand_beside_or_below_its_name(rows: list[list[str]]) -> None:
    assert date_in(rows) == "2024-03-05"
