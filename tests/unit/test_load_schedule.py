"""The schedule of a run: exact, the same on every machine, and divided among workers without loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.loadtest.schedule import schedule
from benchmarks.loadtest.settings import Settings, checked, parse_seconds, to_arguments
from benchmarks.traffic.arrivals import parse_arrivals
from serve.errors import ConfigError


def settings(spec: str = "poisson:50", **more: object) -> Settings:
    values = {"workload": "w", "host": "http://h", "arrivals": parse_arrivals(spec), "seconds": 20.0, "seed": 3}
    return checked(**{**values, **more})


def test_the_measured_part_is_the_process_itself_moved_by_the_warm_up() -> None:
    drawn = schedule(settings(warm_up_s=5.0))
    measured = drawn.due_s >= 5.0
    assert np.allclose(drawn.due_s[measured] - 5.0, parse_arrivals("poisson:50").times(20.0, 3))


def test_numbers_of_measured_requests_do_not_depend_on_the_warm_up() -> None:
    with_warm_up, without = schedule(settings(warm_up_s=5.0)), schedule(settings(warm_up_s=0.0))
    measured = with_warm_up.due_s >= 5.0
    assert np.array_equal(with_warm_up.number[measured], without.number)
    assert sorted(with_warm_up.number) == list(range(len(with_warm_up)))


@pytest.mark.parametrize("of", [1, 2, 3, 7, 5000])
def test_parts_together_are_the_whole(of: int) -> None:
    whole = schedule(settings())
    parts = [whole.part(index, of) for index in range(of)]
    numbers = np.concatenate([part.number for part in parts])
    due = np.concatenate([part.due_s for part in parts])
    order = np.argsort(due, kind="stable")
    assert np.array_equal(np.sort(numbers), np.sort(whole.number))
    assert np.array_equal(due[order], whole.due_s)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_warm_up_has_the_rate_with_which_the_process_begins() -> None:
    drawn = schedule(settings("ramp:10,to=200", warm_up_s=60.0))
    assert (drawn.due_s < 60).sum() == pytest.approx(600, abs=100)
    assert (schedule(settings("ramp:0,to=200", warm_up_s=60.0)).due_s < 60).sum() == pytest.approx(600, abs=100)


def test_a_trace_gives_its_tokens_to_each_request(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = (f'{{"time_s": {n}, "prompt_tokens": {n + 1}, "output_tokens": {2 * n + 1}}}' for n in range(10))
    path.write_text("\n".join(lines))
    drawn = schedule(settings(f"trace:{path}", warm_up_s=5.0, seconds=10.0))
    measured = drawn.due_s >= 5.0
    assert drawn.prompt_tokens[measured].tolist() == list(range(1, 11))
    assert drawn.output_tokens[measured].tolist() == list(range(1, 20, 2))
    assert (drawn.prompt_tokens[~measured] > 0).all()


def test_settings_survive_locusts_command_line() -> None:
    from argparse import ArgumentParser

    from benchmarks.loadtest.settings import add_arguments, from_options

    given = settings("gamma:50,cv=3", warm_up_s=2.5, grpc="h:1", key_env="KEY", max_in_flight=7)
    parser = ArgumentParser()
    parser.add_argument("--host")
    add_arguments(parser)
    options = parser.parse_args(to_arguments(given))
    assert from_options(options, options.host, "other") == given


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200)])
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "fast", "5d", "-3s", "1m30s", "1e3"])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is no length of time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("key", "value"),
    [("host", "h:80"), ("grpc", "http://h"), ("seconds", 0), ("seconds", 1e9), ("warm_up_s", -1), ("seed", -1)],
)
def test_a_wrong_setting_is_named(key: str, value: object) -> None:
    with pytest.raises(ConfigError) as error:
        settings(**{key: value})
    assert error.value.param == key
    assert key in error.value.message
