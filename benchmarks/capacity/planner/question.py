"""From workloads of `targets.yaml`, or a cluster file and flows, to a problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from benchmarks.capacity.planner.catalogue import Catalogue
from benchmarks.capacity.planner.demand import visits
from benchmarks.capacity.planner.objectives import Objective, objectives_of
from benchmarks.capacity.planner.problem import Problem, Wishes
from benchmarks.capacity.profiles import HardwareClass, HardwareProfile, profile_key
from benchmarks.capacity.scenario import Flow, check_flows
from benchmarks.targets import Place, Targets, Workload
from benchmarks.traffic.arrivals import Arrivals, Poisson
from benchmarks.traffic.replay import Replay
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.errors import ConfigError

_DEMO = "cpu-demo"
_DEFAULT = Objective(quantile=0.999)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is asked, and what of it must hold.

    Attributes:
        rate_per_s: None when nobody has said.
        arrivals: the process, at any rate.
    """

    cluster: ClusterFile
    flows: tuple[Flow, ...]
    rate_per_s: float | None
    arrivals: Arrivals
    objectives: tuple[Objective, ...]
    hardware: str | None


def of_workloads(targets: Targets, names: Sequence[str], hardware: str | None) -> Traffic:
    """The traffic of one or several workloads, each at its goal's rate.

    Args:
        hardware: a place of theirs; by default the first that is not the demo's.

    Raises:
        ConfigError: there is no such workload or place, or two of them define one name differently.
    """
    chosen = [(name, targets.workload(name)) for name in names]
    places = [(name, workload, _place_name(name, workload, hardware)) for name, workload in chosen]
    goals = [workload.goal(place) for _, workload, place in places]
    rates = [None if goal is None else goal.qps for goal in goals]
    if len(places) > 1 and None in rates:
        which = places[rates.index(None)][0]
        raise ConfigError(f"workload {which!r} has no goal, so nothing says its share of the traffic", param="workload")
    total = sum(rate or 0.0 for rate in rates)
    flows: list[Flow] = []
    objectives: list[Objective] = []
    for (name, workload, place), goal, rate in zip(places, goals, rates, strict=True):
        part = 1.0 if len(places) == 1 else (rate or 0.0) / total
        mine = [_flow(name if len(places) > 1 else None, flow, part) for flow in workload.flows(place)]
        flows += mine
        for flow in mine if len(places) > 1 and goal is not None else []:
            objectives += objectives_of(goal, flow.name)  # type: ignore[arg-type]
        if len(places) == 1 and goal is not None:
            objectives += objectives_of(goal)
    content = _merged([(name, workload.place(place)) for name, workload, place in places])
    return Traffic(
        cluster=parse({"name": "-".join(names).replace("_", "-")[:60], **content}, source="targets.yaml"),
        flows=tuple(flows),
        rate_per_s=total or None,
        arrivals=places[0][1].arrivals,
        objectives=tuple(objectives),
        hardware=_DEMO if any(place == _DEMO for _, _, place in places) else None,
    )


def of_cluster(cluster: ClusterFile, flows: Sequence[str], hardware: str | None) -> Traffic:
    """The traffic of flows written out: `ENTRY`, or `name=search,entry=clip,share=0.5`.

    Raises:
        ConfigError: one is written wrongly.
    """
    read = tuple(_read_flow(text) for text in flows)
    return Traffic(cluster, read, None, Poisson(rate_per_s=1), (), hardware)


def problem(
    traffic: Traffic,
    *,
    rate_per_s: float | None,
    arrivals: Arrivals | None,
    slo: Sequence[Objective],
    catalogue: Catalogue,
    profiles: Mapping[HardwareClass, HardwareProfile],
    wishes: Wishes,
) -> Problem:
    """The traffic at a rate, with these objectives in place of its own where any are given.

    A mean says nothing about requests that are refused, so a flow of which nothing else is asked keeps its goal's bound
    on failures, or gets the usual one.

    Raises:
        ConfigError: no rate is known, there is no profile for any node, or a model that writes text is asked for none.
    """
    if arrivals is None and rate_per_s is None and traffic.rate_per_s is None:
        raise ConfigError("no rate is known; give --rate, or --arrivals with one", param="rate")
    process = arrivals or traffic.arrivals
    rate = rate_per_s or (traffic.rate_per_s if arrivals is None or _rateless(arrivals) else None)
    check_flows(traffic.cluster, traffic.flows)
    demo = traffic.hardware == _DEMO
    nodes = {
        name: node for name, node in catalogue.rented(wishes.price).nodes.items() if (node.hardware == _DEMO) == demo
    }
    used = {name: profile for name, profile in profiles.items() if (name == _DEMO) == demo}
    if not nodes or not used:
        raise ConfigError(
            f"{'nodes of the catalogue' if not nodes else 'hardware profiles'}: there are none "
            f"{'of class cpu-demo' if demo else 'besides cpu-demo'}",
            param="hardware",
        )
    check_tokens(traffic.cluster, traffic.flows, used)
    known = {*traffic.cluster.providers, *(name for profile in used.values() for name in profile.providers)}
    if unknown := [name for name in catalogue.apis if name not in known]:
        raise ConfigError(
            f"the catalogue's apis has {unknown[0]!r}; providers are {', '.join(sorted(known)) or 'none'}",
            param="catalogue",
        )
    return Problem(
        cluster=traffic.cluster,
        flows=traffic.flows,
        arrivals=process if rate is None else process.scaled(rate),
        objectives=_with_failures(tuple(slo) or traffic.objectives, traffic),
        catalogue=catalogue.model_copy(update={"nodes": nodes}),
        profiles=used,
        wishes=wishes,
    )


