"""What Argus is loaded with and what it must hold: the workloads of `targets.yaml`, with goals by class of hardware.

One declaration serves the load generator (`argus load`), the simulator, the planner and the dashboards, so that all of
them speak of the same traffic and the same numbers.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from benchmarks.capacity.profiles import HardwareClass, Record
from benchmarks.capacity.scenario import Flow
from benchmarks.traffic.arrivals import Arrivals
from serve.config.cluster import ClusterFile
from serve.config.load import load_profile, parse
from serve.config.strict_yaml import read_yaml
from serve.errors import ConfigError

Hardware = Literal["cpu-demo", "t4", "a10", "a100", "t4+a100"]
HARDWARE: tuple[Hardware, ...] = get_args(Hardware)
SHIPPED = Path(__file__).with_name("targets.yaml")
#: Where the users are: `benchmarks/workloads/NAME.py` holds one subclass of `benchmarks.loadtest.user.OpenLoopUser`.
USERS = "benchmarks.workloads"
_ROUNDING = 1e-9


class Range(Record):
    """Both ends belong to it."""

    low: float = Field(0.0, ge=0, le=1, description="Least share.")
    high: float = Field(1.0, ge=0, le=1, description="Greatest share.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise ValueError(f"low is {self.low:g}, high is {self.high:g}; low must not exceed high")
        return self


class Goal(Record):
    """What a workload must hold on one class of hardware; what is left out is not judged.

    Latencies are of answered requests, from the intended send time.
    """

    qps: float = Field(
        gt=0, description="Requests offered a second; as many must be answered, less those that may fail."
    )
    mean_ms: float | None = Field(None, gt=0, description="Greatest mean latency, in milliseconds.")
    p50_ms: float | None = Field(None, gt=0, description="Greatest median latency, in milliseconds.")
    p95_ms: float | None = Field(None, gt=0, description="Greatest 95th percentile, in milliseconds.")
    p99_ms: float | None = Field(None, gt=0, description="Greatest 99th percentile, in milliseconds.")
    max_failed_share: float = Field(0.001, ge=0, le=1, description="Greatest share of failed or wrong answers.")
    escalated_share: Range | None = Field(
        None, description="Share of requests answered by another step than their cascade's first one."
    )
    source: str = Field(min_length=1, description="Who says so: `requirements`, or how it was measured or derived.")

    @model_validator(mode="after")
    def _ordered(self) -> Goal:
        given = [one for one in (self.p50_ms, self.p95_ms, self.p99_ms) if one is not None]
        if given != sorted(given):
            raise ValueError(f"percentiles are {given}; they must not fall from p50_ms over p95_ms to p99_ms")
        return self


class Kind(Record):
    """One kind of request of a workload's mix."""

    share: float = Field(gt=0, le=1, description="Of all requests; the shares of a mix add up to 1.")
    protocol: Literal["http", "grpc"] = Field(
        "http", description="How it is sent; a kind that is a workload of its own is sent as that one's kinds are."
    )
    refused: str | None = Field(
        None, description="The error code that is the right answer to it; none where an answer is expected."
    )


class Place(Record):
    """Where a workload runs on one class of hardware: a shipped cluster file, cut down to what the workload needs.

    What is left running without being asked takes memory and, on a small machine, the cores of what is measured.
    """

    profile: str = Field(description="Shipped cluster file.")
    models: tuple[str, ...] = Field(min_length=1, description="Models of it that are kept.")
    cascades: tuple[str, ...] = Field((), description="Cascades of it that are kept.")
    providers: tuple[str, ...] = Field((), description="Providers of it that are kept.")
    stand_ins: tuple[str, ...] = Field(
        (),
        description="Providers for which a run on this machine starts a stand-in; see benchmarks/workloads/serving.py.",
    )
    overlay: dict[str, Any] = Field({}, description="Keys of a cluster file, merged over what was kept.")
    pools: dict[str, HardwareClass] = Field(
        min_length=1,
        description="Class of hardware of each node pool; pools of the file that are not named are left out.",
    )
    flows: tuple[Flow, ...] = Field(
        min_length=1, description="The workload as simulator and planner see it; shares add up to 1."
    )

    @model_validator(mode="after")
    def _whole(self) -> Place:
        _check_shares("flows", {flow.name: flow.share for flow in self.flows})
        return self

    def content(self) -> dict[str, Any]:
        """The cluster file as a mapping without `name` and `server`, for `benchmarks.servers.argus`.

        Raises:
            ConfigErrors: there is no such profile.
            ConfigError: the profile has no model, cascade or provider of a name that is kept.
        """
        whole = load_profile(self.profile, calibrations=False).model_dump(mode="json", exclude_unset=True)
        kept: dict[str, Any] = {key: whole[key] for key in ("router", "url_fetch") if key in whole}
        kept["node_pools"] = {name: pool for name, pool in whole["node_pools"].items() if name in self.pools}
        for section, names in (("models", self.models), ("cascades", self.cascades), ("providers", self.providers)):
            there = whole.get(section, {})
            if missing := [name for name in names if name not in there]:
                raise ConfigError(f"Profile {self.profile!r} has no {section} {', '.join(missing)}", param=section)
            if names:
                kept[section] = {name: there[name] for name in names}
        # Whoever gets it may change it; the overlay stays.
        return _merged(kept, copy.deepcopy(self.overlay))

    def cluster(self) -> ClusterFile:
        """The same, checked, with its calibrations read.

        Raises:
            ConfigErrors: with one line for each problem found.
        """
        return parse({"name": "workload", **self.content()}, source="targets.yaml")


