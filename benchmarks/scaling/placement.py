"""Where replicas go on nodes of two kinds: the table of each replica's node and GPU, and what of each GPU is taken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import psutil
from rich.console import Console

from benchmarks.report import Column, Report, this_command
from benchmarks.scaling.files import file, model
from benchmarks.scaling.site import Site, site
from benchmarks.scaling.state import State
from serve.config.budget import problems
from serve.config.cluster import ClusterFile
from serve.config.load import parse
from serve.config.placement_checks import gpu_share

GOAL = (
    "every replica is on the first of its pools with room, no GPU holds more than one, what does not fit is refused by "
    "the check and by the cluster, and after the loss of a node every replica is back on another"
)
_WAIT_S = 120.0
_NODES: Final = {"t4": 2, "a100": 1}
# On two T4s of 16 GB and an A100 node with two of 40 GB, in whatever order they are placed.
MODELS: Final[dict[str, Any]] = {
    "clip": model(4, "t4", replicas=2),
    "florence": model(8, "t4"),
    "llava": model(24, "a100", replicas=2),
    "blip": model(8, "a100", replicas=2),
    "index": model(0, "t4"),
}
# A quarter of a T4, and so of an A100: eight find room on the two A100s, ten do not.
PREFERRING: Final[dict[str, Any]] = {
    "clip": model(4, "t4", replicas=5),
    "assist": model(4, "a100", "t4", replicas=10),
}
NOTHING: Final[dict[str, Any]] = {"index": model(0, "t4")}
"""In between: replicas that go would be in the way of those that come."""
_COLUMNS = (
    Column("step", "step"),
    Column("model", "model"),
    Column("gb", "GB", "g"),
    Column("share", "of a GPU", ".4g"),
    Column("pools", "pools, preferred first"),
    Column("node", "node"),
    Column("gpu", "GPU"),
    Column("replicas", "replicas", "d"),
    Column("held", "of this GPU taken by all", ".4g"),
)


def run(progress: Console) -> Report:
    """Places everything, lets some choose, asks for too much, and takes a node away."""
    report = Report(
        this_command(),
        "Replicas on 2 nodes with a T4 (16 GB) and 1 node with two A100s (40 GB); GPUs are counted, not there",
        GOAL,
        _COLUMNS,
        {"nodes": dict(_NODES), "models": MODELS, "preferring": PREFERRING},
    )
    with site(file(MODELS), _NODES) as nodes:
        progress.print("  all models", highlight=False)
        state = nodes.deployed(file(MODELS), seconds=_WAIT_S)
        add(report, "all", parse(file(MODELS)), state)
        progress.print("  too much", highlight=False)
        _refused(report, nodes)
        progress.print("  a T4 node is killed", highlight=False)
        lost = next(node.id for node in nodes.deployed(file(MODELS), seconds=_WAIT_S).nodes if node.pool == "t4")
        nodes.remove(lost)
        state = nodes.until("recovered", lambda found: lost not in _ids(found) and found.all_run(), seconds=_WAIT_S)
        add(report, "a T4 node killed", parse(file(MODELS)), state)
        progress.print("  a node is added; ten prefer an A100", highlight=False)
        nodes.add("t4")
        nodes.deployed(file(NOTHING), seconds=_WAIT_S)
        state = nodes.deployed(file(PREFERRING), seconds=_WAIT_S)
        add(report, "preference", parse(file(PREFERRING)), state, {"assist": ["a100"] * 8 + ["t4"] * 2})
    return report


def _ids(state: State) -> set[str]:
    return {node.id for node in state.nodes}


def add(
    report: Report,
    step: str,
    cluster: ClusterFile,
    state: State,
    expected: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Adds a line for each model on each GPU, and misses for what is wrong.

    Args:
        expected: pools of each replica, by model; of those that it does not name any pool of theirs is right.
    """
    names, taken = _names(state), held(cluster, state)
    for name, one in cluster.models.items():
        replicas = state.deployments[name].running
        share = gpu_share(cluster, name) if one.gpu_memory_gb else 0.0
        for (node, gpus), count in sorted(Counter((one.node, one.gpus) for one in replicas).items()):
            report.rows.append(
                {
                    "step": step,
                    "model": name,
                    "gb": one.gpu_memory_gb or None,
                    "share": share or None,
                    "pools": ", ".join(cluster.pools_of(name)),
                    "node": names[node],
                    "gpu": ", ".join(map(str, gpus)) or "-",
                    "replicas": count,
                    "held": taken[node, gpus[0]] if gpus else None,
                }
            )
        pools = sorted(replica.pool for replica in replicas)
        if not set(pools) <= set(cluster.pools_of(name)) or any(len(r.gpus) != bool(share) for r in replicas):
            report.misses.append(f"{step}: {name} is on {pools}, with GPUs {[replica.gpus for replica in replicas]}")
        if expected and pools != sorted(expected.get(name, pools)):
            report.misses.append(f"{step}: {name} is on {pools}; it should be on {expected[name]}")
    report.misses += [f"{step}: GPU {gpu} of {names[node]} holds {taken[node, gpu]:g}" for node, gpu in too_full(taken)]


def held(cluster: ClusterFile, state: State) -> dict[tuple[str, int], float]:
    """What is taken of each GPU, by node and number."""
    found: dict[tuple[str, int], float] = defaultdict(float)
    for name in cluster.models:
        for replica in state.deployments[name].running:
            for gpu in replica.gpus:
                found[replica.node, gpu] += gpu_share(cluster, name)
    return found


def too_full(taken: Mapping[tuple[str, int], float]) -> list[tuple[str, int]]:
    """GPUs of which more than all is taken."""
    return [gpu for gpu, share in taken.items() if share > 1 + 1e-9]


def _names(state: State) -> dict[str, str]:
    """`t4-1` and so on, in the order of the nodes' ids."""
    found: dict[str, str] = {}
    counts: dict[str, int] = defaultdict(int)
    for node in sorted(state.nodes, key=lambda node: node.id):
        counts[node.pool] += 1
        found[node.id] = f"{node.pool}-{counts[node.pool]}" if node.pool else "head"
    return found


def _refused(report: Report, nodes: Site) -> None:
    """The check before, and the running cluster's own word."""
    content = file(MODELS | {"llava": model(24, "a100", replicas=3)})
    found = problems(parse(content))
    before = [one.pid for deployment in nodes.state().deployments.values() for one in deployment.running]
    nodes.deploy(content)
    state = nodes.until("refused", lambda state: state.application == "DEPLOY_FAILED", seconds=_WAIT_S)
    if len(found) != 1 or found[0] not in state.message:
        report.misses.append(f"too much: the check says {found}, the cluster {state.message!r}")
    # Ray Serve lists only what it was asked for last.
    running = sum(pid is not None and psutil.pid_exists(pid) for pid in before)
    if running != len(before):
        report.misses.append(f"too much: of {len(before)} replicas {running} run on")
    report.notes.append(f"LLaVA x 3: refused by the check and by the cluster ({'; '.join(found)}); {running} run on")
