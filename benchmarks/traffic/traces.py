"""Recorded traffic: when requests came, and how long prompts and answers were.

Three formats are read, told apart by the header, whatever its case; blank lines are none:

* Azure LLM inference traces of 2023 and 2024 (https://github.com/Azure/AzurePublicDataset, CC-BY-4.0):
  `TIMESTAMP,ContextTokens,GeneratedTokens`.
* BurstGPT (https://github.com/HPMLL/BurstGPT, CC-BY-4.0): `Timestamp,Model,Request tokens,Response tokens,...`, with
  times in whole seconds; requests of one second are spread evenly in it.
* Ours: one JSON object a line, `{"time_s": 1.25, "prompt_tokens": 374, "output_tokens": 44}`; tokens are optional.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson

from serve.errors import ConfigError

Float64 = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
T = TypeVar("T")

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_BURSTGPT = ("Timestamp", "Request tokens", "Response tokens")
# Numpy would also take a year, a month or a day, and makes a warning of a time zone.
_MOMENT = re.compile(
    r"(?P<moment>(?P<year>\d{4})-\d\d-\d\d[ T]\d\d:\d\d(?::\d\d(?:\.\d+)?)?)"
    r"(?:Z|(?P<sign>[+-])(?P<hours>\d\d):(?P<minutes>\d\d))?",
    re.ASCII,
)
_MOST_TOKENS = 2**31 - 1
# Nanoseconds of these years, and those between any two of their moments, fit into 64 bits; numpy wraps others silently.
_FIRST_YEAR, _LAST_YEAR = 1970, 2261
# A file with more lines than that is refused rather than read into memory.
MOST_REQUESTS = 50_000_000


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order of their arrival.

    Attributes:
        times_s: since the first one.
        prompt_tokens, output_tokens: 0 where the recording does not say.
        seconds: length of the recording: from the first request to a mean gap after the last.
    """

    times_s: Float64
    prompt_tokens: Int32
    output_tokens: Int32
    seconds: float

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def rate_per_s(self) -> float:
        """Mean over the whole recording."""
        return len(self) / self.seconds

    def multiplied(self, factor: float, seed: int) -> Trace:
        """`factor` times the traffic; wall time, and with it every swell and burst, stays.

        Each request becomes `factor` requests on average: the whole part always, the rest by a draw. Copies
        lie at random places between the request and the next one, so that they make no bursts of their own.

        Raises:
            ConfigError: there would be more than `MOST_REQUESTS`.
        """
        if factor * len(self) > MOST_REQUESTS:
            raise ConfigError(f"{factor * len(self):.0f} requests; at most {MOST_REQUESTS} are scheduled", param="rate")
        draw = np.random.default_rng(seed)
        copies = int(factor) + (draw.random(len(self)) < factor - int(factor))
        source = np.repeat(np.arange(len(self)), copies)
        gaps = np.diff(self.times_s, append=self.seconds)
        first = np.diff(source, prepend=-1) > 0
        places = np.where(first, 0.0, draw.random(len(source)))
        times = self.times_s[source] + places * gaps[source]
        order = np.argsort(times, kind="stable")
        return Trace(times[order], self.prompt_tokens[source][order], self.output_tokens[source][order], self.seconds)

    def begun_at(self, moment_s: float) -> Trace:
        """The same, from a moment of it on; what came before that follows its end."""
        first = int(np.searchsorted(self.times_s, moment_s, side="left"))
        times = np.concatenate((self.times_s[first:] - moment_s, self.times_s[:first] + (self.seconds - moment_s)))
        prompts, outputs = np.roll(self.prompt_tokens, -first), np.roll(self.output_tokens, -first)
        return Trace(times, prompts, outputs, self.seconds)

    def last_before(self, moment_s: float) -> float:
        """When the gap began that a moment within the recording lies in."""
        return float(self.times_s[np.searchsorted(self.times_s, moment_s, side="right") - 1])

    def next_after(self, moment_s: float) -> float:
        """When the gap ends that a moment lies in; see `window` for moments beyond the end."""
        rounds, within = divmod(moment_s, self.seconds)
        place = int(np.searchsorted(self.times_s, within, side="left"))
        return rounds * self.seconds + (float(self.times_s[place]) if place < len(self) else self.seconds)

    def window(self, seconds: float) -> Trace:
        """The first `seconds` of it; a recording that is shorter begins anew when it has ended."""
        if seconds <= self.seconds:
            count = int(np.searchsorted(self.times_s, seconds, side="left"))
            return Trace(self.times_s[:count], self.prompt_tokens[:count], self.output_tokens[:count], seconds)
        rounds = int(np.ceil(seconds / self.seconds))
        if rounds * len(self) > MOST_REQUESTS:
            raise ConfigError(f"{rounds} rounds of the trace; at most {MOST_REQUESTS} requests", param="duration")
        starts = np.repeat(np.arange(rounds) * self.seconds, len(self))
        times = np.tile(self.times_s, rounds) + starts
        count = int(np.searchsorted(times, seconds, side="left"))
        prompts, outputs = np.tile(self.prompt_tokens, rounds), np.tile(self.output_tokens, rounds)
        return Trace(times[:count], prompts[:count], outputs[:count], seconds)


