"""Which workload is meant, and with what arrivals."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from benchmarks.targets import Goal, Targets, Workload
from benchmarks.traffic.arrivals import Arrivals, Poisson, parse_arrivals
from serve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Subject:
    """What is run.

    Attributes:
        file: with its user.
        workload: its declaration; None for a file of one's own.
        goal: what it must hold on the class of hardware; None where nobody has said.
    """

    name: str
    file: Path
    workload: Workload | None = None
    goal: Goal | None = None


def find(text: str, hardware: str, targets: Targets) -> Subject:
    """A declared workload by its name, or a file of one's own by its path.

    Raises:
        ConfigError: there is neither; nothing is declared for this class of hardware.
    """
    if text.endswith(".py"):
        path = Path(text)
        if not path.is_file():
            raise ConfigError(f"{text}: there is no such file", param="workload")
        return Subject(path.stem, path.resolve())
    workload = targets.workload(text)
    workload.place(hardware)
    spec = importlib.util.find_spec(targets.module(text))
    if spec is None or spec.origin is None:
        raise ConfigError(f"{targets.module(text)}: there is no such module", param="workload")
    return Subject(text, Path(spec.origin), workload, workload.goal(hardware))


def arrivals(subject: Subject, spec: str | None, rate_per_s: float | None) -> Arrivals:
    """The process of a run.

    Without a `spec` it is the workload's own; without a rate, the goal's. A `spec` has its own rate unless
    another is given.

    Raises:
        ConfigError: the spec is wrong, or nothing says what the rate is.
    """
    if rate_per_s is not None and not 0 < rate_per_s <= 1e6:
        raise ConfigError(f"got {rate_per_s:g}; it must be above 0 and at most 1e6 requests a second", param="rate")
    if spec is not None:
        process = parse_arrivals(spec)
        return process if rate_per_s is None else process.scaled(rate_per_s)
    if rate_per_s is None:
        if subject.goal is None:
            raise ConfigError(f"{subject.name} has no target here; give --rate or --arrivals", param="rate")
        rate_per_s = subject.goal.qps
    process = subject.workload.arrivals if subject.workload else Poisson(rate_per_s=rate_per_s)
    return process.scaled(rate_per_s)
