"""Columns and records: put together exactly, kept without loss, and honest about the generator."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.loadtest.columns import GENERATOR_FULL, GENERATOR_LATE, Columns, Recorder, merged, unpack
from benchmarks.loadtest.record import load_record
from benchmarks.loadtest.request import Answer
from benchmarks.loadtest.schedule import schedule
from serve.errors import ConfigError
from tests.unit.load_records import record, recorder, settings


def equal(one: Columns, other: Columns) -> bool:
    pairs = [(getattr(one, name.name), getattr(other, name.name)) for name in fields(Columns)]
    return all(
        left == right if isinstance(left, tuple) else np.array_equal(left, right, equal_nan=left.dtype.kind == "f")
        for left, right in pairs
    )


def names(columns: Columns) -> list[tuple[str, str, str]]:
    """Kind, path and error of each request, by name."""
    return [
        (columns.kinds[kind], columns.paths[path] if path >= 0 else "", columns.errors[error] if error >= 0 else "")
        for kind, path, error in zip(columns.kind, columns.path, columns.error, strict=True)
    ]


def test_packing_loses_nothing() -> None:
    columns = recorder(settings(), fail_every=7).columns()
    assert equal(unpack(columns.pack()), columns)


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(ValueError, match="are not the columns of a load test"):
        unpack(b"PK\x03\x04 something else")


@pytest.mark.parametrize("of", [2, 3])
def test_workers_columns_merge_to_those_of_one(of: int) -> None:
    """Each worker has met the names in an order of its own."""
    chosen = settings("poisson:100")
    whole = recorder(chosen, fail_every=7).columns()
    every = [np.arange(len(whole)) % of == index for index in range(of)]
    parts = []
    for mine in reversed(every):
        part = Recorder(schedule(chosen).part(int(np.flatnonzero(mine)[0]), of))
        for row, number in enumerate(part.part.number):
            source = int(np.flatnonzero(whole.number == number)[0])
            part.rows = row + 1
            part.sent(row, whole.sent_s[source])
            kind, path, error = names(whole)[source]
            if error:
                part.failed(row, whole.ended_s[source], kind, error, "")
            else:
                part.answered(row, whole.ended_s[source], _answer(whole, source, kind, path))
        parts.append(part.columns())
    together = merged(parts)
    assert names(together) == names(whole)
    for name in ("number", "due_s", "sent_s", "ended_s", "first_s", "usd", "tokens", "cached", "escalated"):
        assert np.array_equal(getattr(together, name), getattr(whole, name), equal_nan=name.endswith("_s")), name


def _answer(whole: Columns, row: int, kind: str, path: str) -> Answer:
    first = float(whole.first_s[row])
    return Answer(
        kind,
        path,
        float(whole.usd[row]),
        int(whole.tokens[row]),
        bool(whole.cached[row]),
        None if np.isnan(first) else first,
        bool(whole.escalated[row]),
    )


def test_names_are_bounded() -> None:
    chosen = settings("constant:100", seconds=20.0, warm_up_s=0.0)
    filled = Recorder(schedule(chosen))
    for row in range(len(filled.part)):
        filled.rows = row + 1
        filled.failed(row, 1.0, "ask", f"error {row}", "")
    columns = filled.columns()
    assert len(columns) == 2000
    assert len(columns.errors) == 501
    assert columns.errors[-1] == "other"


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    made = record(fail_every=5)
    made.save(tmp_path / "deep" / "record.json")
    read = load_record(tmp_path / "deep" / "record.json")
    assert read == made
    assert equal(read.columns(), made.columns())


def test_the_outcome_is_that_of_the_measured_part() -> None:
    summary = record(fail_every=20).outcome().summary()
    assert summary.requests == 1000
    assert summary.failed_share == pytest.approx(0.05)
    assert summary.done_per_s == pytest.approx(95.0)
    assert summary.p50_s == pytest.approx(0.05)
    assert summary.p99_s == pytest.approx(0.2)
    assert summary.path_share["large"] == pytest.approx(50 / 950)
    assert summary.usd_per_1000 == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "says"), [("", "Invalid JSON"), ('{"kind": "argus-load"}', "settings"), (None, "cannot be read")]
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "record.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load_record(path)


def test_columns_that_are_damaged_are_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record().model_copy(update={"packed": "AAAA"}).save(path)
    with pytest.raises(ConfigError, match="packed: are not the columns"):
        load_record(path)


def test_a_generator_that_kept_up_makes_a_valid_run() -> None:
    assert record(lag_s=0.002).generator.faults == ()


def test_lag_makes_a_run_invalid() -> None:
    (fault,) = record(lag_s=0.02, latency_s=0.05).generator.faults
    assert "the generator sent late: lag P99 20.0 ms, at most 10.0 ms" in fault


def test_lag_counts_beside_the_latency_that_is_measured() -> None:
    """Twenty milliseconds are nothing in a second, and much in fifty."""
    assert record(lag_s=0.02, latency_s=1.0).generator.valid


def test_a_busy_core_makes_a_run_invalid() -> None:
    (fault,) = record(cpu_share=0.97).generator.faults
    assert "97% of its core" in fault


def test_what_could_not_be_sent_makes_a_run_invalid() -> None:
    chosen = settings()
    filled = recorder(chosen)
    filled.failed(500, 5.0, "ask", GENERATOR_FULL, "")
    made = record(chosen, replace(filled.columns(), sent_s=filled.columns().sent_s))
    assert any("1 requests were not sent" in fault for fault in made.generator.faults)


def test_a_run_that_sent_nothing_is_kept_as_well(tmp_path: Path) -> None:
    chosen = settings()
    filled = Recorder(schedule(chosen))
    for row, due in enumerate(filled.part.due_s):
        filled.rows = row + 1
        filled.failed(row, due + 9, "ask", GENERATOR_LATE, "was due 9.0 s ago")
    made = record(chosen, filled.columns())
    made.save(tmp_path / "record.json")
    assert load_record(tmp_path / "record.json").generator.lag_p99_s is None
    assert any("1000 requests were still not sent" in fault for fault in made.generator.faults)


def test_an_interrupted_run_and_a_lost_worker_are_said() -> None:
    assert "ended before its time" in record(interrupted=True).generator.faults[0]
    assert "1 of 1 workers never reported" in record(lost=1).generator.faults[0]


def test_failures_are_counted_by_their_code_within_the_measured_part() -> None:
    errors = record(fail_every=10).errors
    assert errors["overloaded"].count == 100
    assert errors["overloaded"].example.startswith("busy at ")
