"""What a chat model must answer about a page or a document: JSON, described to it as a schema and checked by it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments.documents.messages import DocumentType

_DATE = re.compile(r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
Line = Annotated[str, Field(max_length=2000)]


class _Schema(BaseModel):
    # Every key is required and no other allowed, which is what providers' strict modes take.
    model_config = ConfigDict(extra="forbid", frozen=True)


class PageLines(_Schema):
    """The text of a page."""

    lines: list[Line] = Field(max_length=2000, description="Lines of text in reading order.")


class PageTable(_Schema):
    """A table."""

    headers: list[Line] = Field(max_length=100, description="Headings of the columns; empty without any.")
    rows: list[list[Line]] = Field(max_length=2000, description="Cells, row by row; an empty cell is an empty text.")

    @model_validator(mode="after")
    def _rectangular(self) -> PageTable:
        lengths = {len(row) for row in self.rows} | ({len(self.headers)} if self.headers else set())
        if len(lengths) > 1:
            raise ValueError(f"every row must have as many cells as there are headers; there are {sorted(lengths)}")
        return self


class PageTables(_Schema):
    """The tables of a page."""

    tables: list[PageTable] = Field(max_length=100, description="From top to bottom; empty without any.")


class Fact(_Schema):
    """Something stated under a name."""

    name: str = Field(max_length=200)
    value: str = Field(max_length=1000)


class DocumentSummary(_Schema):
    """What a document is about."""

    type: DocumentType = Field(description="Kind of document.")
    title: str | None = Field(max_length=500, description="Its title; null without one.")
    date: str | None = Field(description="Its date as YYYY-MM-DD; null when it states none.")
    summary: str = Field(min_length=1, max_length=5000, description="What it says, in a few sentences.")
    key_facts: list[Fact] = Field(max_length=50, description="Numbers, names and amounts that it states.")

    @field_validator("date")
    @classmethod
    def _iso(cls, date: str | None) -> str | None:
        if date is not None and not _DATE.fullmatch(date):
            raise ValueError("a date is written YYYY-MM-DD")
        return date