def load_trace(path: Path) -> Trace:
    """Reads a recording.

    Raises:
        ConfigError: it cannot be read, is in no known format, is empty, or has a value that cannot be; the message
            names the line and the column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = next((line for line in file if line.strip()), "")
            file.seek(0)
            times, prompts, outputs = _reader(path, head)(path, file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param="trace") from None
    except UnicodeDecodeError:
        if _gzipped(path):
            raise ConfigError(f"{path}: is compressed with gzip; unpack it first", param="trace") from None
        raise ConfigError(f"{path}: is not text in UTF-8", param="trace") from None
    if not len(times):
        raise ConfigError(f"{path}: has no request", param="trace")
    return _trace(times, prompts, outputs)


def _gzipped(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _trace(times: Float64, prompts: Int32, outputs: Int32) -> Trace:
    order = np.argsort(times, kind="stable")
    since = times[order] - times.min()
    last = float(since[-1])
    seconds = last * len(since) / (len(since) - 1) if last > 0 else 1.0
    return Trace(since, prompts[order], outputs[order], seconds)


Columns = tuple[Float64, Int32, Int32]
Reader = Callable[[Path, Iterator[str]], Columns]


def _reader(path: Path, head: str) -> Reader:
    if head.lstrip().startswith("{"):
        return _read_jsonl
    names = {name.casefold() for name in _header(path, [head])}
    if {name.casefold() for name in _AZURE} <= names:
        return _read_azure
    if {name.casefold() for name in _BURSTGPT} <= names:
        return _read_burstgpt
    raise ConfigError(
        f"{path}: line 1: is in no known format: expected TIMESTAMP,ContextTokens,GeneratedTokens (Azure), "
        f"Timestamp,...,Request tokens,Response tokens (BurstGPT) or JSON with time_s, got {head.strip()!r:.80}",
        param="trace",
    )


def _read_azure(path: Path, lines: Iterator[str]) -> Columns:
    rows = list(_rows(path, lines, _AZURE))
    at = _Place(path, "TIMESTAMP")
    # Ten digits of a fraction would be cut by numpy without a word; the traces have six or seven.
    stamps = np.array([at.value(_stamp, line, cells[0]) for line, cells in rows], dtype="datetime64[ns]")
    times = (stamps - stamps.min()).astype(np.float64) * 1e-9 if len(stamps) else np.empty(0)
    return times, _tokens(path, rows, 1, "ContextTokens"), _tokens(path, rows, 2, "GeneratedTokens")


def _stamp(text: str) -> np.datetime64:
    found = _MOMENT.fullmatch(text.strip())
    if found is None or not _FIRST_YEAR <= int(found["year"]) <= _LAST_YEAR:
        raise ValueError
    ahead = int(found["sign"] + "1") * (60 * int(found["hours"]) + int(found["minutes"])) if found["sign"] else 0
    return np.datetime64(found["moment"], "ns") - np.timedelta64(ahead, "m")


def _read_burstgpt(path: Path, lines: Iterator[str]) -> Columns:
    rows = list(_rows(path, lines, _BURSTGPT))
    at = _Place(path, "Timestamp")
    times = np.array([at.value(_seconds, line, cells[0]) for line, cells in rows], dtype=np.float64)
    prompts, outputs = _tokens(path, rows, 1, "Request tokens"), _tokens(path, rows, 2, "Response tokens")
    return _spread(times), prompts, outputs


def _spread(times: Float64) -> Float64:
    """Times that were cut to whole seconds, evenly in their seconds; others as they are."""
    if np.any(times != np.floor(times)):
        return times
    order = np.argsort(times, kind="stable")
    _, first, counts = np.unique(times[order], return_index=True, return_counts=True)
    rank = np.arange(len(times)) - np.repeat(first, counts)
    spread = np.empty_like(times)
    spread[order] = times[order] + rank / np.repeat(counts, counts)
    return spread


def _read_jsonl(path: Path, lines: Iterator[str]) -> Columns:
    times: list[float] = []
    tokens: tuple[list[int], list[int]] = ([], [])
    names = ("prompt_tokens", "output_tokens")
    for line, text in enumerate(lines, start=1):
        if not text.strip():
            continue
        record = _object(path, line, text)
        if "time_s" not in record:
            raise ConfigError(f"{path}: line {line}: has no time_s", param="trace")
        times.append(_Place(path, "time_s").value(_seconds, line, record["time_s"]))
        for name, column in zip(names, tokens, strict=True):
            column.append(_Place(path, name).value(_count, line, record.get(name, 0)))
        _bounded(path, len(times))
    return np.array(times, np.float64), np.array(tokens[0], np.int32), np.array(tokens[1], np.int32)


def _object(path: Path, line: int, text: str) -> Mapping[str, Any]:
    try:
        record = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"{path}: line {line}: is not JSON: {error.msg}", param="trace") from None
    if not isinstance(record, dict):
        raise ConfigError(f"{path}: line {line}: is not a JSON object", param="trace")
    if unknown := sorted(set(record) - {"time_s", "prompt_tokens", "output_tokens"}):
        raise ConfigError(f"{path}: line {line}: {unknown[0]}: unknown key", param="trace")
    return record


def _rows(path: Path, lines: Iterator[str], names: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the named cells of each line of a CSV with a header."""
    table = _cells(path, lines)
    _, header = next(table)
    known = [name.strip().casefold() for name in header]
    places = [known.index(name.casefold()) for name in names]
    for count, (line, cells) in enumerate(table):
        if len(cells) <= max(places):
            missing = header[len(cells)]
            raise ConfigError(f"{path}: line {line}: {missing}: is missing", param="trace")
        _bounded(path, count)
        yield line, [cells[place] for place in places]


