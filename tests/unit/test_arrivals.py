"""Arrival processes: their statistics against theory at fixed seeds, reproducibility, and what a spec may say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.traffic.arrivals import Arrivals, Gamma, Mmpp, Poisson, parse_arrivals
from benchmarks.traffic.recordings import loaded
from serve.errors import ConfigError

SPECS = (
    "constant:200",
    "poisson:200",
    "gamma:200,cv=3",
    "gamma:200,cv=0.3",
    "mmpp:low=100,high=800,low_s=2,high_s=0.5",
    "ramp:0,to=400",
    "step:100/200/300",
    "spike:100,peak=600,begin=0.3,share=0.2",
    "diurnal:200,swing=0.9",
    "diurnal:200,period=7",
)
SECONDS = 300.0


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten minutes of bursts, 20 a second in the mean."""
    path = tmp_path_factory.mktemp("traces") / "trace.jsonl"
    times = Gamma(rate_per_s=20, cv=3).times(600, 2)
    path.write_text("".join(f'{{"time_s": {time}}}\n' for time in times))
    return path


@pytest.fixture(params=[*SPECS, "trace:", "trace:,rate=200"])
def process(request: pytest.FixtureRequest, recording: Path) -> Arrivals:
    return parse_arrivals(request.param.replace("trace:", f"trace:{recording}"))


def dispersion(times: np.ndarray, window_s: float, seconds: float) -> float:
    """Variance of the counts in windows over their mean; 1 for Poisson."""
    counts = np.histogram(times, np.arange(0, seconds + window_s / 2, window_s))[0]
    return float(counts.var() / counts.mean())


def whole(process: Arrivals) -> float:
    """A length over which the mean rate is what the process says: whole periods, a whole recording."""
    if process.process == "trace":
        return loaded(process.file).seconds
    return 7.0 if process.process == "diurnal" and process.period_s else SECONDS


def test_times_are_sorted_and_within_the_run(process: Arrivals) -> None:
    times = process.times(SECONDS, 1)
    assert times.dtype == np.float64
    assert times[0] >= 0
    assert times[-1] < SECONDS
    assert (np.diff(times) >= 0).all()


def test_the_mean_rate_is_what_was_asked_for(process: Arrivals) -> None:
    counts = [len(process.times(SECONDS, seed)) for seed in range(20)]
    expected = process.mean_rate(SECONDS) * SECONDS
    error = np.std(counts) / np.sqrt(len(counts)) + 1
    assert abs(np.mean(counts) - expected) < 4 * error


def test_a_seed_gives_the_same_times_and_another_gives_others(process: Arrivals) -> None:
    assert np.array_equal(process.times(20, 5), process.times(20, 5))
    if process.process != "constant" and (process.process != "trace" or process.rate_per_s):
        assert not np.array_equal(process.times(20, 5), process.times(20, 6))


def test_scaling_changes_the_mean_and_keeps_the_shape(process: Arrivals) -> None:
    scaled = process.scaled(50.0)
    assert scaled.mean_rate(whole(process)) == pytest.approx(50.0)
    moments = np.linspace(0, SECONDS, 50, endpoint=False)
    before, after = process.rate_at(moments, SECONDS)[1:], scaled.rate_at(moments, SECONDS)[1:]
    assert after == pytest.approx(before * (after.sum() / before.sum()))


@pytest.mark.parametrize(
    "spec", ["ramp:0,to=10", "step:10/20", "spike:20,peak=100", "mmpp:low=1,high=9,low_s=1,high_s=9"]
)
def test_a_rate_that_a_process_cannot_have_is_named(spec: str) -> None:
    with pytest.raises(
        ConfigError, match=r"at 1e\+06 requests a second: \w+_per_s(\.1)?: .*less than or equal to 1000000"
    ):
        parse_arrivals(spec).scaled(1e6)