def _rateless(arrivals: Arrivals) -> bool:
    """Whether it is a recording of which nobody said at what rate: only its shape is meant."""
    return isinstance(arrivals, Replay) and arrivals.rate_per_s is None


def _with_failures(asked: tuple[Objective, ...], traffic: Traffic) -> tuple[Objective, ...]:
    counted = {one.flow for one in asked if one.quantile is not None}
    if None in counted:
        return asked
    bare = [flow.name for flow in traffic.flows if flow.name not in counted]
    goals = {one.flow: one for one in traffic.objectives if one.seconds is None}
    usual = goals.get(None, _DEFAULT)
    if len(bare) == len(traffic.flows) and not any(name in goals for name in bare):
        return (*asked, usual)
    return (*asked, *(goals.get(name, usual.model_copy(update={"flow": name})) for name in bare))


def check_tokens(
    cluster: ClusterFile, flows: Sequence[Flow], profiles: Mapping[HardwareClass, HardwareProfile]
) -> None:
    """How much models write is said of each flow that asks them to.

    Raises:
        ConfigError: names the flow of which it is not said.
    """
    for visit in visits(cluster, flows):
        model = cluster.models.get(visit.target)
        if model is None or visit.flow.output_tokens:
            continue
        known = [one for hardware in profiles.values() if (one := hardware.models.get(profile_key(model)))]
        if any(one.generation is not None for one in known):
            raise ConfigError(
                f"flow {visit.flow.name!r} asks {visit.target!r} to write, and says nothing of how much; state "
                "output_tokens=COUNT",
                param="flow",
            )


def _place_name(name: str, workload: Workload, hardware: str | None) -> str:
    if hardware is not None:
        workload.place(hardware)
        return hardware
    found = [place for place in workload.places if place != _DEMO]
    if not found:
        raise ConfigError(f"workload {name!r} has no place but the demo's; give --hardware {_DEMO}", param="hardware")
    return found[0]


def _flow(prefix: str | None, flow: Flow, part: float) -> Flow:
    name = flow.name if prefix is None else f"{prefix}.{flow.name}"
    return flow.model_copy(update={"name": name, "share": flow.share * part})


def _merged(places: Sequence[tuple[str, Place]]) -> dict[str, Any]:
    """One cluster for workloads, by their names: each brings what it needs, and what two bring must be the same."""
    merged: dict[str, Any] = {}
    brought: dict[tuple[str, str], str] = {}
    for workload, place in places:
        for section, content in _pinned(place.content()).items():
            there = merged.setdefault(section, {})
            for key, value in content.items():
                first = brought.setdefault((section, key), workload)
                if key in there and _fixed(section, there[key]) != _fixed(section, value):
                    raise ConfigError(
                        f"workloads {first!r} and {workload!r} define {section}.{key} differently; plan them apart",
                        param="workload",
                    )
                there[key] = value
    return merged


def _pinned(content: dict[str, Any]) -> dict[str, Any]:
    """The same with the pool of each model written out, which only a file with one pool may leave out."""
    if len(content["node_pools"]) != 1:
        return content
    (pool,) = content["node_pools"]
    models = {
        name: {**model, "placement": {**model.get("placement", {}), "pool": pool}}
        for name, model in content["models"].items()
    }
    return {**content, "models": models}


def _fixed(section: str, content: Any) -> Any:
    """What workloads must agree on: all but pools, replicas and budgets, which are what is planned."""
    if section in ("node_pools", "router"):
        return None
    if section != "models":
        return content
    planned = ("autoscaling", "placement", "batching", "gpu_memory_gb")
    return {key: value for key, value in content.items() if key not in planned}


def _read_flow(text: str) -> Flow:
    values: dict[str, Any] = {}
    escalated: dict[str, float] = {}
    try:
        for part in text.split(","):
            key, equals, value = part.partition("=")
            if not equals:
                key, value = "entry", part
            if key.startswith("escalated."):
                escalated[key.removeprefix("escalated.")] = float(value)
            else:
                values[key.strip()] = value.strip()
        values.setdefault("name", values.get("entry"))
        return Flow.model_validate({**values, "escalated": escalated})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "flow"
        raise ConfigError(f"flow {text!r}: {where}: {first['msg'].lower()}", param="flow") from None
    except ValueError:
        raise ConfigError(f"flow {text!r}: a share that is handed on must be a number", param="flow") from None
