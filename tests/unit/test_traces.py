"""Recorded traffic: the three formats, scaling that keeps wall time, and files that are wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from benchmarks.traffic.traces import Trace, load_trace
from serve.errors import ConfigError

AZURE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "azure_llm_2023_conv.csv"
AZURE_HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURSTGPT_HEAD = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "trace"
    path.write_text(text, encoding="utf-8")
    return path


def test_azure_2023(tmp_path: Path) -> None:
    rows = (
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:51.2224670,879,55\n"
    )
    trace = load_trace(written(tmp_path, AZURE_HEAD + rows))
    assert trace.times_s == pytest.approx([0.0, 4.314579, 4.541877], abs=1e-6)
    assert trace.prompt_tokens.tolist() == [374, 396, 879]
    assert trace.output_tokens.tolist() == [44, 109, 55]
    assert trace.prompt_tokens.dtype == np.int32


def test_azure_2024_has_a_time_zone(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:00.009930+00:00,2162,5\n2024-05-10 00:00:01.009930+00:00,2399,6\n"
    trace = load_trace(written(tmp_path, AZURE_HEAD + rows))
    assert trace.times_s == pytest.approx([0.0, 1.0])


def test_dates_as_far_apart_as_they_may_be(tmp_path: Path) -> None:
    rows = "2261-12-31 23:59:59.999999,1,2\n1970-01-01 00:00:00,3,4\n"
    trace = load_trace(written(tmp_path, AZURE_HEAD + rows))
    assert trace.times_s == pytest.approx([0.0, 292 * 365.2425 * 86_400], rel=1e-5)
    assert trace.prompt_tokens.tolist() == [3, 1]


def test_a_header_may_have_spaces_and_quotes(tmp_path: Path) -> None:
    head = 'TIMESTAMP, "ContextTokens", "GeneratedTokens"\n'
    trace = load_trace(written(tmp_path, head + '2023-11-16 18:15:46.68, "374", 44\n'))
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([374], [44])


@pytest.mark.parametrize(
    "text",
    [
        AZURE_HEAD.lower() + "2023-11-16 18:15:46,374,44\n2023-11-16 18:15:47.5000000,1,2\n",
        "\n  \n" + AZURE_HEAD + "\n   \n2023-11-16 18:15:46,374,44\n\n2023-11-16 18:15:47.5,1,2\n\n",
        "\ufeff" + AZURE_HEAD + '"2023-11-16T18:15:46Z","374","44"\r\n2023-11-16 19:45:47.5+01:30,1,2\r\n',
        BURSTGPT_HEAD.upper() + "5,a,374,44,418,x\n   \n6.5,a,1,2,3,x\n",
        '\n \n{"time_s": 1, "prompt_tokens": 374, "output_tokens": 44}\n'
        '{"time_s": 2.5, "prompt_tokens": 1, "output_tokens": 2}',
    ],
    ids=["lower case", "blank lines", "marks and quotes", "upper case", "blank lines before JSON"],
)
def test_how_a_file_is_written_does_not_matter(tmp_path: Path, text: str) -> None:
    trace = load_trace(written(tmp_path, text))
    assert trace.times_s.tolist() == [0.0, 1.5]
    assert (trace.prompt_tokens.tolist(), trace.output_tokens.tolist()) == ([374, 1], [44, 2])


def test_the_line_of_an_error_is_that_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 5: ContextTokens"):
        load_trace(written(tmp_path, "\n" + AZURE_HEAD + "\n2023-11-16 18:15:46,1,2\n2023-11-16 18:15:46,x,2\n"))


def test_a_compressed_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(AZURE_HEAD.encode()))
    with pytest.raises(ConfigError, match="compressed with gzip; unpack it first"):
        load_trace(path)


def test_burstgpt_spreads_whole_seconds(tmp_path: Path) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n5,GPT-4,100,10,110,API log\n7,ChatGPT,1,0,1,Conversation log\n"
    trace = load_trace(written(tmp_path, BURSTGPT_HEAD + rows))
    assert trace.times_s.tolist() == [0.0, 0.5, 2.0]
    assert trace.output_tokens.tolist() == [18, 10, 0]


def test_burstgpt_keeps_times_that_are_finer(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, BURSTGPT_HEAD + "5.25,a,1,1,2,x\n5.5,a,1,1,2,x\n"))
    assert trace.times_s.tolist() == [0.0, 0.25]


def test_jsonl_of_ours_may_be_unsorted_and_without_tokens(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, '{"time_s": 3.5}\n\n{"time_s": 1, "prompt_tokens": 7, "output_tokens": 2}\n'))
    assert trace.times_s.tolist() == [0.0, 2.5]
    assert trace.prompt_tokens.tolist() == [7, 0]


def test_length_is_to_a_mean_gap_after_the_last(tmp_path: Path) -> None:
    trace = load_trace(written(tmp_path, "".join(f'{{"time_s": {n}}}\n' for n in range(10))))
    assert trace.seconds == pytest.approx(10.0)
    assert trace.rate_per_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: is in no known format"),
        ("a,b\n1,2\n", "line 1: is in no known format"),
        ("a;b\n1;2\n", "got 'a;b'"),
        (AZURE_HEAD + "2023-11-16,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "2023-11,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "2023-11-16 18:15:46 CET,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + ",,\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD, "has no request"),
        (AZURE_HEAD + "2023-11-16 18:15:46.68,374,44\nyesterday,1,2\n", "line 3: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "2023-11-16 18:15:46.68,1,2\n0001-01-01 00:00:00,1,2\n", "line 3: TIMESTAMP: must be a date"),
        (AZURE_HEAD + "1969-12-31 23:59:59,1,2\n", "of the years 1970 to 2261, got '1969-12-31 23:59:59'"),
        (
            AZURE_HEAD + "2262-01-01 00:00:00,1,2\n",
            "line 2: TIMESTAMP: must be a date and time of the years 1970 to 2261",
        ),
        (AZURE_HEAD + "292277-01-01 00:00:00,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "20231116,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "today,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "2023-02-30,1,2\n", "line 2: TIMESTAMP: must be a date and time"),
        (AZURE_HEAD + "2023-11-16 18:15:46.68,many,44\n", "line 2: ContextTokens: must be a whole number"),
        (AZURE_HEAD + "2023-11-16 18:15:46.68,374\n", "line 2: GeneratedTokens: is missing"),
        (AZURE_HEAD + '2023-11-16 18:15:46.68,"374,44\n' + "x" * 200_000, "line 3: is no CSV: field larger"),
        (AZURE_HEAD + "2023-11-16 18:15:46.68,374,-4\n", "line 2: GeneratedTokens"),
        (BURSTGPT_HEAD + "-5,ChatGPT,472,18,490,x\n", "line 2: Timestamp: must be a number of seconds"),
        (BURSTGPT_HEAD + "5,ChatGPT,4.5,18,490,x\n", "line 2: Request tokens"),
        ('{"time_s": 1}\n{"time_s": "soon"}\n', "line 2: time_s: must be a number of seconds"),
        (
            '{"time_s": 1e10}\n',
            "line 1: time_s: must be a number of seconds, 0 or more and below 1e10, got 10000000000",
        ),
        ('{"time_s": 1}\n{"prompt_tokens": 1}\n', "line 2: has no time_s"),
        ('{"time_s": 1}\n{"time_s": \n', "line 2: is not JSON"),
        ('{"time_s": 1}\n[]\n', "line 2: is not a JSON object"),
        ('{"time_s": 1, "tokens": 4}\n', "line 1: tokens: unknown key"),
        ('{"time_s": 1, "output_tokens": 1e12}\n', "line 1: output_tokens"),
        ('{"time_s": NaN}\n', "line 1: is not JSON"),
    ],
)
def test_a_wrong_file_names_line_and_column(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_trace(written(tmp_path, text))
    assert says in error.value.message
    assert "\n" not in error.value.message


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_trace(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00trace")
    with pytest.raises(ConfigError, match="is not text"):
        load_trace(path)


def burst() -> Trace:
    """A hundred requests in the first second of ten, and one in each of the others."""
    times = np.sort(np.concatenate([np.linspace(0, 0.99, 100), np.arange(1, 10) + 0.5]))
    tokens = np.arange(len(times), dtype=np.int32)
    return Trace(times, tokens, tokens, 10.0)


@pytest.mark.parametrize("rate", [2.0, 10.9, 40.0, 1000.0])
def test_scaling_keeps_wall_time_and_bursts(rate: float) -> None:
    scaled = burst().multiplied(rate / burst().rate_per_s, 3)
    assert scaled.seconds == 10.0
    assert len(scaled) == pytest.approx(10 * rate, abs=4 * np.sqrt(10 * rate) + 1)
    in_burst = float((scaled.times_s < 1.0).mean())
    assert in_burst == pytest.approx(100 / 109, abs=0.15)
    assert (np.diff(scaled.times_s) >= 0).all()
    assert scaled.times_s[-1] < 10.0


def test_scaling_to_its_own_rate_changes_nothing() -> None:
    trace = burst()
    same = trace.multiplied(1.0, 1)
    assert np.array_equal(same.times_s, trace.times_s)
    assert np.array_equal(same.prompt_tokens, trace.prompt_tokens)


def test_copies_lie_between_a_request_and_the_next() -> None:
    trace = burst()
    scaled = trace.multiplied(3.0, 1)
    ends = np.append(trace.times_s[1:], trace.seconds)
    source = scaled.prompt_tokens
    assert (scaled.times_s >= trace.times_s[source]).all()
    assert (scaled.times_s <= ends[source]).all()
    assert np.bincount(source).tolist() == [3] * len(trace)


def test_a_window_longer_than_the_trace_begins_anew() -> None:
    window = burst().window(25.0)
    assert window.seconds == 25.0
    assert len(window) == 109 + 109 + 104
    assert window.prompt_tokens[109] == 0


def test_a_shorter_window_copies_nothing() -> None:
    trace = burst()
    window = trace.window(5.0)
    assert (len(window), window.seconds) == (104, 5.0)
    assert np.shares_memory(window.times_s, trace.times_s)
    assert np.shares_memory(window.output_tokens, trace.output_tokens)


def test_thinning_may_leave_nothing() -> None:
    thinned = burst().multiplied(1e-9, 1)
    assert (len(thinned), len(thinned.prompt_tokens), thinned.seconds) == (0, 0, 10.0)


def test_no_more_than_fits_into_memory_is_made() -> None:
    with pytest.raises(ConfigError, match="109000000 requests; at most 50000000"):
        burst().multiplied(1e6, 1)


def test_the_real_azure_trace() -> None:
    if not AZURE.exists():
        pytest.skip(f"{AZURE} is not here: Azure's public LLM trace of 2023 is beside the repository, not in it")
    trace = load_trace(AZURE)
    assert len(trace) == 19_366
    assert trace.seconds == pytest.approx(3501, abs=30)
    scaled = trace.multiplied(100.0 / trace.rate_per_s, 1)
    minutes = np.arange(0, trace.seconds, 60.0)
    before, after = np.histogram(trace.times_s, minutes)[0], np.histogram(scaled.times_s, minutes)[0]
    assert np.corrcoef(before, after)[0, 1] > 0.99