class Workload(Record):
    """One kind of traffic."""

    description: str = Field(min_length=1, description="What the clients do, and what their answers are checked for.")
    user: str | None = Field(None, description=f"Module of {USERS}; by default the workload's name.")
    mix: dict[str, Kind] = Field(min_length=1, description="Kinds of requests by their name.")
    arrivals: Arrivals = Field(description="When requests arrive; scaled to the rate that is asked for.")
    places: dict[Hardware, Place] = Field(min_length=1, description="Where it runs, by class of hardware.")
    goals: dict[Hardware, Goal] = Field(min_length=1, description="What it must hold, by class of hardware.")

    @model_validator(mode="after")
    def _whole(self) -> Workload:
        _check_shares("mix", {name: kind.share for name, kind in self.mix.items()})
        if homeless := self.goals.keys() - self.places.keys():
            raise ValueError(f"goals has {', '.join(sorted(homeless))}, places does not; each goal needs its place")
        return self

    def place(self, hardware: str) -> Place:
        """Where it runs.

        Raises:
            ConfigError: it has no place on this class of hardware.
        """
        for name, place in self.places.items():
            if name == hardware:
                return place
        known = ", ".join(self.places)
        raise ConfigError(f"Nothing is declared for {hardware!r}; it must be one of {known}", param="hardware")

    def flows(self, hardware: str) -> tuple[Flow, ...]:
        """It as simulator and planner see it; see `place`."""
        return self.place(hardware).flows

    def goal(self, hardware: str) -> Goal | None:
        """What it must hold; None where nobody has said."""
        return next((goal for name, goal in self.goals.items() if name == hardware), None)


class Targets(Record):
    """The file."""

    version: Literal[1] = 1
    workloads: dict[str, Workload] = Field(min_length=1)

    @model_validator(mode="after")
    def _importable(self) -> Targets:
        for name, workload in self.workloads.items():
            module = f"{USERS}.{workload.user or name}"
            if not (workload.user or name).isidentifier() or importlib.util.find_spec(module) is None:
                raise ValueError(f"workloads.{name}: there is no module {module}; `user` names one of {USERS}")
        return self

    def module(self, name: str) -> str:
        """Full name of the module that holds a workload's user; see `workload`."""
        return f"{USERS}.{self.workload(name).user or name}"

    def workload(self, name: str) -> Workload:
        """One by its name.

        Raises:
            ConfigError: there is none.
        """
        if name not in self.workloads:
            known = ", ".join(self.workloads)
            raise ConfigError(f"Workload {name!r} does not exist; it must be one of {known}", param="workload")
        return self.workloads[name]


def load_targets(path: Path = SHIPPED) -> Targets:
    """Reads a file.

    Raises:
        ConfigError: it cannot be read, or says something that is not right; names the key and the value.
    """
    try:
        return Targets.model_validate(read_yaml(path, "targets"))
    except ValidationError as error:
        raise ConfigError("; ".join(_problems(path, error)), param="targets") from None


def _problems(path: Path, error: ValidationError) -> Iterator[str]:
    for one in error.errors(include_url=False):
        where = ".".join(map(str, one["loc"])) or "file"
        message = one["msg"].removeprefix("Value error, ")
        yield f"{path}: {where}: got {one['input']!r:.80}; {message[0].lower()}{message[1:]}"


def _check_shares(what: str, shares: Mapping[str, float]) -> None:
    if len(shares) and abs((total := sum(shares.values())) - 1) > _ROUNDING:
        raise ValueError(f"shares of {what} add up to {total:g}; they must add up to 1")


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