def _header(path: Path, lines: Iterable[str]) -> list[str]:
    """Names of the columns."""
    return [name.strip() for _, cells in islice(_cells(path, lines), 1) for name in cells]


def _cells(path: Path, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of each line of a CSV that is not blank."""
    reader = csv.reader(lines, skipinitialspace=True)
    try:
        for cells in reader:
            if len(cells) > 1 or "".join(cells).strip():
                yield reader.line_num, cells
    except csv.Error as error:
        raise ConfigError(f"{path}: line {reader.line_num}: is no CSV: {error}", param="trace") from None


def _bounded(path: Path, count: int) -> None:
    if count > MOST_REQUESTS:
        raise ConfigError(f"{path}: has more than {MOST_REQUESTS} requests", param="trace")


def _tokens(path: Path, rows: Sequence[tuple[int, list[str]]], cell: int, name: str) -> Int32:
    at = _Place(path, name)
    return np.array([at.value(_count, line, cells[cell]) for line, cells in rows], dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, for the error about it."""

    path: Path
    column: str

    def value(self, read: Callable[[Any], T], line: int, text: object) -> T:
        try:
            return read(text)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f"{self.path}: line {line}: {self.column}: {_EXPECTED[read]}, got {text!r:.60}", param="trace"
            ) from None


def _seconds(value: Any) -> float:
    seconds = float(value)
    if not 0 <= seconds < 1e10 or isinstance(value, bool):
        raise ValueError
    return seconds


def _count(value: Any) -> int:
    # BurstGPT's exports write some counts as 12.0.
    count = float(value)
    if not 0 <= count <= _MOST_TOKENS or count != int(count) or isinstance(value, bool):
        raise ValueError
    return int(count)


_EXPECTED: Mapping[Callable[[Any], Any], str] = {
    _stamp: f"must be a date and time of the years {_FIRST_YEAR} to {_LAST_YEAR}",
    _seconds: "must be a number of seconds, 0 or more and below 1e10",
    _count: "must be a whole number, 0 or more",
}
