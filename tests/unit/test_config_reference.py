"""The written reference is the one that the code gives, and every profile's keys are in it."""

from __future__ import annotations

from pathlib import Path

from serve.config.reference import markdown


def test_the_reference_is_current() -> None:
    written = Path(__file__).parents[2] / "docs" / "cluster-file.md"
    assert written.read_text(encoding="utf-8") == markdown(), "renew it: argus config reference > docs/cluster-file.md"


def test_no_key_is_without_meaning() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 80 and not [row for row in rows if row.endswith("|  |")]