def test_steps_may_pause() -> None:
    times = parse_arrivals("step:50/0/50").times(30.0, 1)
    counts = np.histogram(times, [0, 10, 20, 30])[0]
    assert counts[1] == 0 < min(counts[0], counts[2])
    with pytest.raises(ConfigError, match="rates_per_s are all 0"):
        parse_arrivals("step:0/0")


def test_a_minute_of_a_recording_of_months_takes_a_minute_of_it(tmp_path: Path) -> None:
    path = tmp_path / "months.jsonl"
    every_s, days = 600, 61
    path.write_text("".join(f'{{"time_s": {time}}}\n' for time in range(0, days * 86_400, every_s)))
    replay = parse_arrivals(f"trace:{path},rate=100")  # over the two months 500 million
    for times in (replay.times(60.0, 1), replay.times_anywhere(60.0, 2)):
        assert times[-1] < 60
        assert len(times) == pytest.approx(6_000, rel=0.05)
    # What stands for one request lies in the whole of its gap, also where the run ends within it or the recording does.
    counts = np.histogram(replay.times(3 * every_s + 60.0, 3), np.arange(0, 3 * every_s + 61, 60))[0]
    assert counts == pytest.approx(6_000, rel=0.06)
    path.write_text('{"time_s": 0}\n{"time_s": 10}\n')
    loaded.cache_clear()
    counts = np.histogram(parse_arrivals(f"trace:{path},rate=100").times(45.0, 3), np.arange(0, 46, 5))[0]
    assert counts == pytest.approx(500, rel=0.2)


def test_peak_rate_bounds_the_rate(process: Arrivals) -> None:
    rates = process.rate_at(np.linspace(0, SECONDS, 1000, endpoint=False), SECONDS)
    assert rates.max() <= process.peak_rate(SECONDS) + 1e-9


def test_a_trace_has_its_rate_at_its_ends_and_its_peak_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    at = np.concatenate([np.arange(0, 10, 0.1), 4 + np.arange(0, 0.5, 0.01)])
    path.write_text("".join(f'{{"time_s": {time:.3f}}}\n' for time in at))
    process = parse_arrivals(f"trace:{path}")
    assert process.rate_at(np.array([0.0, 0.3, 9.9, 4.4]), 10.0) == pytest.approx([10, 10, 10, 60], abs=1)
    assert process.peak_rate(10.0) == pytest.approx(60, abs=1)
    assert process.rate_at(np.array([0.0, 0.2]), 0.4) == pytest.approx([10, 10])


@pytest.mark.parametrize("spec", ["constant:200", "poisson:200", "gamma:200,cv=3", "diurnal:200,period=7"])
def test_a_longer_run_begins_like_a_shorter_one(spec: str) -> None:
    process = parse_arrivals(spec)
    short, long = process.times(10, 3), process.times(1000, 3)
    assert np.array_equal(short, long[: len(short)])


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(Poisson(rate_per_s=100).times(1000, 7))
    assert stats.kstest(gaps, "expon", args=(0, 1 / 100)).pvalue > 0.01
    assert dispersion(Poisson(rate_per_s=100).times(1000, 7), 0.5, 1000) == pytest.approx(1.0, abs=0.1)


def test_poisson_gaps_are_independent() -> None:
    gaps = np.diff(Poisson(rate_per_s=100).times(1000, 8))
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 4 / np.sqrt(len(gaps))


@pytest.mark.parametrize("cv", [0.25, 1.0, 2.0])
def test_gamma_gaps_have_the_distribution_that_was_asked_for(cv: float) -> None:
    gaps = np.diff(Gamma(rate_per_s=100, cv=cv).times(2000, 11))
    assert stats.kstest(gaps, "gamma", args=(cv**-2, 0, cv**2 / 100)).pvalue > 0.01
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_gamma_may_be_very_bursty() -> None:
    gaps = np.diff(Gamma(rate_per_s=100, cv=5).times(2000, 11))
    assert gaps.std() / gaps.mean() == pytest.approx(5, rel=0.1)


