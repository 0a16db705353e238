"""What became of each request of a run, as columns: recorded by a worker, put together exactly, kept compressed."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.capacity.outcome import Outcome
from benchmarks.loadtest.request import Answer
from benchmarks.loadtest.schedule import Schedule
from benchmarks.traffic.traces import Float64

# A workload that makes up names for kinds, paths or errors must not fill the memory with them.
_MOST_NAMES = 500
_OTHER = "other"
# Why a request has no answer, in the generator's own words.
UNANSWERED = "unanswered"
GENERATOR_FULL = "generator_full"
GENERATOR_LATE = "generator_late"


@dataclass(frozen=True, slots=True)
class Columns:
    """Requests in the order of their intended times. Times are seconds since the run began.

    Attributes:
        number: see `Schedule`.
        due_s: intended time; latency counts from here.
        sent_s: when the generator did send it; NaN when it never did.
        ended_s: when its answer was checked, or it failed, or it was given up.
        first_s: seconds from sending to the first token; NaN when there is none.
        usd, tokens, cached, escalated: see `Answer`.
        kind, path, error: indices into `kinds`, `paths` and `errors`; -1 for none. No error is a right answer.
    """

    number: npt.NDArray[np.int64]
    due_s: Float64
    sent_s: Float64
    ended_s: Float64
    first_s: npt.NDArray[np.float32]
    usd: Float64
    tokens: npt.NDArray[np.int32]
    cached: npt.NDArray[np.bool_]
    escalated: npt.NDArray[np.bool_]
    kind: npt.NDArray[np.int16]
    path: npt.NDArray[np.int16]
    error: npt.NDArray[np.int16]
    kinds: tuple[str, ...]
    paths: tuple[str, ...]
    errors: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.number)

    @property
    def ok(self) -> npt.NDArray[np.bool_]:
        """Which were answered rightly."""
        return self.error < 0

    @property
    def latency_s(self) -> Float64:
        """From the intended time to the end."""
        return self.ended_s - self.due_s

    @property
    def lag_s(self) -> Float64:
        """How late the generator itself was; NaN for what it did not send."""
        return self.sent_s - self.due_s

    def outcome(self, start_s: float, end_s: float) -> Outcome:
        """As a simulation would have given it; the measured window is `start_s` to `end_s`."""
        return Outcome(
            arrived_s=self.due_s,
            latency_s=self.latency_s,
            ok=self.ok,
            path=self.path,
            paths=self.paths,
            usd=self.usd,
            flow=self.kind,
            flows=self.kinds,
            start_s=start_s,
            end_s=end_s,
        )

    def pack(self) -> bytes:
        """Compressed; nothing is lost."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {one.name: np.asarray(getattr(self, one.name)) for one in fields(self)}
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()


def unpack(data: bytes) -> Columns:
    """What `Columns.pack` gave.

    Raises:
        ValueError: it is something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            values: dict[str, Any] = {one.name: arrays[one.name] for one in fields(Columns)}
    except (KeyError, OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"are not the columns of a load test: {error}") from None
    for name in ("kinds", "paths", "errors"):
        values[name] = tuple(map(str, values[name]))
    return Columns(**values)


def merged(parts: Sequence[Columns]) -> Columns:
    """Those of all workers as one."""
    columns: dict[str, Any] = {}
    for one, many in (("kind", "kinds"), ("path", "paths"), ("error", "errors")):
        names = tuple(dict.fromkeys(name for part in parts for name in getattr(part, many)))
        places = [np.array([names.index(name) for name in getattr(part, many)] + [-1], np.int16) for part in parts]
        columns[many] = names
        columns[one] = np.concatenate([place[getattr(p, one)] for place, p in zip(places, parts, strict=True)])
    for name in (one.name for one in fields(Columns) if one.name not in columns):
        columns[name] = np.concatenate([getattr(part, name) for part in parts])
    order = np.lexsort((columns["number"], columns["due_s"]))
    for name, values in columns.items():
        columns[name] = values if isinstance(values, tuple) else values[order]
    return Columns(**columns)


@dataclass(slots=True)
class Recorder:
    """Columns of one worker while they are filled; its size is that of its part of the schedule.

    Attributes:
        rows: how many have been begun. What is beyond was never due, because the run was ended before.
        examples: the first message of each error.
    """

    part: Schedule
    rows: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    _kinds: dict[str, int] = field(default_factory=dict)
    _paths: dict[str, int] = field(default_factory=dict)
    _errors: dict[str, int] = field(default_factory=dict)
    _floats: npt.NDArray[np.float64] = field(init=False)
    _whole: npt.NDArray[np.int32] = field(init=False)

    def __post_init__(self) -> None:
        size = len(self.part)
        self._floats = np.full((4, size), np.nan)
        self._floats[3] = 0.0
        self._whole = np.zeros((6, size), np.int32)
        self._whole[3:] = -1

    def sent(self, row: int, now: float) -> None:
        """The generator hands a request to its user."""
        self._floats[0, row] = now

    def answered(self, row: int, now: float, answer: Answer) -> None:
        """It ended well.

        Raises:
            ValueError: the answer holds what no answer can.
        """
        _check(answer)
        first = math.nan if answer.first_s is None else answer.first_s
        self._floats[1:, row] = (now, first, answer.usd)
        path = _name(self._paths, answer.path) if answer.path else -1
        kind = _name(self._kinds, answer.kind)
        self._whole[:, row] = (answer.tokens, answer.cached, answer.escalated, kind, path, -1)

    def failed(self, row: int, now: float, kind: str, code: str, message: str) -> None:
        """It ended otherwise."""
        self._floats[1:, row] = (now, math.nan, 0.0)
        self._whole[:, row] = (0, False, False, _name(self._kinds, kind), -1, _name(self._errors, code))
        if len(self.examples) < _MOST_NAMES:
            self.examples.setdefault(code, message[:300])

    def pending(self, row: int) -> bool:
        """Whether it has not ended yet."""
        return bool(np.isnan(self._floats[1, row]))

    def columns(self) -> Columns:
        """All that were begun."""
        rows = slice(0, self.rows)
        sent, ended, first, usd = self._floats[:, rows]
        tokens, cached, escalated, kind, path, error = self._whole[:, rows]
        return Columns(
            number=self.part.number[rows],
            due_s=self.part.due_s[rows],
            sent_s=sent,
            ended_s=ended,
            first_s=first.astype(np.float32),
            usd=usd,
            tokens=tokens,
            cached=cached.astype(np.bool_),
            escalated=escalated.astype(np.bool_),
            kind=kind.astype(np.int16),
            path=path.astype(np.int16),
            error=error.astype(np.int16),
            kinds=tuple(self._kinds),
            paths=tuple(self._paths),
            errors=tuple(self._errors),
        )


def _name(names: dict[str, int], name: str) -> int:
    """Index of a name, which is new or not."""
    if name not in names and len(names) >= _MOST_NAMES:
        name = _OTHER
    return names.setdefault(name, len(names))


def _check(answer: Answer) -> None:
    for name in ("kind", "path"):
        if not isinstance(value := getattr(answer, name), str):
            raise ValueError(f"the answer's {name} is {value!r}; it must be text")
    for name in ("usd", "tokens", "first_s"):
        value = getattr(answer, name)
        if not (isinstance(value, Real) and 0 <= value < math.inf) and not (name == "first_s" and value is None):
            raise ValueError(f"the answer's {name} is {value!r}; it must be a number, at least 0")
