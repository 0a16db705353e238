"""Page ranges: what they mean, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.documents.messages import PageRange
from deployments.documents.pages import chosen, parse_pages
from serve.errors import InvalidRequest


@pytest.mark.parametrize(
    ("text", "pages"),
    [
        ("1", [1]),
        ("1-3,5", [1, 2, 3, 5]),
        ("7-", [7, 8, 9]),
        (" 2 - 3 , 9 ", [2, 3, 9]),
        ("5,1-2,1", [1, 2, 5]),
        ("9-9", [9]),
    ],
)
def test_ranges_name_pages_once_in_the_documents_order(text: str, pages: list[int]) -> None:
    assert list(chosen(parse_pages(text), 9, None, 100)) == pages


@pytest.mark.parametrize("text", ["", "0", "a", "3-1", "1,,2", "-3", "1-2-3", "1.5", "1 2", "9999999", "1," * 2000])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_pages(text)
    assert (caught.value.code, caught.value.param) == ("invalid_pages", "pages")


@pytest.mark.parametrize("text", ["4", "2-4", "4-", "1,999999"])
def test_pages_beyond_the_end_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="the document has 3") as caught:
        chosen(parse_pages(text), 3, None, 100)
    assert caught.value.code == "invalid_pages"


def test_too_many_pages_are_refused_unless_fewer_are_wanted() -> None:
    with pytest.raises(InvalidRequest) as caught:
        chosen((), 11, None, 10)
    assert (caught.value.code, caught.value.param) == ("too_many_pages", "pages")
    assert chosen((), 11, 4, 10) == (1, 2, 3, 4)
    assert chosen(((9, None),), 11, 2, 10) == (9, 10)


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 60) | st.none()), max_size=6))
def test_what_is_chosen_lies_in_the_document_and_in_a_range(total: int, drawn: list[tuple[int, int | None]]) -> None:
    ranges: list[PageRange] = [(first, None if extra is None else first + extra) for first, extra in drawn]
    try:
        pages = chosen(ranges, total, None, 1000)
    except InvalidRequest:
        assert any(max(first, last or first) > total for first, last in ranges)
        return
    assert list(pages) == sorted(set(pages))
    assert all(1 <= page <= total for page in pages)
    for page in range(1, total + 1):
        named = not ranges or any(first <= page <= (last or total) for first, last in ranges)
        assert (page in pages) == named


def test_a_file_that_claims_any_number_of_pages_costs_no_more_than_what_is_read() -> None:
    claimed = 10**15  # written out, these would fill any memory
    many = tuple((number, None) for number in range(1, 1001))
    assert chosen(many, claimed, 3, 4) == (1, 2, 3)
    with pytest.raises(InvalidRequest) as caught:
        chosen(many, claimed, None, 4)
    assert caught.value.code == "too_many_pages"
    assert chosen(((5, 7), (2, 3), (6, 9), (4, 4)), 20, None, 10) == (2, 3, 4, 5, 6, 7, 8, 9)