@pytest.mark.parametrize("cv", [0.5, 4.0])
def test_gamma_is_stationary_from_the_first_moment(cv: float) -> None:
    """An ordinary renewal process would have (cv^2 - 1) / 2 requests too many or too few."""
    counts = [len(Gamma(rate_per_s=10, cv=cv).times(1.0, seed)) for seed in range(2000)]
    assert np.mean(counts) == pytest.approx(10, abs=4 * np.std(counts) / np.sqrt(len(counts)))


def test_mmpp_has_the_index_of_dispersion_of_theory() -> None:
    process = Mmpp(low_per_s=50, high_per_s=500, low_s=0.8, high_s=0.2)
    low_s, high_s = process.low_s, process.high_s
    excess = 2 * (450**2) * (low_s * high_s) ** 2
    theory = 1 + excess / ((low_s + high_s) ** 2 * (50 * low_s + 500 * high_s))
    found = [dispersion(process.times(4000, seed), 20.0, 4000) for seed in range(12)]
    assert np.mean(found) == pytest.approx(theory, rel=0.1)


def test_mmpp_begins_in_its_stationary_distribution() -> None:
    process = Mmpp(low_per_s=0, high_per_s=100, low_s=30, high_s=10)
    begins_high = [len(process.times(0.2, seed)) > 0 for seed in range(2000)]
    assert np.mean(begins_high) == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("spec", ["ramp:0,to=400", "step:100/200/300", "spike:100,peak=600", "diurnal:200,swing=0.9"])
def test_a_changing_rate_is_followed(spec: str) -> None:
    """Counts in 30 parts of the run against the integral of the rate, by chi-square."""
    process = parse_arrivals(spec)
    times = process.times(SECONDS, 21)
    fine = (np.arange(30_000) + 0.5) * SECONDS / 30_000
    expected = process.rate_at(fine, SECONDS).reshape(30, -1).mean(axis=1) * SECONDS / 30
    counts = np.histogram(times, np.linspace(0, SECONDS, 31))[0]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert stats.chi2.sf(statistic, 30) > 0.01


