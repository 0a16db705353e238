"""The record of all faults: put together of parts, and the one source of the table in docs/survival.md."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.chaos.run import NAMES
from benchmarks.chaos.table import HEAD, PAGE, RECORD, merged, table, with_table


def row(fault: str, failed: int, **more: Any) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "codes": None,
        "retried": 2,
        "lost": 0,
        "stall_s": 1.234,
        "recovery_s": None,
        "misses": [],
    }
    return {"fault": fault, "title": f"the {fault}", "sent": 9, "failed": failed, **figures, **more}


def test_parts_become_one_record_with_the_newest_row_of_each_fault() -> None:
    last, first = NAMES[-1], NAMES[0]
    parts: list[dict[str, Any]] = [
        {"command": "one --json there", "rows": [row(last, 1), row(first, 1)]},
        {"runs": [{"command": "two"}, {"command": "three"}], "rows": [{**row(first, 2), "run": 1}]},
    ]
    record = merged(parts)
    assert [run["command"] for run in record["runs"]] == ["one", "two", "three"]
    assert [(one["fault"], one["failed"], one["run"]) for one in record["rows"]] == [(first, 2, 2), (last, 1, 0)]


def test_a_page_gets_its_table() -> None:
    old = f"before\n\n{table([row('old', 0)])}\nafter\n"
    assert with_table(old, [row("new", 1, misses=["a miss"])]) == (
        f"before\n\n{HEAD}| the new | 9 | 1 |  | 2 | 0 | 1.23 |  | a miss |\n\nafter\n"
    )
    with pytest.raises(ValueError, match="no table"):
        with_table("nothing", [])


def test_the_table_in_the_docs_is_the_record() -> None:
    rows = json.loads(RECORD.read_text(encoding="utf-8"))["rows"]
    page = PAGE.read_text(encoding="utf-8")
    assert with_table(page, rows) == page
    assert {one["fault"] for one in rows} == set(NAMES), "a fault that was never measured"