def test_constant_is_exact() -> None:
    assert parse_arrivals("constant:4").times(1.0, 0).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_a_process_can_be_given_as_json(process: Arrivals) -> None:
    assert parse_arrivals(process.model_dump_json()) == process


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("uniform:3", "unknown process; there are constant, poisson"),
        ("poisson", "rate_per_s: Field required; poisson takes rate_per_s"),
        ("poisson:-3", "greater than 0"),
        ("poisson:nan", "rate_per_s"),
        ("poisson:3,rate=4", "rate_per_s is given twice"),
        ("trace:", "file: Field required; trace takes file, rate_per_s"),
        ("trace:,rate=4", "file: Field required"),
        ("trace:a.csv,rate=4,rate=5", "rate_per_s is given twice"),
        ("gamma:3,4", "only the first value may stand without a name"),
        ("gamma:3,cw=2", "cw: Extra inputs are not permitted; gamma takes rate_per_s, cv"),
        ("step:3/x", "rates_per_s.1"),
        ("ramp:0,to=0", "from_per_s and to_per_s are both 0"),
        ("spike:1,peak=5,share=0", "share"),
        ('{"process": "poisson"}', "rate_per_s"),
        ("{", "process"),
    ],
)
def test_a_wrong_spec_is_one_clear_line(spec: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_arrivals(spec)
    assert says in error.value.message
    assert "\n" not in error.value.message
    assert error.value.param == "arrivals"


def test_more_requests_than_fit_into_memory_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 50000000 requests"):
        parse_arrivals("poisson:1e6").times(3600, 1)


def test_a_trace_is_replayed_at_another_rate_with_its_tokens(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [f'{{"time_s": {second}, "prompt_tokens": {10 + second}, "output_tokens": 5}}' for second in range(100)]
    path.write_text("\n".join(lines))
    process = parse_arrivals(f"trace:{path},rate=20")
    times = process.times(50, 3)
    tokens = process.tokens(50, 3)
    assert tokens is not None
    assert process.mean_rate(50) == pytest.approx(20)
    assert len(times) == len(tokens[0]) == 1000
    assert np.array_equal(tokens[0], 10 + np.floor(times).astype(int))


@pytest.mark.parametrize("name", ["a=b.jsonl", "a,b.jsonl", "day=3,hour=4,x.jsonl", "rates=3", "file=", "a:b {}.jsonl"])
@pytest.mark.parametrize("more", ["", ",rate=20", ", rate_per_s=20"])
def test_a_path_may_hold_any_character(tmp_path: Path, name: str, more: str) -> None:
    path = tmp_path / name
    path.write_text('{"time_s": 0}\n{"time_s": 1}\n')
    process = parse_arrivals(f"trace:{path}{more}")
    assert process.process == "trace"
    assert process.file == path
    assert process.mean_rate(2) == pytest.approx(20 if more else 1)
    assert parse_arrivals(f"trace:file={path}{more}") == process


def test_a_path_that_looks_like_a_rate_is_given_as_json(tmp_path: Path) -> None:
    path = tmp_path / "a,rate=b.jsonl"
    path.write_text('{"time_s": 0}\n')
    with pytest.raises(ConfigError, match=r"rate_per_s: .*; .*as JSON"):
        parse_arrivals(f"trace:{path}")
    process = parse_arrivals(json.dumps({"process": "trace", "file": str(path)}))
    assert len(process.times(1, 1)) == 1


def test_a_trace_without_tokens_has_none(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text('{"time_s": 0}\n{"time_s": 1}\n')
    assert parse_arrivals(f"trace:{path}").tokens(2, 1) is None


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half an hour: two a second for ten minutes, then eight."""
    path = tmp_path_factory.mktemp("uneven") / "trace.jsonl"
    times = [*np.arange(0, 600, 0.5), *np.arange(600, 1800, 0.125)]
    path.write_text("".join(f'{{"time_s": {time}}}\n' for time in times))
    return path


def test_runs_that_stand_for_any_time_of_a_recording_are_spread_over_it(uneven: Path) -> None:
    replay = parse_arrivals(f"trace:{uneven},rate=60")
    assert replay.mean_rate(100) == pytest.approx(20, rel=0.01)  # its beginning is a third of its mean
    assert replay.long_rate(100) == 60
    assert replay.scaled(90).long_rate(100) == 90
    rates = [len(replay.times_anywhere(100, seed)) / 100 for seed in range(20)]
    assert np.mean(rates) == pytest.approx(60, rel=0.1)
    assert min(rates) == pytest.approx(20, rel=0.1) and max(rates) == pytest.approx(80, rel=0.1)
    assert replay.long_peak(100) == pytest.approx(80, rel=0.1)
    for seed in range(3):
        times = replay.times_anywhere(100, seed)
        assert times[0] >= 0 and times[-1] < 100 and (np.diff(times) >= 0).all()
    assert parse_arrivals(f"trace:{uneven}").long_rate(100) == pytest.approx(loaded(uneven).rate_per_s)


def test_a_day_that_is_longer_than_a_run_passes_in_it_as_a_whole() -> None:
    day = parse_arrivals("diurnal:100,period=3600,swing=0.8")
    assert day.long_rate(240) == 100
    assert day.scaled(150).long_rate(240) == 150
    times = day.times_anywhere(240, 1)
    assert len(times) / 240 == pytest.approx(100, rel=0.05)
    noon = ((times > 110) & (times < 130)).sum() / 20
    assert noon == pytest.approx(180, rel=0.1)
    short = parse_arrivals("diurnal:100,period=20,swing=0.8")
    np.testing.assert_array_equal(short.times_anywhere(240, 1), short.times(240, 1))


def test_other_processes_are_alike_at_any_time() -> None:
    for spec in ("poisson:50", "gamma:50,cv=2", "mmpp:low=20,high=200,low_s=4,high_s=1"):
        process = parse_arrivals(spec)
        np.testing.assert_array_equal(process.times_anywhere(60, 3), process.times(60, 3))
        assert process.long_rate(60) == process.mean_rate(60)
